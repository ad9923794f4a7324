"""The configuration of a corpus, and helpers for its URIs and text files."""

import io
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import pyarrow.fs as pafs

from raylabel.errors import InputError
from raylabel.store.files import filesystem

Format = Literal["parquet", "webdataset", "files"]

THREADS = 16  # of a process that reads many small files, where most of the time is waiting

Kind = Literal["image", "video"]

# A GIF is a picture among pictures and a video among videos.
EXTENSIONS: dict[Kind, frozenset[str]] = {
    "image": frozenset("jpg jpeg png webp gif bmp tif tiff".split()),
    "video": frozenset(
        "mp4 m4v mov qt mkv webm avi divx flv f4v ts mts m2ts mpg mpeg m2v vob wmv asf ogv gif 3gp 3g2 mxf".split()
    ),
}


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Encoded media at rest, in one of three forms.

    - parquet: a column of encoded bytes (binary, large_binary, or Hugging Face's struct<bytes, path>).
    - webdataset: plain tars; a sample is the run of members with the same name up to the first dot of the basename.
    - files: loose files, found in a folder or named in a list.
    """

    uri: tuple[str, ...]
    """Local paths or s3://, gs:// URIs. Each is a *.parquet or *.tar file, a folder (searched recursively; names that
    start with a dot are left out), a pattern of these with * ? [ ] (a ** is a *), or a list.

    A *.txt list has one path per line, relative to the list's folder, then optionally a TAB and the label. A *.csv list
    (RFC 4180, with a header) has a column `path`, optionally `label`, and those that the fields below name; other
    columns are ignored. Its paths may also be absolute, or s3:// and gs:// URIs. A file may be listed once for each of
    its segments."""

    format: Literal["auto", "parquet", "webdataset", "files"] = "auto"
    """The form; auto detects it by the extension, and for a folder by the files in it."""

    media: str | None = None
    """Where the encoded bytes are: the parquet column (default: the kind, 'image' or 'video'), or the tar members'
    extension without its leading dot (default: any of the kind). In a CSV list, the column of the paths."""

    label: str | None = None
    """Where the label is: the column of a parquet file or of a CSV list (default 'label'), or the tar members'
    extension (default 'cls'). The label of a loose file is its folder's name, that of a listed file is in the list."""

    classes: str | None = None
    """A text file with one class name per line; integer labels are its zero-based line numbers."""

    kind: Kind = "image"
    """The kind of media. It decides which files of a folder and which members of a tar are samples."""

    start: str | None = None
    """If samples are segments of longer videos, where the start of each is, in seconds: the column of a parquet file or
    of a CSV list, or the tar members' extension. Empty or null: the video's beginning."""

    end: str | None = None
    """Where the end of each segment is, in seconds, after the start; empty or null: the video's end."""

    group: str | None = None
    """Where the name of the source video is, the same for all samples that were cut from it: a column or an extension.
    Without it a source is identified by its bytes, and files named like UCF101's (v_..._g01_c02) by their names."""

    def __post_init__(self) -> None:
        if not isinstance(self.uri, tuple) or not self.uri or not all(isinstance(u, str) and u for u in self.uri):
            raise InputError(f"Corpus.uri is {self.uri!r}: give a tuple of one or more paths or URIs")
        if bad := [uri for uri in self.uri if not is_text(uri)]:
            raise InputError(f"Corpus.uri has {bad[0]!r}, which is not UTF-8 or holds a NUL: rename it")
        if self.format not in ("auto", *get_args(Format)):
            raise InputError(f"Corpus.format is {self.format!r}: give auto, parquet, webdataset or files")
        if self.kind not in get_args(Kind):
            raise InputError(f"Corpus.kind is {self.kind!r}: give image or video")
        for field in ("media", "label", "classes", "start", "end", "group"):
            if getattr(self, field) == "":
                raise InputError(f"Corpus.{field} is empty: give a name or leave it out")
        listed = any(uri.lower().endswith(".csv") for uri in self.uri)
        if self.format == "files" and (self.media or self.label) and not listed:
            raise InputError("Corpus.media and Corpus.label name nothing in loose files: leave them out")
        if self.kind == "image" and (self.start or self.end):
            raise InputError("Corpus.start and Corpus.end are for segments of videos: set kind to video")

    @property
    def media_column(self) -> str:
        return self.media or self.kind

    @property
    def label_column(self) -> str:
        return self.label or "label"

    @property
    def label_extension(self) -> str:
        return self.label or "cls"


def locate(uri: str) -> tuple[pafs.FileSystem, str, str]:
    """(file system, path in it, prefix): prefix + path is the URI again, absolute if it is local."""
    fs, path = filesystem(uri)
    return fs, path, uri.rstrip("/").removesuffix(path) if "://" in uri else ""


def absolute(uri: str) -> str:
    """The URI with an absolute path, valid in any process."""
    _, path, prefix = locate(uri)
    return prefix + path


def is_text(name: str) -> bool:
    """Whether a name can be stored in a table and used again: UTF-8, without NUL."""
    return "\0" not in name and (name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name))


def is_media(name: str, kind: Kind) -> bool:
    """Whether the name ends in an extension of that kind, in any case."""
    return name.rpartition(".")[2].lower() in EXTENSIONS[kind]


def read_lines(uri: str) -> list[str]:
    """The lines of a UTF-8 text file, with blank lines at its end left out. InputError if it cannot be read."""
    return list(iterate_lines(uri))


def iterate_lines(uri: str) -> Iterator[str]:
    """`read_lines`, one at a time: a list may be larger than memory."""
    blank = 0  # blank lines so far, left out if no other line follows
    # Lines end in \n alone: a file's name may contain a form feed or U+2028.
    with open_text(uri, newline="\n") as text:
        for line in text:
            line = line.rstrip("\r\n")
            if not line:
                blank += 1
                continue
            yield from itertools.repeat("", blank)
            blank = 0
            yield line


@contextmanager
def open_text(uri: str, newline: str) -> Iterator[io.TextIOWrapper]:
    """A UTF-8 text file, read incrementally; `newline` as in `open`. InputError if it cannot be read."""
    fs, path, _ = locate(uri)
    try:
        with fs.open_input_file(path) as file:
            buffer = io.BufferedReader(file, 1 << 22)  # pyright: ignore[reportArgumentType]
            yield io.TextIOWrapper(buffer, "utf-8-sig", newline=newline)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read '{uri}' as a UTF-8 text file: {error}") from error
