"""Lists of files, *.txt or *.csv, and the common form of their rows in SHARDS.

A row is stored as a line of up to five fields separated by TABs: path, label, start, end, group. Empty fields at the
end are left out. Seconds are written as Python writes a float, so that 1 and 1.0 give the same row.
"""

import math
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from raylabel.corpus.config import Corpus, is_text, iterate_lines
from raylabel.corpus.csvs import csv_rows
from raylabel.corpus.list_forms import FORMS, STORES, Paths, text_form
from raylabel.corpus.segments import parse_segment
from raylabel.errors import InputError


@dataclass(frozen=True, slots=True)
class Entry:
    """The fields of a loose file in SHARDS; a field that is not given is empty."""

    path: str
    label: str = ""
    start: str = ""
    end: str = ""
    group: str = ""


def split_line(uri: str, line: str) -> Entry:
    """The fields of a line of SHARDS. In a folder (`uri` ends in a slash) the whole line is the path, with any TABs."""
    return Entry(line) if uri.endswith("/") else Entry(*line.split("\t"))


def file_uri(uri: str, path: str) -> str:
    """The URI of a loose file: `path` is relative to the folder `uri`, or to the folder of the list `uri`."""
    if uri.endswith("/"):
        return uri + path
    if path.startswith("/") or "://" in path:
        return path
    scheme, separator, folder = uri.rpartition("/")[0].rpartition("://")
    return scheme + separator + posixpath.normpath(f"{folder}/{path}")


def is_list(name: str) -> bool:
    return name.lower().endswith((".txt", ".csv"))


def list_lines(corpus: Corpus, uri: str) -> Iterator[str]:
    """The rows of the list `uri` as lines of SHARDS, read incrementally. InputError naming the line that is wrong."""
    paths = Paths(corpus, lambda path: file_uri(uri, path))
    return _csv_lines(corpus, uri, paths) if uri.lower().endswith(".csv") else _text_lines(corpus, uri, paths)


def _text_lines(corpus: Corpus, uri: str, paths: Paths) -> Iterator[str]:
    form = None
    for number, line in enumerate(iterate_lines(uri), 1):
        split, what = form = form or text_form(corpus, uri, lambda path: file_uri(uri, path), line)
        where, shown = f"line {number} of '{uri}'", repr(line[:200])
        if (fields := split(line)) is None:
            raise InputError(f"{where} is {shown}, and the form of line 1 is {what}: {FORMS}")
        path, *label = fields
        if not path or path.startswith("/") or "://" in path or not is_text(path):
            raise InputError(
                f"{where} is {shown}: give a path relative to the list's folder (URLs are not fetched), then at most a "
                "TAB and a label"
            )
        yield "\t".join([paths.read(path, where), *label])


def list_cells(corpus: Corpus, uri: str, column: str, option: str) -> Iterator[tuple[str, str]]:
    """The rows of the CSV list `uri` as in `list_lines`, each with its cell of another column. InputError also if there
    is no such column; `option`: the name of the field that names it."""
    return _csv_cells(corpus, uri, Paths(corpus, lambda path: file_uri(uri, path)), ((option, column),))


def _csv_lines(corpus: Corpus, uri: str, paths: Paths) -> Iterator[str]:
    return (line for line, _ in _csv_cells(corpus, uri, paths))


def _csv_cells(
    corpus: Corpus, uri: str, paths: Paths, more: Sequence[tuple[str, str]] = ()
) -> Iterator[tuple[str, str]]:
    """(line in SHARDS, cell of the column that `more` names, if it does) of each row of a CSV list."""
    rows = csv_rows(uri, corpus.media or "path")
    _, header = next(rows)
    columns = _find_columns(corpus, uri, header, more)
    for number, row in rows:
        path, label, start, end, group, *cell = ("" if at is None else row[at] for at in columns)
        where = f"line {number} of '{uri}'"
        yield _line([paths.read(path, where), label, start, end, group], where), cell[0] if cell else ""


def _find_columns(corpus: Corpus, uri: str, header: Sequence[str], more: Sequence[tuple[str, str]]) -> list[int | None]:
    """The indices in the header of path, label, start, end and group, None for a column that is not used, then those of
    `more`: (name of the field that names it, column)."""
    found: list[int | None] = []
    wanted = [("corpus.media", corpus.media or "path"), ("corpus.label", corpus.label), ("corpus.start", corpus.start)]
    for field, name in [*wanted, ("corpus.end", corpus.end), ("corpus.group", corpus.group), *more]:
        if name is None and field == "corpus.label" and "label" in header:
            name = "label"
        if name is not None and name not in header:
            name = name.strip(" ")  # the blanks around the names in a header are not part of them
        count = 0 if name is None else header.count(name)
        if name is not None and count != 1:
            what = f"has {count} columns" if count else "has no column"
            raise InputError(f"the CSV list '{uri}' {what} '{name}': its header is {', '.join(header)}; set {field}")
        found.append(None if name is None else header.index(name))
    return found


def _line(fields: list[str], where: str) -> str:
    """The line in SHARDS of a row of a CSV list; `where` names the row in errors."""
    for text in fields:
        if not is_text(text) or any(letter in text for letter in "\t\r\n"):
            raise InputError(f"{where} has {text!r}: give UTF-8 text without TABs, line ends and NULs")
    path, label, start, end, group = fields
    if not path or ("://" in path and not path.startswith(STORES)):
        raise InputError(
            f"{where} has the path {path!r}: give a path relative to the list's folder, an absolute path, or an s3:// "
            "or gs:// URI; nothing is fetched from the web"
        )
    if segment := parse_segment(start, end, where):
        start, end = (repr(seconds) if math.isfinite(seconds) else "" for seconds in segment)
    return "\t".join([path, label, start, end, group]).rstrip("\t")
