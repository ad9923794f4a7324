"""Lists the files at a URI: parquet files, tars, and loose files as a stream in the order of their paths."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from operator import itemgetter

import pyarrow.fs as pafs

from raylabel.compute.watchdog import HEARTBEAT_EVERY, heartbeat
from raylabel.corpus.config import Corpus, Format, Kind, is_text, locate
from raylabel.corpus.entries import entries, form_of, glob
from raylabel.corpus.lists import is_list, list_lines
from raylabel.corpus.passed_over import HIDDEN, PassedOver, sentence
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
    files: Iterator[tuple[str, int | None, int | None]]
    """(path relative to the folder, or line of the list as in SHARDS; bytes, -1 if it is not a regular file; when it
    was modified, nanoseconds since 1970); the latter are None if they are not known. To be consumed before the next
    item of `find` is requested."""


def find(corpus: Corpus, uri: str, passed: PassedOver | None = None) -> Iterator[Packed | Loose]:
    """The files at `uri`, one of the corpus's URIs. InputError if there are none or they cannot be listed. Counts in
    `passed` the files of folders that are not samples.

    A folder is listed once, incrementally: only one sub-folder at a time is held in memory, and the names in a few
    folders that are listed ahead. The order is that of sorted full paths.
    """
    fs, path, prefix = locate(uri)
    passed = PassedOver() if passed is None else passed
    try:
        info = fs.get_file_info(path)
        matches = [info] if info.type != pafs.FileType.NotFound else glob(fs, path)
        if not matches:
            raise InputError(f"nothing found at '{uri}': give a file, a folder or a pattern that exists")
        for match in matches:
            if match.type == pafs.FileType.Directory:
                yield from _find_in_folder(corpus, fs, match.path, prefix, passed)
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


def _find_file(corpus: Corpus, location: str) -> Packed | Loose:
    form = corpus.format
    if is_list(location) and form in ("auto", "files"):
        if not location.lower().endswith(".csv"):
            _check_no_columns(corpus, location)
        return Loose(location, ((line, None, None) for line in list_lines(corpus, location)))
    if form == "parquet" or form == "webdataset":
        return Packed(location, form)
    if (guess := form_of(location, corpus.kind)) in ("parquet", "webdataset") and form == "auto":
        return Packed(location, guess)
    hint = "its folder" if guess == "files" else "a *.parquet, an uncompressed *.tar"
    raise InputError(f"cannot read '{location}' with corpus.format '{form}': give {hint} or a *.txt or *.csv list")


def _check_no_columns(corpus: Corpus, location: str) -> None:
    """InputError if the corpus names columns of segments or groups, for a list or folder, which has no columns."""
    if named := [field for field in ("start", "end", "group") if getattr(corpus, field)]:
        raise InputError(f"corpus.{named[0]} names a column, and '{location}' has none: give a *.csv list of the files")


def _find_in_folder(
    corpus: Corpus, fs: pafs.FileSystem, folder: str, prefix: str, passed: PassedOver
) -> Iterator[Packed | Loose]:
    wanted = corpus.format

    def of_format() -> Iterator[tuple[str, int, int, Format | None]]:
        for path, size, modified in walk(fs, folder, corpus.kind, corpus.more, passed, f"{prefix}{folder}/"):
            form = form_of(path, corpus.kind, corpus.more)
            if wanted in ("auto", form):
                yield path, size, modified, form
            else:
                passed.add(f"{prefix}{folder}/{path}")

    files = of_format()
    first = next(files, None)
    if first is None:
        what = f"{corpus.kind}, *.parquet or *.tar file" if wanted == "auto" else f"file of corpus.format '{wanted}'"
        there = f": {sentence(passed.table())}" if passed.count else ""
        raise InputError(
            f"nothing found at '{prefix}{folder}': the folder contains no {what}{there}; give another folder"
        )
    form = first[3]
    assert form is not None

    def of_one_form() -> Iterator[tuple[str, int, int]]:
        try:
            for path, size, modified, found in itertools.chain([first], files):
                if found != form and found is not None:
                    raise mixed(corpus, {form, found})
                yield path, size, modified
        except FAILURES as error:  # `find` does not catch it: it is suspended while these files are read
            raise InputError(f"cannot list '{prefix}{folder}': {error}; check the path and its permissions") from error

    if form == "files":
        _check_no_columns(corpus, f"{prefix}{folder}")
        yield Loose(f"{prefix}{folder}/", of_one_form())
    else:
        yield from (Packed(f"{prefix}{folder}/{path}", form) for path, _, _ in of_one_form())


Files = list[tuple[str, int, int]]  # (path relative to where the walk began, bytes, when it was modified)


@dataclass
class _Folder:
    path: str
    kind: Kind
    below: str  # its path relative to where the walk began, with a slash at the end unless it is empty
    real: str = ""  # its path without symbolic links; only for a local folder, like `above`
    above: frozenset[str] = frozenset()  # `real` of the folder and of the folders that contain it
    names: int = 0  # the number of names in it, once it is listed
    more: Collection[str] = ()  # `Corpus.more`
    shown: str = ""  # what is written before `below` in paths that are shown
    passed: PassedOver = field(default_factory=PassedOver, repr=False)
    listing: "Future[list[Files | _Folder]] | None" = field(default=None, repr=False)

    def inner(self, path: str, name: str, real: str = "") -> "_Folder":
        return replace(
            self,
            path=path,
            below=f"{self.below}{name}/",
            real=real,
            above=self.above | {real},
            passed=PassedOver(),
            listing=None,
        )

    def pass_over(self, path: str, extension: str = "") -> None:
        self.passed.add(self.shown + path, extension)


def walk(
    fs: pafs.FileSystem,
    folder: str,
    kind: Kind,
    more: Collection[str] = (),
    passed: PassedOver | None = None,
    shown: str = "",
) -> Iterator[tuple[str, int, int]]:
    """(path relative to the folder, bytes, when it was modified) of all media of that kind or with an extension of
    `more`, *.parquet and *.tar files below the folder, in order of their paths.

    Other files are counted in `passed`, under their paths with `shown` before them. So are names with a leading dot,
    which other programs make (.ipynb_checkpoints, macOS's ._a.jpg); such a folder is not listed and counts as one.
    Bytes are -1 and the time is 0 if it is not a regular file. A symbolic link to a folder that contains it is not
    followed.
    """
    real = os.path.realpath(folder)
    first = _Folder(folder, kind, "", real, frozenset([real]), more=more, shown=shown)
    local = isinstance(fs, pafs.LocalFileSystem)
    list_folder = _list_local if local else partial(_list_store, fs)
    ahead: deque[Files | _Folder] = deque([first])
    pool = ThreadPoolExecutor(AHEAD)
    try:
        while ahead:
            _list_ahead(pool, list_folder, ahead)
            item = ahead.popleft()
            if isinstance(item, _Folder):
                assert item.listing is not None
                # Arrow lists a folder in one call, with a request for 1,000 names, which ends if the store is silent.
                while not local and not wait([item.listing], HEARTBEAT_EVERY).done:
                    heartbeat()
                ahead.extendleft(reversed(item.listing.result()))
                heartbeat()
                if passed is not None:
                    passed.merge(item.passed.table())
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
    found: list[tuple[str, tuple[int, int] | _Folder]] = []
    with os.scandir(folder.path) as listed:
        for entry in sorted(listed, key=lambda entry: entry.name):
            name = entry.name
            path = folder.below + name
            if name.startswith("."):
                folder.pass_over(path, HIDDEN)
            elif entry.is_dir():
                real = os.path.realpath(entry.path) if entry.is_symlink() else f"{folder.real.rstrip('/')}/{name}"
                if real not in folder.above:
                    found.append((f"{name}/", folder.inner(entry.path, name, real)))
            elif not form_of(path, folder.kind, folder.more):
                folder.pass_over(path)
            else:
                if not is_text(path):
                    raise InputError(f"the name of {os.fsencode(entry.path)!r} is not UTF-8: rename the file or folder")
                stat = entry.stat() if entry.is_file() else None
                found.append((name, (stat.st_size, stat.st_mtime_ns) if stat else (-1, 0)))
    return _in_order(folder, found)


def _list_store(fs: pafs.FileSystem, folder: _Folder) -> "list[Files | _Folder]":
    found: list[tuple[str, tuple[int, int] | _Folder]] = []
    for info in entries(fs, folder.path, lambda key: folder.pass_over(key.removeprefix(f"{folder.path}/"))):
        name = info.base_name
        path = folder.below + name
        if name.startswith("."):
            folder.pass_over(path, HIDDEN)
        elif info.type == pafs.FileType.Directory:
            found.append((f"{name}/", folder.inner(info.path, name)))
        elif info.is_file and form_of(path, folder.kind, folder.more):
            found.append((name, (info.size, info.mtime_ns or 0)))
        else:
            folder.pass_over(path)
    return _in_order(folder, found)


def _in_order(folder: _Folder, found: "list[tuple[str, tuple[int, int] | _Folder]]") -> "list[Files | _Folder]":
    """Runs of files, and the folders between them, in the order of whole paths: a folder is sorted by its name with a
    slash."""
    found.sort(key=itemgetter(0))
    folder.names = len(found)
    items: list[Files | _Folder] = []
    for is_folder, run in itertools.groupby(found, key=lambda entry: isinstance(entry[1], _Folder)):
        if is_folder:
            items.extend(inner for _, inner in run if isinstance(inner, _Folder))
        else:
            items.append([(folder.below + name, *facts) for name, facts in run if isinstance(facts, tuple)])
    return items
