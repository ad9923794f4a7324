"""Measures shards: their rows, bytes and fingerprint, which shows whether a shard has changed."""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raylabel.compute.watchdog import heartbeat
from raylabel.corpus.columns import is_media, is_name, is_seconds
from raylabel.corpus.config import Corpus, Format, locate
from raylabel.corpus.forward import ForwardReader
from raylabel.corpus.lists import file_uri, split_line
from raylabel.corpus.ranges import RangeFile
from raylabel.corpus.share import of_packed
from raylabel.corpus.tar import TarReader
from raylabel.corpus.tar_check import TarMeasure, measure_tar
from raylabel.corpus.tar_index import TarIndex, UnusableError, read_index
from raylabel.corpus.units import unit_rows
from raylabel.errors import InputError
from raylabel.store.files import Ranges, filesystem, reading
from raylabel.text import one_line

_COLUMNS = (
    ("start", is_seconds, "numbers of seconds"),
    ("end", is_seconds, "numbers of seconds"),
    ("group", is_name, "strings or integers"),
)


@dataclass(frozen=True)
class Known:
    """What an earlier SHARDS of the root has of a tar."""

    rows: int
    bytes: int
    fingerprint: str
    tar: TarMeasure


REQUESTS = 64  # requests for the size of a file that are in flight in a process
EDGE = 1 << 16  # bytes at each end of a file that its fingerprint covers; the last bytes of parquet are its footer


def measure_packed(
    corpus: Corpus, uri: str, form: Format, known: Known | None = None, streams: int = 1
) -> tuple[int, int, str, TarMeasure | None]:
    """(rows of the share, bytes, fingerprint, what else a tar has) of a parquet file or tar. InputError if it cannot be
    read, lacks the media column, or has members that cannot be divided into samples.

    The fingerprint is a hash of the size and of the first and last 64 KiB. A file's path and times are not part of it.
    A tar with the size and fingerprint of `known` is as it was found then, and no more of it is read. `streams`: see
    ForwardReader.
    """
    heartbeat()
    try:
        if form == "webdataset":
            return _measure_tar(corpus, uri, known, streams)
        fs, path, _ = locate(uri)
        with fs.open_input_file(path) as file:
            size, fingerprint = fingerprint_packed(file)
            rows = _parquet_rows(corpus, uri, file)
        used = rows if corpus.share == 1 else int(np.count_nonzero(of_packed(corpus.share, fingerprint, rows)))
        return used, size, fingerprint, None
    except OSError as error:
        raise InputError(f"cannot read '{uri}': {one_line(error)}; fix it or remove it") from error


def _measure_tar(
    corpus: Corpus, uri: str, known: Known | None, streams: int
) -> tuple[int, int, str, TarMeasure | None]:
    source = ForwardReader(uri, streams)
    with TarReader(uri, source=source) as tar:
        fingerprint = _hash_edges(tar.size, *source.edges(EDGE))
        if known and (known.bytes, known.fingerprint) == (tar.size, fingerprint):
            return known.rows, tar.size, fingerprint, known.tar

        def measure(index: TarIndex | None = None) -> tuple[int, TarMeasure]:
            found = measure_tar(corpus, tar, index)
            used = of_packed(corpus.share, fingerprint, found.rows) if corpus.share < 1 else np.ones(found.rows, bool)
            found.cut(np.flatnonzero(used)[:: unit_rows(corpus)])
            if index:
                index.check(tar, found.starts)
            return int(np.count_nonzero(used)), found

        why = ""
        try:
            if index := read_index(corpus, tar):
                rows, found = measure(index)
                return rows, tar.size, fingerprint, found
        except (UnusableError, InputError) as error:
            why = f"'{uri}': {error}"
        rows, found = measure()
        found.unused, found.why = int(bool(why)), why
        return rows, tar.size, fingerprint, found


def measure_files(paths: Sequence[str], sizes: Sequence[int]) -> tuple[int, str]:
    """(bytes, fingerprint) of a run of loose files. The fingerprint is a hash of each path (or line of the list) with
    its size, which is -1 if the file is missing."""
    text = "".join(f"{size} {path}\n" for path, size in zip(paths, sizes, strict=True))
    return sum(max(0, size) for size in sizes), hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def file_sizes(uri: str, lines: Sequence[str]) -> list[int]:
    """The current sizes of loose files in bytes, -1 if one is missing or not a regular file; one request per file, of
    which up to REQUESTS are in flight."""
    return [size for size, _ in file_stats(uri, lines)]


def file_stats(uri: str, lines: Sequence[str]) -> list[tuple[int, int]]:
    """The sizes as in `file_sizes`, and when each file was modified, in nanoseconds since 1970; 0 if it is missing."""
    locations = [file_uri(uri, split_line(uri, text).path) for text in lines]
    distinct = list(dict.fromkeys(locations))  # a file is listed once for each of its segments
    found = dict(zip(distinct, _requests().map(_stat, distinct), strict=True))
    return [found[location] for location in locations]


@cache
def _requests() -> ThreadPoolExecutor:
    """Threads of this process that wait for requests of a few bytes."""
    return ThreadPoolExecutor(REQUESTS, "requests")


def _stat(location: str) -> tuple[int, int]:
    fs, path = filesystem(location)
    info = fs.get_file_info(path)
    heartbeat()
    return (-1, 0) if info.size is None else (info.size, info.mtime_ns or 0)


def check_exists(uri: str, line: str) -> None:
    """InputError if this file does not exist: the first of a list `uri` whose files have no bytes in all. It names the
    file, and how its path was resolved."""
    path = split_line(uri, line).path
    location = file_uri(uri, path)
    if file_sizes(uri, [line])[0] >= 0:
        return
    how = "as it is written there" if location == path else f"from '{path}', relative to the folder of the list"
    raise InputError(
        f"the files of '{uri}' are missing: none has any bytes, and the first, '{location}' ({how}), does not exist; "
        "correct the paths, or put the list into the folder that they are relative to"
    )


def verify_shard(shard: Mapping[str, Any]) -> None:
    """InputError naming the shard if it changed or vanished since it was indexed; `shard` is its row of SHARDS."""
    heartbeat()
    with reading(shard["uri"]):
        if shard["paths"]:
            _check_same(shard, measure_files(shard["paths"], file_sizes(shard["uri"], shard["paths"])))
            return
        fs, path, _ = locate(shard["uri"])
        try:
            with fs.open_input_file(path) as file:
                verify_open(shard, file)
        except FileNotFoundError as error:
            raise stale_shard(shard, "vanished") from error


def verify_open(shard: Mapping[str, Any], file: Ranges) -> None:
    """`verify_shard` for a parquet file or tar that is open, at any read position."""
    if isinstance(file, RangeFile):
        file.check()
    else:
        _check_same(shard, fingerprint_packed(file))


def _check_same(shard: Mapping[str, Any], now: tuple[int, str]) -> None:
    if now != (shard["bytes"], shard["fingerprint"]):
        raise stale_shard(shard, "changed")


def stale_shard(shard: Mapping[str, Any], what: str) -> InputError:
    """The error to raise for a shard that changed or vanished; `what` is one of these words."""
    where = f"'{shard['uri']}'" + (f" ({shard['paths'][0]} …)" if shard["paths"] else "")
    return InputError(f"{where} {what} since it was indexed: restore it, or index the corpus again")


def row_count_changed(shard: Mapping[str, Any]) -> InputError:
    what = f"its number of rows is no longer {shard['rows']}"
    return InputError(f"'{shard['uri']}' changed since it was indexed: {what}; restore it, or index the corpus again")


def fingerprint_packed(file: Ranges) -> tuple[int, str]:
    """(bytes, fingerprint) of an open file: a hash of its size and of its first and last 64 KiB."""
    size = file.size()
    edges = (file.read_at(min(size, EDGE), at) for at in (0, max(0, size - EDGE)))
    return size, _hash_edges(size, *edges)


def _hash_edges(size: int, first: bytes, last: bytes) -> str:
    return hashlib.blake2b(f"{size}\n".encode() + first + last, digest_size=16).hexdigest()


def _parquet_rows(corpus: Corpus, uri: str, source: pa.NativeFile) -> int:
    try:
        with pq.ParquetFile(source) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except pa.ArrowException as error:
        what = f"cannot read the parquet footer of '{uri}': {one_line(error)}"
        raise InputError(f"{what}; fix it or remove it") from error
    column = corpus.media_column
    _check_column(schema, uri, column, "media")
    if not is_media(kind := schema.field(column).type):
        raise InputError(
            f"column '{column}' of '{uri}' is {kind}: expected encoded bytes (binary, also large, view or dictionary, "
            "or struct<bytes, path>; URLs are not fetched); set corpus.media to their column"
        )
    for field, fits, expected in _COLUMNS:
        if (column := getattr(corpus, field)) is None:
            continue
        _check_column(schema, uri, column, field)
        if not fits(kind := schema.field(column).type):
            raise InputError(
                f"column '{column}' of '{uri}' is {kind}: expected {expected}; set corpus.{field} to another"
            )
    return rows


def _check_column(schema: pa.Schema, uri: str, column: str, field: str) -> None:
    if column not in schema.names:
        raise InputError(
            f"no column '{column}' in '{uri}': it has {', '.join(schema.names)}; set corpus.{field} to one of them"
        )
