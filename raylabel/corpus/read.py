"""Samples of a corpus: the rows of one unit in order, some rows of a shard, or a few rows anywhere."""

import os
import posixpath
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, islice
from typing import Any, Literal

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raylabel.corpus.config import THREADS, Corpus, locate
from raylabel.corpus.fingerprint import no_longer, verify_open, verify_shard
from raylabel.corpus.listing import file_path, file_root
from raylabel.corpus.shards import Shards
from raylabel.corpus.tar import Member, TarReader, TarSample
from raylabel.corpus.units import Unit
from raylabel.errors import InputError
from raylabel.schema import MAX_BYTES, make_key, split_key
from raylabel.storage import unreadable

BATCH = 128  # rows decoded at once from parquet; more are no quicker and take more memory
BLOCK = 8 << 20  # bytes that are read at once where all are read


Unread = Literal["missing", "empty", "unreadable", "too_many_bytes"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of a corpus. Either `media` is there, or `error` says why not."""

    key: int
    """shard << 32 | row."""

    uri: str
    """Where a person finds it: `file.parquet#row`, `x.tar#member`, `folder/a.jpg`."""

    media: bytes | None
    """The encoded bytes, as they stand in the corpus; never empty."""

    label: str | None
    """The label as text (an integer in decimal); None if it has none or labels were not asked for."""

    error: Unread | None
    """missing (a null, no such file, no media member), empty (zero bytes), unreadable, or too_many_bytes (a member or a
    file of more than MAX_BYTES, which is not read); None if media is there."""

    part: tuple[float, float] | None = None
    """(start, end) in seconds, if the sample is a part of the video; None: it is all of it."""

    group: str | None = None
    """The name of the source video; None: the corpus names none."""


def read_unit(corpus: Corpus, shard: Mapping[str, Any], unit: Unit, labels: bool = False) -> Iterator[Sample]:
    """The unit's `unit.rows` Samples, in row order; `shard` is its row of SHARDS. As `read_rows` of all its rows."""
    return read_rows(corpus, shard, unit.only or range(unit.first, unit.first + unit.rows), labels)


def read_rows(corpus: Corpus, shard: Mapping[str, Any], rows: Sequence[int], labels: bool = False) -> Iterator[Sample]:
    """The Samples of some rows, at least one, given in ascending order without repeats; `shard` is a row of SHARDS.

    Reads as little as the form allows: of parquet the row groups that hold one of the rows, each from its beginning to
    the last of them; of a tar the headers up to the last row, and of the members those of the rows; of loose files
    those of the rows.

    Opens the shard anew, so that it works in any process, and holds at most the rows' encoded bytes. A row that cannot
    be read is a Sample with an `error`. InputError if a parquet file or tar is gone or is not what was indexed: the
    last sample comes only after a look at that, so that whoever has all has none of another state. An object store's
    failure other than a missing object is an InputError too, naming the object: it may pass, and must not go down as a
    bad sample.
    """
    read = {"parquet": _read_parquet, "webdataset": _read_tar, "files": _read_files}[shard["format"]]
    left, last = len(rows), None
    try:
        for sample in read(corpus, shard, rows, labels):
            if last:
                yield last
            last = sample
            left -= 1
    except FileNotFoundError as error:
        raise no_longer(shard, "vanished") from error
    except (OSError, pa.ArrowInvalid) as error:  # of its footer, or of the storage
        verify_shard(shard)
        raise unreadable(shard["uri"], error) from error
    if left or not last:
        raise changed(shard)
    yield last


def read_keys(corpus: Corpus, shards: Shards, keys: Sequence[int]) -> dict[int, Sample]:
    """The Samples of a few keys, in key order, without labels. InputError if a key is of no row."""
    found: dict[int, Sample] = {}
    for number, group in groupby(sorted(set(keys)), key=lambda key: split_key(key)[0]):
        rows = [split_key(key)[1] for key in group]
        shard = shards.row(number) if 0 <= number < len(shards) else None
        if shard is None or rows[-1] >= shard["rows"]:
            raise InputError(f"no sample has key {make_key(number, rows[-1])}: the keys are of another corpus")
        for sample in read_rows(corpus, shard, rows):
            found[sample.key] = sample
    return found


def changed(shard: Mapping[str, Any]) -> InputError:
    what = f"it had {shard['rows']} rows and has another number"
    return InputError(f"'{shard['uri']}' changed since it was indexed: {what}; index the corpus anew")


def _sample(key: int, uri: str, media: bytes | None, label: str | None, error: Unread = "missing") -> Sample:
    """A Sample; `error` is why, if there is no media."""
    if media:
        return Sample(key, uri, media, label, None)
    return Sample(key, uri, None, label, error if media is None else "empty")


def label_text(shard: Mapping[str, Any], column: pa.ChunkedArray | pa.Array) -> list[str | None]:
    """The labels of a column of integers or strings, as text. InputError if it is of another type."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        where = f"the label column of '{shard['uri']}'"
        raise InputError(f"no labels: {where} is {column.type}, expected integers or strings")
    return column.cast(pa.string()).to_pylist()


def check_label_column(corpus: Corpus, shard: Mapping[str, Any], names: Sequence[str]) -> None:
    if corpus.label_column not in names:
        raise InputError(
            f"no labels: no column '{corpus.label_column}' in '{shard['uri']}', it has {', '.join(names)}; "
            "set label to one of them"
        )


def _read_parquet(corpus: Corpus, shard: Mapping[str, Any], rows: Sequence[int], labels: bool) -> Iterator[Sample]:
    fs, path, _ = locate(shard["uri"])
    local = isinstance(fs, pafs.LocalFileSystem)
    columns = [corpus.media_column] + ([corpus.label_column] if labels else [])

    def sample(row: int, media: bytes | None, label: str | None = None, error: Unread = "missing") -> Sample:
        return _sample(make_key(shard["shard"], row), f"{shard['uri']}#{row}", media, label, error)

    # A column chunk may be gigabytes: without pre_buffer and through a buffer, its pages are read as they are needed.
    options = {"pre_buffer": False, "buffer_size": 1 << (20 if local else 23)}
    with fs.open_input_file(path) as source, pq.ParquetFile(source, **options) as file:
        if file.metadata.num_rows <= rows[-1]:
            raise changed(shard)
        if labels:
            check_label_column(corpus, shard, file.schema_arrow.names)
        start, at = 0, 0  # the row group's first row, and the place in `rows` of the next one to give
        for group in range(file.num_row_groups):
            before, start = start, start + file.metadata.row_group(group).num_rows
            end = bisect_left(rows, start, at)
            if at == end:
                continue
            try:
                for batch in file.iter_batches(BATCH, row_groups=[group], columns=columns, use_threads=False):
                    first, before = before, before + batch.num_rows
                    some = rows[at : bisect_left(rows, before, at, end)]
                    if not some:
                        continue
                    # A slice copies nothing; only rows that stand apart are worth a copy.
                    dense = some[-1] - some[0] + 1 == len(some)
                    part = batch.slice(some[0] - first, len(some)) if dense else batch.take([r - first for r in some])
                    media = part.column(corpus.media_column)
                    if pa.types.is_struct(media.type):
                        media = media.flatten()[media.type.get_field_index("bytes")]  # null where the struct is
                    texts = label_text(shard, part.column(corpus.label_column)) if labels else [None] * len(part)
                    for row, data, label in zip(some, media.to_pylist(), texts, strict=True):
                        yield sample(row, data, label)
                        at += 1
                    if at == end:
                        break
            except (pa.ArrowInvalid, OSError) as error:
                if isinstance(error, OSError) and not local:
                    _demand_bytes(source, file.metadata.row_group(group))
            for lost in rows[at:end]:  # a broken page: nothing behind it in the row group can be found
                yield sample(lost, None, error="unreadable")
            at = end
        verify_open(shard, source)


def _demand_bytes(source: pa.NativeFile, group: pq.RowGroupMetaData) -> None:
    """OSError if an object store does not give the bytes of a row group: then what failed was not the parquet."""
    for column in map(group.column, range(group.num_columns)):
        start = column.data_page_offset
        if column.has_dictionary_page:
            start = min(start, column.dictionary_page_offset)
        end = start + column.total_compressed_size
        for at in range(start, end, BLOCK):
            source.read_at(min(BLOCK, end - at), at)


@lru_cache(maxsize=64)
def _starts(uri: str, fingerprint: str) -> dict[int, int]:
    """{row: byte} where units of a tar begin, as far as this process has read it.

    A tar has no index; without this each unit would walk it from its first header.
    """
    return {0: 0}


def _read_tar(corpus: Corpus, shard: Mapping[str, Any], rows: Sequence[int], labels: bool) -> Iterator[Sample]:
    starts = _starts(shard["uri"], shard["fingerprint"])
    known = max(row for row in list(starts) if row <= rows[0])  # a list: another thread may add to it
    with TarReader(shard["uri"]) as tar:
        samples, at = tar.samples(starts[known]), known
        for row in rows:
            found = next(islice(samples, row - at, None), None)
            if found is None:
                return
            at = row + 1
            if row == rows[0]:
                starts[row] = found.offset
            member = found.media(corpus)
            large = member is not None and member.size > MAX_BYTES
            yield _sample(
                make_key(shard["shard"], row),
                f"{shard['uri']}#{member.name if member else found.name}",
                tar.read_member(member) if member and not large else None,
                tar_label(corpus, tar, found) if labels else None,
                "too_many_bytes" if large else "missing",
            )
        if (following := next(samples, None)) is not None:
            starts[at] = following.offset
        verify_open(shard, tar.file)


def tar_label(corpus: Corpus, tar: TarReader, sample: TarSample) -> str | None:
    """The stripped text of the sample's label member. InputError if it is not UTF-8."""
    member: Member | None = sample.members.get(corpus.label_extension)
    if member is None:
        return None
    try:
        return tar.read_member(member).decode().strip() or None
    except UnicodeDecodeError as error:
        raise InputError(f"the label '{tar.uri}#{member.name}' is no UTF-8 text: {error}") from error


def file_label(path: str, uri: str, line: str) -> str | None:
    """The name of the file's folder; for a listed file, what stands behind the TAB."""
    if uri.endswith("/"):
        return posixpath.basename(posixpath.dirname(path)) or None
    return line.partition("\t")[2] or None


def _read_files(corpus: Corpus, shard: Mapping[str, Any], rows: Sequence[int], labels: bool) -> Iterator[Sample]:
    uri = shard["uri"]
    fs, root, prefix = locate(file_root(uri))
    every: Sequence[str] = shard["paths"]
    lines = [every[row] for row in rows]
    paths = [file_path(root, uri, line) for line in lines]
    pool = ThreadPoolExecutor(THREADS)
    try:
        read = pool.map(lambda path: _read_file(fs, path, prefix), paths)
        for row, line, path, (media, error) in zip(rows, lines, paths, read, strict=True):
            label = file_label(path, uri, line) if labels else None
            yield _sample(make_key(shard["shard"], row), prefix + path, media, label, error)
    finally:
        pool.shutdown(cancel_futures=True)


def _read_file(fs: pafs.FileSystem, path: str, prefix: str) -> tuple[bytes | None, Unread]:
    """(bytes or None, why there are none). InputError if an object store does not answer."""
    local = isinstance(fs, pafs.LocalFileSystem)
    if local and os.path.exists(path) and not os.path.isfile(path):
        return None, "unreadable"  # to open a pipe would wait for ever
    try:
        with fs.open_input_file(path) as file:
            if file.size() > MAX_BYTES:
                return None, "too_many_bytes"
            return file.read(), "empty"  # which it is, if there are no bytes
    except FileNotFoundError:
        return None, "missing"
    except OSError as error:
        if not local:
            raise unreadable(prefix + path, error) from error
        return None, "unreadable"
