"""The form of a list that another tool wrote. Its first line decides, and every other line must have the same form.

A *.txt list has one path per line, or `path<TAB>label`, or as Caffe and others write it `path label`, `path,label` or
`path;label`. In these three the path ends in an extension of the media, so that a path with blanks or commas is not
cut. Windows writes paths with backslashes.
"""

import re
from collections.abc import Callable
from functools import cache, partial

from raylabel.corpus.config import EXTENSIONS, Corpus, Kind, is_media, is_text, locate
from raylabel.errors import InputError
from raylabel.store.files import reading

Split = Callable[[str], tuple[str, ...] | None]
"""A line → path, and label if there is one; None if the line has another form."""

FORMS = "give one path per line, then, for a label, a TAB and the label, on every line"
STORES = ("s3://", "gs://")
_SEPARATORS = {" ": "a blank", ",": "a comma", ";": "a semicolon"}


def text_form(corpus: Corpus, uri: str, uri_of: Callable[[str], str], line: str) -> tuple[Split, str]:
    """(what splits the lines of a *.txt list, the form in words), from its first line; `uri_of` gives the URI of a
    path. InputError that states the form of the line if it is not one that is read."""
    plain = "a path, or a path, a TAB and a label"
    if "\t" in line or (is_media(line, corpus.kind) and "\r" not in line):
        return _split_tabs, plain
    for separator, name in _SEPARATORS.items():
        split = partial(_split, _pattern(corpus.kind, separator), corpus.kind)
        if split(line) and not _exists(uri_of(line)):
            return split, f"a path, {name} and a label"
    # Not a path with a known extension, nor a form that is read: it is a path if there is such a file.
    numbered = re.fullmatch(r"(.+?)[ ,;]+\d+\s*", line)
    numbered = numbered and _ending(uri_of(numbered[1]), _endings(corpus.kind)) is not None
    if (numbered or "\r" in line or _more(corpus.kind).search(line)) and not _exists(uri_of(line)):
        what = "has a carriage return in it" if "\r" in line else "is neither a path nor a path and one label"
        raise InputError(f"line 1 of '{uri}' is {line[:200]!r}, which {what}: {FORMS}")
    return _split_tabs, plain


@cache
def _more(kind: Kind) -> re.Pattern[str]:
    """Matches a path with a known extension that more text follows."""
    return re.compile(rf"\.(?:{'|'.join(EXTENSIONS[kind])})[\"']?[\s,;]", re.IGNORECASE)


def _pattern(kind: Kind, separator: str) -> re.Pattern[str]:
    extensions = "|".join(sorted(EXTENSIONS[kind]))
    blank = " +" if separator == " " else f" *{separator} *"
    label = r"[^\s,;/\\]+" if separator == " " else r"[^,;/\\]*[^\s,;/\\]"
    return re.compile(rf"(?P<path>[^\"'].*\.(?:{extensions})){blank}(?P<label>{label})\s*", re.IGNORECASE)


def _split(pattern: re.Pattern[str], kind: Kind, line: str) -> tuple[str, ...] | None:
    found = pattern.fullmatch(line)
    # Two paths, for example of an image and its mask, are not one path.
    if found is None or is_media(found["label"], kind) or _more(kind).search(found["path"]):
        return None
    return found["path"], found["label"]


def _split_tabs(line: str) -> tuple[str, ...] | None:
    path, *labels = line.split("\t")
    while len(labels) > 1 and not labels[-1]:  # TABs at the end
        labels.pop()
    return None if len(labels) > 1 else (path, *labels)


def _exists(uri: str) -> bool:
    return _ending(uri, [""]) is not None


def _ending(uri: str, endings: list[str]) -> str | None:
    """The first of these endings with which there is a file of that name; None if there is none."""
    if not is_text(uri) or ("://" in uri and not uri.startswith(STORES)):
        return None  # an error of its own; nothing is fetched from the web
    fs, path, _ = locate(uri)
    with reading(uri):
        infos = fs.get_file_info([path + ending for ending in endings])
    return next((ending for ending, info in zip(endings, infos, strict=True) if info.is_file), None)


def _endings(kind: Kind) -> list[str]:
    """Empty, then the extensions of the media with a dot, in lower and upper case."""
    return ["", *(f".{one}" for extension in sorted(EXTENSIONS[kind]) for one in (extension, extension.upper()))]


class Paths:
    """Checks the paths of a list and replaces backslashes in them."""

    def __init__(self, corpus: Corpus, uri_of: Callable[[str], str]) -> None:
        """`uri_of` gives the URI of a path."""
        self._kind, self._uri_of = corpus.kind, uri_of
        self._first = True
        self._windows: bool | None = None  # not known before the first path with a slash or a backslash

    def read(self, path: str, where: str) -> str:
        """The path with slashes. InputError naming the row, `where`, if it is one of Windows that begins at a drive, or
        if the list leaves extensions out."""
        if self._windows is None and ("/" in path or "\\" in path):
            self._windows = "/" not in path and not _exists(self._uri_of(path))
        if self._windows:
            if re.match(r"[A-Za-z]:|\\\\", path):
                raise InputError(f"{where} has the path {path!r} of Windows: give paths relative to the list's folder")
            path = path.replace("\\", "/")
        if self._first and path and not is_media(path, self._kind):
            if extension := _ending(self._uri_of(path), _endings(self._kind)):
                raise InputError(
                    f"{where} has the path {path!r}, which is no file, but '{path}{extension}' is one: give each path "
                    "with its extension"
                )
        self._first = False
        return path
