"""The entries of a folder, the files and folders that match a pattern, and what a file's name says about its form."""

from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from typing import get_args

import pyarrow.fs as pafs

from raylabel.corpus.config import FORMS, Format, Kind, is_media
from raylabel.errors import InputError

# Folders of Spark and Delta Lake whose parquet files are no rows of the table: unfinished copies, logs, changes.
NO_ROWS = {"_temporary", "_delta_log", "_change_data"}


def form_of(path: str, kind: Kind, more: Collection[str] = ()) -> Format | None:
    """The form of a file in a folder, by its name; None if it is not a sample. `more`: see `Corpus.more`."""
    folder, _, name = path.rpartition("/")
    form = FORMS.get(name.rpartition(".")[2].lower())
    if form == "parquet" and NO_ROWS & set(folder.split("/")):
        return None
    return form or ("files" if is_media(name, kind, more) else None)


def glob(fs: pafs.FileSystem, pattern: str) -> list[pafs.FileInfo]:
    """The files and folders that match, sorted. Folders are listed from the pattern's first part with a wildcard on."""
    parts = pattern.split("/")
    wild = next((i for i, part in enumerate(parts) if set(part) & set("*?[")), len(parts))
    level = [fs.get_file_info("/".join(parts[:wild]) or "/")]
    for part in parts[wild:]:
        folders = [info.path for info in level if info.type == pafs.FileType.Directory]
        listed = [info for folder in folders for info in entries(fs, folder, lambda path: None)]
        level = [i for i in listed if fnmatchcase(i.base_name, part) and not i.base_name.startswith(".")]
    return sorted((i for i in level if i.type != pafs.FileType.NotFound), key=lambda info: info.path)


def entries(fs: pafs.FileSystem, folder: str, unread: Callable[[str], None]) -> list[pafs.FileInfo]:
    """The files and folders in a folder.

    Of a store that has keys like `a//b.jpg`, Arrow lists the folder `a` as a folder in itself, without `b.jpg`, which
    it cannot open. InputError if there is such a key below the folder, unless it has no extension that is read; then
    `unread` is called with it.
    """
    found = fs.get_file_info(pafs.FileSelector(folder))
    others = [info for info in found if info.path.rstrip("/") != folder.rstrip("/")]
    if len(others) < len(found):
        for info in fs.get_file_info(pafs.FileSelector(folder, recursive=True)):
            if info.is_file and "//" in info.path:
                if any(form_of(info.base_name, kind) for kind in get_args(Kind)):
                    raise InputError(
                        f"the object '{info.path}' cannot be read, since its key has an empty part ('//'): rename it"
                    )
                unread(info.path)
    return others
