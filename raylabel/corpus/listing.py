"""Lists the files at a URI: parquet files, tars, and loose files as a stream in the order of their paths."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from operator import itemgetter
from typing import get_args

import pyarrow.fs as pafs

from raylabel.corpus.config import Corpus, Format, Kind, is_media, is_text, locate
from raylabel.corpus.lists import is_list, list_lines
from raylabel.errors import InputError

AHEAD = 32  # folders that are listed ahead of use: listing a folder of an object store takes about 50 ms
FAILURES = (OSError, UnicodeDecodeError)  # errors of a file system while it is listed
HELD = 1 << 18  # names in folders that are listed ahead: above it, no more folders are


@dataclass(frozen=True)
class Packed:
    """A parquet file or a tar."""

    uri: str
    format: Format


@dataclass(frozen=True)
class Loose:
    """The media files of a folder, whose `uri` ends in a slash, or of a list."""

    uri: str
    files: Iterator[tuple[str, int | None]]
    """(path relative to the folder, or line of the list as in SHARDS; bytes, None if not known, -1 if it is not a
    regular file). To be consumed before the next item of `find` is requested."""


def find(corpus: Corpus, uri: str) -> Iterator[Packed | Loose]:
    """The files at `uri`, one of the corpus's URIs. InputError if there are none or they cannot be listed.

    A folder is listed once, incrementally: only one sub-folder at a time is held in memory, and the names in a few
    folders that are listed ahead. The order is that of sorted full paths.
    """
    fs, path, prefix = locate(uri)
    try:
        info = fs.get_file_info(path)
        matches = [info] if info.type != pafs.FileType.NotFound else _glob(fs, path)
        if not matches:
            raise InputError(f"nothing found at '{uri}': give a file, a folder or a pattern that exists")
        for match in matches:
            if match.type == pafs.FileType.Directory:
                yield from _find_in_folder(corpus, fs, match.path, prefix)
            else:
                yield _find_file(corpus, prefix + match.path)
    except FAILURES as error:
        raise InputError(f"cannot list '{uri}': {error}; check the path and its permissions") from error


def mixed(corpus: Corpus, forms: set[Format]) -> InputError:
    what = f"{name(corpus)} mixes forms ({', '.join(sorted(forms))})"
    return InputError(f"{what}: give one form only, or set corpus.format")


def name(corpus: Corpus) -> str:
    """The corpus as messages name it."""
    return "corpus " + ", ".join(f"'{uri}'" for uri in corpus.uri)


def _form(name: str, kind: Kind) -> Format | None:
    """The form of a file in a folder, by its extension; None if it has no extension of this kind of media."""
    extension = name.rpartition(".")[2].lower()
    if extension in ("parquet", "tar"):
        return "parquet" if extension == "parquet" else "webdataset"
    return "files" if is_media(name, kind) else None


def _find_file(corpus: Corpus, location: str) -> Packed | Loose:
    form = corpus.format
    if is_list(location) and form in ("auto", "files"):
        if not location.lower().endswith(".csv"):
            _check_no_columns(corpus, location)
        return Loose(location, ((line, None) for line in list_lines(corpus, location)))
    if form == "parquet" or form == "webdataset":
        return Packed(location, form)
    if (guess := _form(location, corpus.kind)) in ("parquet", "webdataset") and form == "auto":
        return Packed(location, guess)
    hint = "its folder" if guess == "files" else "a *.parquet, an uncompressed *.tar"
    raise InputError(f"cannot read '{location}' with corpus.format '{form}': give {hint} or a *.txt or *.csv list")


def _check_no_columns(corpus: Corpus, location: str) -> None:
    """InputError if the corpus names columns of segments or groups, for a list or folder, which has no columns."""
    if named := [field for field in ("start", "end", "group") if getattr(corpus, field)]:
        raise InputError(f"corpus.{named[0]} names a column, and '{location}' has none: give a *.csv list of the files")


def _find_in_folder(corpus: Corpus, fs: pafs.FileSystem, folder: str, prefix: str) -> Iterator[Packed | Loose]:
    wanted = corpus.format
    found = walk(fs, folder, corpus.kind)
    files = ((path, size) for path, size in found if wanted in ("auto", _form(path, corpus.kind)))
    first = next(files, None)
    if first is None:
        what = f"{corpus.kind}, *.parquet or *.tar file" if wanted == "auto" else f"file of corpus.format '{wanted}'"
        raise InputError(f"nothing found at '{prefix}{folder}': the folder contains no {what}; give another folder")
    form = _form(first[0], corpus.kind)
    assert form is not None

    def of_one_form() -> Iterator[tuple[str, int]]:
        try:
            for path, size in itertools.chain([first], files):
                if (found := _form(path, corpus.kind)) != form and found is not None:
                    raise mixed(corpus, {form, found})
                yield path, size
        except FAILURES as error:  # `find` does not catch it: it is suspended while these files are read
            raise InputError(f"cannot list '{prefix}{folder}': {error}; check the path and its permissions") from error

    if form == "files":
        _check_no_columns(corpus, f"{prefix}{folder}")
        yield Loose(f"{prefix}{folder}/", of_one_form())
    else:
        yield from (Packed(f"{prefix}{folder}/{path}", form) for path, _ in of_one_form())


def _glob(fs: pafs.FileSystem, pattern: str) -> list[pafs.FileInfo]:
    """The files and folders that match, sorted. Folders are listed from the pattern's first part with a wildcard on."""
    parts = pattern.split("/")
    wild = next((i for i, part in enumerate(parts) if set(part) & set("*?[")), len(parts))
    level = [fs.get_file_info("/".join(parts[:wild]) or "/")]
    for part in parts[wild:]:
        folders = [info.path for info in level if info.type == pafs.FileType.Directory]
        listed = [info for folder in folders for info in _entries(fs, folder)]
        level = [i for i in listed if fnmatchcase(i.base_name, part) and not i.base_name.startswith(".")]
    return sorted((i for i in level if i.type != pafs.FileType.NotFound), key=lambda info: info.path)


def _entries(fs: pafs.FileSystem, folder: str) -> list[pafs.FileInfo]:
    """The files and folders in a folder.

    Of a store that has keys like `a//b.jpg`, Arrow lists the folder `a` as a folder in itself, without `b.jpg`, which
    it cannot open. InputError if there is such a key below the folder, unless it has no extension that is read.
    """
    found = fs.get_file_info(pafs.FileSelector(folder))
    others = [info for info in found if info.path.rstrip("/") != folder.rstrip("/")]
    if len(others) < len(found):
        for info in fs.get_file_info(pafs.FileSelector(folder, recursive=True)):
            if info.is_file and "//" in info.path and any(_form(info.base_name, kind) for kind in get_args(Kind)):
                raise InputError(
                    f"the object '{info.path}' cannot be read, since its key has an empty part ('//'): rename it"
                )
    return others


Files = list[tuple[str, int]]  # (path relative to where the walk began, bytes)


@dataclass
class _Folder:
    path: str
    kind: Kind
    below: str  # its path relative to where the walk began, with a slash at the end unless it is empty
    real: str = ""  # its path without symbolic links; only for a local folder, like `above`
    above: frozenset[str] = frozenset()  # `real` of the folder and of the folders that contain it
    names: int = 0  # the number of names in it, once it is listed
    listing: "Future[list[Files | _Folder]] | None" = field(default=None, repr=False)


def walk(fs: pafs.FileSystem, folder: str, kind: Kind) -> Iterator[tuple[str, int]]:
    """(path relative to the folder, bytes) of all media of that kind, *.parquet and *.tar files below the folder, in
    order of their paths.

    Names with a leading dot are skipped: other programs make them (.ipynb_checkpoints, macOS's ._a.jpg). Bytes are -1
    if it is not a regular file. A symbolic link to a folder that contains it is not followed.
    """
    real = os.path.realpath(folder)
    first = _Folder(folder, kind, "", real, frozenset([real]))
    list_folder = _list_local if isinstance(fs, pafs.LocalFileSystem) else partial(_list_store, fs)
    ahead: deque[Files | _Folder] = deque([first])
    pool = ThreadPoolExecutor(AHEAD)
    try:
        while ahead:
            _list_ahead(pool, list_folder, ahead)
            item = ahead.popleft()
            if isinstance(item, _Folder):
                assert item.listing is not None
                ahead.extendleft(reversed(item.listing.result()))
            else:
                yield from item
    finally:
        pool.shutdown(cancel_futures=True)


def _list_ahead(
    pool: ThreadPoolExecutor, list_folder: "Callable[[_Folder], list[Files | _Folder]]", ahead: "deque[Files | _Folder]"
) -> None:
    """Starts to list the next folders; the first one always, the others within HELD and AHEAD."""
    held = 0
    for item in itertools.islice(ahead, 2 * AHEAD):  # there is at most one run of files between two folders
        if isinstance(item, _Folder):
            if item.listing is None:
                if held > HELD:
                    return
                item.listing = pool.submit(list_folder, item)
            held += item.names


def _list_local(folder: _Folder) -> "list[Files | _Folder]":
    # Not Arrow's own walk: it skips broken links, and does not end if a link leads to a parent folder.
    found: list[tuple[str, int | _Folder]] = []
    with os.scandir(folder.path) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            if entry.is_dir():
                real = os.path.realpath(entry.path) if entry.is_symlink() else f"{folder.real.rstrip('/')}/{name}"
                if real not in folder.above:
                    inner = _Folder(entry.path, folder.kind, f"{folder.below}{name}/", real, folder.above | {real})
                    found.append((f"{name}/", inner))
            elif _form(name, folder.kind):
                path = folder.below + name
                if not is_text(path):
                    raise InputError(f"the name of {os.fsencode(entry.path)!r} is not UTF-8: rename the file or folder")
                found.append((name, entry.stat().st_size if entry.is_file() else -1))
    return _in_order(folder, found)


def _list_store(fs: pafs.FileSystem, folder: _Folder) -> "list[Files | _Folder]":
    found: list[tuple[str, int | _Folder]] = []
    for info in _entries(fs, folder.path):
        name = info.base_name
        if name.startswith("."):
            continue
        if info.type == pafs.FileType.Directory:
            found.append((f"{name}/", _Folder(info.path, folder.kind, f"{folder.below}{name}/")))
        elif info.is_file and _form(name, folder.kind):
            found.append((name, info.size))
    return _in_order(folder, found)


def _in_order(folder: _Folder, found: "list[tuple[str, int | _Folder]]") -> "list[Files | _Folder]":
    """Runs of files, and the folders between them, in the order of whole paths: a folder is sorted by its name with a
    slash."""
    found.sort(key=itemgetter(0))
    folder.names = len(found)
    items: list[Files | _Folder] = []
    for is_folder, run in itertools.groupby(found, key=lambda entry: isinstance(entry[1], _Folder)):
        if is_folder:
            items.extend(inner for _, inner in run if isinstance(inner, _Folder))
        else:
            items.append([(folder.below + name, size) for name, size in run if isinstance(size, int)])
    return items
