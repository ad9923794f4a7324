"""The configuration of a corpus, and helpers for its URIs and text files."""

import codecs
import io
import itertools
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, get_args

import pyarrow.fs as pafs

from raylabel.errors import InputError
from raylabel.store.artifact import ADDED_LATER
from raylabel.store.files import filesystem

Format = Literal["parquet", "webdataset", "files"]

LINE = 1 << 20  # characters of a line of a text file, at most: a file without line ends must not fill memory

THREADS = 16  # per process for reading many small files: most of that time is spent waiting

FORMS: dict[str, Format] = {"parquet": "parquet", "tar": "webdataset"}  # by the extension of a file

Kind = Literal["image", "video"]

PATH = "path"  # as `Corpus.label`: labels are the paths of folders

# A GIF is an image in an image corpus and a video in a video corpus.
EXTENSIONS: dict[Kind, frozenset[str]] = {
    "image": frozenset("jpg jpeg jpe jfif png webp gif bmp tif tiff avif heic heif".split()),
    "video": frozenset(
        "mp4 m4v mov qt mkv webm avi divx flv f4v ts mts m2ts mpg mpeg m2v vob wmv asf ogv gif 3gp 3g2 mxf".split()
    ),
}


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Encoded images or videos, stored in one of three forms.

    - parquet: a column of encoded bytes (binary, also large, view or dictionary; or Hugging Face's struct<bytes,
      path>).
    - webdataset: plain tars; a sample is the run of members with the same name up to the first dot of the basename. If
      names have more dots (frame.0001.jpg, frame.0001.cls), it is the run with the same name up to a later dot; where
      the names allow more than one reading, indexing ends with an error.
    - files: loose files, found in a folder or named in a list.
    """

    uri: tuple[str, ...]
    """Local paths or s3://, gs:// URIs. Each is a *.parquet or *.tar file, a folder (searched recursively; names that
    start with a dot are skipped), a pattern of these with * ? [ ] (** is treated as *), or a list. The URIs of standard
    sets (`dataset://`) are made by the functions of `raylabel.datasets`.

    A *.txt list has one path per line, relative to the list's folder, then optionally a TAB and the label. A *.csv list
    (RFC 4180, with a header) has a column `path`, optionally `label`, and the columns that the fields below name; other
    columns are ignored. Its paths may also be absolute, or s3:// and gs:// URIs. A file may be listed several times,
    once for each of its segments."""

    format: Literal["auto", "parquet", "webdataset", "files"] = "auto"
    """The form; auto detects it from the extension, or for a folder from the files in it."""

    media: str | None = None
    """Where the encoded bytes are: the parquet column (default: the kind, 'image' or 'video'), or the tar members'
    extension without its leading dot, in upper or lower case (default: any extension of the kind). In a CSV list, the
    column of the paths."""

    label: str | None = None
    """Where the label is: the column of a parquet file or of a CSV list (default 'label'), or the tar members'
    extension (default 'cls'). `json:label` is the field `label` of the JSON in that member or column, and
    `json:meta.label` a field of an object in it.

    A listed file's label is in the list. The label of a file in a folder is the folder's name. Where that is not plain,
    for example if two folders have the same name, set `path` (the path of the folder below the corpus) or the depth
    of the folder: `path:1` is the first folder below the corpus, `path:-1` the one that contains the file.

    A label is a name or an integer of 0 or more. White space at its ends does not count."""

    classes: str | None = None
    """A text file with one class name per line, in the order of the classes of a given teacher. The labels are these
    names, which may be numbers too; or, unless all labels are names, integers are zero-based line numbers."""

    kind: Kind = "image"
    """The kind of media. It decides which files of a folder and which members of a tar are samples. Other files are
    counted as passed over, by their extensions."""

    extensions: tuple[str, ...] = field(default=(), metadata=ADDED_LATER)
    """Further extensions of samples in folders and tars, without the leading dot: ppm also reads *.ppm. An empty
    extension, '', reads names without a dot. Not for lists, whose files may have any name."""

    start: str | None = None
    """Where the start of each segment is, in seconds, if samples are segments of longer videos: the column of a parquet
    file or of a CSV list, or the tar members' extension. An empty or null value is the video's beginning."""

    end: str | None = None
    """Where the end of each segment is, in seconds; it must be later than the start. An empty or null value is the
    video's end."""

    group: str | None = None
    """Where the name of the source video is: a column or an extension. Samples cut from one video have the same name.
    Without this field a source is identified by its bytes, or by its file name if that is like UCF101's
    (v_..._g01_c02)."""

    share: float = field(default=1.0, metadata=ADDED_LATER)
    """The share of the samples that is used, above 0 and at most 1. Which samples these are depends on a hash of each
    loose file's path, or of each shard's contents and the row: a smaller share is part of a larger one, the segments
    of a file belong together, and SCORES of a larger share in the same root are reused. Media of whole shards are read
    from parquet files and tars if some of their samples are used."""

    def check(self, name: str) -> None:
        """InputError if a field is invalid. `name` is that of this config in the recipe, for example 'unlabeled'."""
        if not isinstance(self.uri, tuple) or not self.uri or not all(isinstance(u, str) and u for u in self.uri):
            raise InputError(f"{name}.uri is {self.uri!r}: give a tuple of one or more paths or URIs")
        if bad := [uri for uri in self.uri if not is_text(uri)]:
            raise InputError(
                f"{name}.uri contains {bad[0]!r}, which is not UTF-8 or has a NUL: rename the file or folder"
            )
        if self.format not in ("auto", *get_args(Format)):
            raise InputError(f"{name}.format is {self.format!r}: give auto, parquet, webdataset or files")
        if self.kind not in get_args(Kind):
            raise InputError(f"{name}.kind is {self.kind!r}: give image or video")
        for option in ("media", "label", "classes", "start", "end", "group"):
            if getattr(self, option) == "":
                raise InputError(f"{name}.{option} is empty: give a name or leave it out")
        if bad := [e for e in self.extensions if not isinstance(e, str) or not is_text(e) or set(e) & set("./")]:
            raise InputError(f"{name}.extensions contains {bad[0]!r}: give extensions without a dot, for example ppm")
        if bad := [e for e in self.extensions if e.lower() in FORMS]:
            raise InputError(f"{name}.extensions contains {bad[0]!r}, which is the extension of a corpus: leave it out")
        lists = all(uri.lower().endswith((".txt", ".csv")) for uri in self.uri)
        if self.extensions and (lists or self.format == "parquet"):
            what = "lists, whose files may have any name" if lists else "parquet"
            raise InputError(f"{name}.extensions does not apply to {what}: leave it out")
        listed = any(uri.lower().endswith(".csv") for uri in self.uri)
        if self.format == "files" and not listed:
            if self.media:
                raise InputError(f"{name}.media does not apply to loose files: leave it out")
            if self.label and not is_path_label(self.label):
                raise InputError(
                    f"{name}.label is '{self.label}': for loose files give 'path' or a depth such as 'path:1', or "
                    "leave it out"
                )
        if self.kind == "image" and (self.start or self.end):
            raise InputError(
                f"{name}.start and {name}.end are only for videos: set {name}.kind to video or leave them out"
            )
        if not 0 < self.share <= 1:
            raise InputError(f"{name}.share is {self.share}: give a share of the samples above 0 and at most 1")

    @property
    def media_column(self) -> str:
        return self.media or self.kind

    @property
    def label_column(self) -> str:
        return self.label or "label"

    @property
    def label_extension(self) -> str:
        return self.label or "cls"

    @property
    def more(self) -> frozenset[str]:
        """`extensions` in lower case."""
        return frozenset(extension.lower() for extension in self.extensions)


def path_depth(label: str) -> int | None:
    """The depth in `Corpus.label` if it is of the form `path:1`, not 0; None if it is not."""
    name, _, depth = label.partition(":")
    digits = depth.removeprefix("-")
    return int(depth) or None if name == PATH and digits.isascii() and digits.isdecimal() else None


def is_path_label(label: str) -> bool:
    """Whether `Corpus.label` is `path` or a depth such as `path:1`."""
    return label == PATH or path_depth(label) is not None


def locate(uri: str) -> tuple[pafs.FileSystem, str, str]:
    """(file system, path in it, prefix); prefix + path is the URI, with an absolute path if it is local."""
    fs, path = filesystem(uri)
    return fs, path, uri.rstrip("/").removesuffix(path) if "://" in uri else ""


def absolute(uri: str) -> str:
    """The URI with an absolute path, valid in any process."""
    _, path, prefix = locate(uri)
    return prefix + path


def is_text(name: str) -> bool:
    """Whether a name can be stored in a table and read back: UTF-8, without NUL."""
    return "\0" not in name and (name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name))


def is_media(name: str, kind: Kind, more: Collection[str] = ()) -> bool:
    """Whether a file with that name is a sample: it has an extension of that kind, or one of `more` (all in lower
    case), in upper or lower case."""
    extension = name.rpartition(".")[2].lower()
    return extension in EXTENSIONS[kind] or (extension if "." in name else "") in more


def read_lines(uri: str) -> list[str]:
    """The lines of a UTF-8 text file, without blank lines at its end. InputError if it cannot be read."""
    return list(iterate_lines(uri))


def iterate_lines(uri: str) -> Iterator[str]:
    """The lines of `read_lines` one at a time: a list may be larger than memory."""
    blank = 0  # blank lines since the last other line; dropped if none follows
    # Only \n ends a line: a file name may contain a form feed or U+2028.
    with open_text(uri, newline="\n") as text:
        for line in iter(lambda: text.readline(LINE), ""):
            if len(line) == LINE and not line.endswith("\n"):
                raise InputError(f"a line of '{uri}' has more than {LINE:,} characters: end each line with a line feed")
            line = line.rstrip("\r\n")
            if not line:
                blank += 1
                continue
            yield from itertools.repeat("", blank)
            blank = 0
            yield line


@contextmanager
def open_text(uri: str, newline: str) -> Iterator[io.TextIOWrapper]:
    """A UTF-8 text file, read incrementally; `newline` is that of `open`. InputError if it cannot be read."""
    fs, path, _ = locate(uri)
    try:
        with fs.open_input_file(path) as file:
            buffer = io.BufferedReader(file, 1 << 22)  # pyright: ignore[reportArgumentType]
            if buffer.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise InputError(f"'{uri}' is UTF-16 text: save it as UTF-8")
            yield io.TextIOWrapper(buffer, "utf-8-sig", newline=newline)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read '{uri}' as a UTF-8 text file: {error}; fix the file or give another path"
        ) from error
