"""Reads samples of a corpus: the rows of a unit, some rows of a shard, or a few rows by their keys."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from itertools import groupby, repeat
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raylabel.corpus.columns import is_name, plain
from raylabel.corpus.config import Corpus, locate
from raylabel.corpus.fingerprint import row_count_changed, stale_shard, verify_open, verify_shard
from raylabel.corpus.label_rule import clean_all, split_column
from raylabel.corpus.loose import Files, read_files
from raylabel.corpus.ranges import RangeFile, column_range, wanted_groups
from raylabel.corpus.sample import NO_METADATA, Metadata, Sample, Unread, make_sample
from raylabel.corpus.segments import parse_segment
from raylabel.corpus.shards import Shards
from raylabel.corpus.share import rows_of
from raylabel.corpus.tar_read import read_tar
from raylabel.corpus.units import Unit
from raylabel.errors import InputError
from raylabel.schema import make_key, split_key
from raylabel.store.fetch import HELD
from raylabel.store.files import unreadable

BATCH = 128  # rows read together from parquet, at most; more are not faster and take more memory
BLOCK = 8 << 20  # bytes of each read when a whole row group is read to check it


def read_unit(corpus: Corpus, shard: Mapping[str, Any], unit: Unit, labels: bool = False) -> Iterator[Sample]:
    """The unit's `unit.rows` Samples, in row order; `shard` is its row of SHARDS. Otherwise as `read_rows`."""
    return read_rows(corpus, shard, unit.only or range(unit.first, unit.first + unit.rows), labels)


def read_rows(
    corpus: Corpus,
    shard: Mapping[str, Any],
    rows: Sequence[int],
    labels: bool = False,
    ahead: "Future[RangeFile] | Files | None" = None,
) -> Iterator[Sample]:
    """The Samples of some rows (at least one, in ascending order, without repeats); `shard` is a row of SHARDS.

    Reads as little as the form allows. Parquet: the row groups that contain one of the rows, each from its beginning to
    the last of these rows. A tar: the units of the rows, as in tar_read.py. Loose files: the files of the rows.

    Opens the shard again, so that it works in any process, and holds at most the rows' encoded bytes. A row that cannot
    be read is a Sample with an `error`. InputError if a parquet file or tar is missing or is not the one that was
    indexed. This is checked before the last sample is given, so a caller that received all samples knows that they are
    from the indexed file. A failure of an object store, other than a missing object, is an InputError too, naming the
    object: it may be temporary and must not be recorded as a bad sample.

    `ahead`: the shard, of which these rows are being read ahead; see ahead.py.
    """
    read = {"parquet": _read_parquet, "webdataset": read_tar, "files": read_files}[shard["format"]]
    remaining, last = len(rows), None
    try:
        for sample in _of_share(partial(read, ahead=ahead) if ahead else read, corpus, shard, rows, labels):
            if last:
                yield last
            last = sample
            remaining -= 1
    except FileNotFoundError as error:
        raise stale_shard(shard, "vanished") from error
    except (OSError, pa.ArrowInvalid) as error:  # a broken footer, or the storage
        verify_shard(shard)
        raise unreadable(shard["uri"], error) from error
    if remaining or not last:
        raise row_count_changed(shard)
    yield last


def _of_share(
    read: Callable[..., Iterator[Sample]], corpus: Corpus, shard: Mapping[str, Any], rows: Sequence[int], labels: bool
) -> Iterator[Sample]:
    """The Samples that `read` reads, where `rows` and keys number the rows of the corpus's share."""
    if corpus.share == 1:
        return read(corpus, shard, rows, labels)
    whole = rows_of(corpus.share, shard)[np.asarray(rows)].tolist()
    samples = read(corpus, shard, whole, labels)  # first in the zip: it is read to its end, where it checks the shard
    return (replace(sample, key=make_key(shard["shard"], row)) for sample, row in zip(samples, rows, strict=False))


def read_keys(corpus: Corpus, shards: Shards, keys: Sequence[int]) -> dict[int, Sample]:
    """The Samples of a few keys, in key order, without labels. InputError if a key is not that of a row."""
    found: dict[int, Sample] = {}
    for number, group in groupby(sorted(set(keys)), key=lambda key: split_key(key)[0]):
        rows = [split_key(key)[1] for key in group]
        shard = shards.row(number) if 0 <= number < len(shards) else None
        if shard is None or rows[-1] >= shard["rows"]:
            raise InputError(
                f"no sample has key {make_key(number, rows[-1])}: give keys of this corpus, not of another"
            )
        for sample in read_rows(corpus, shard, rows):
            found[sample.key] = sample
    return found


def label_column(corpus: Corpus, shard: Mapping[str, Any], names: Sequence[str]) -> tuple[str, str | None]:
    """(the column of a parquet file with the labels, their JSON field or None). InputError if it is not in `names`."""
    return find_column(corpus.label_column, shard["uri"], names, "labels", "corpus.label")


def find_column(wanted: str, uri: str, names: Sequence[str], what: str, option: str) -> tuple[str, str | None]:
    """(the column that `wanted` names, its JSON field or None). InputError if the file `uri` has only the columns
    `names`; `what` is in the column, and `option` is the name of the field that names it."""
    column, field = split_column(wanted, names)
    if column not in names:
        raise InputError(
            f"no {what}: no column '{column}' in '{uri}', it has {', '.join(names)}; set {option} to one of them"
        )
    return column, field


def column_labels(
    shard: Mapping[str, Any], table: pa.Table | pa.RecordBatch, label: tuple[str, str | None], rows: Sequence[int]
) -> list[str | None]:
    """The labels in a table of these rows of a parquet file; `label` is that of `label_column`. InputError if they are
    not integers or strings."""
    name, field = label
    column = table.column(name)
    if not is_name(column.type):
        raise InputError(
            f"no labels: the label column of '{shard['uri']}' is {column.type}, expected integers or strings: "
            f"set corpus.label to another column than '{name}'"
        )
    texts = plain(column).cast(pa.string()).to_pylist()
    return clean_all(texts, field, lambda at: f"{shard['uri']}#{rows[at]}")


def _read_parquet(
    corpus: Corpus,
    shard: Mapping[str, Any],
    rows: Sequence[int],
    labels: bool,
    ahead: "Future[RangeFile] | None" = None,
) -> Iterator[Sample]:
    fs, path, _ = locate(shard["uri"])
    local = isinstance(fs, pafs.LocalFileSystem)

    def sample(row: int, media: bytes | None, metadata: Metadata = NO_METADATA, error: Unread = "missing") -> Sample:
        return make_sample(make_key(shard["shard"], row), f"{shard['uri']}#{row}", media, metadata, error)

    # A column chunk may be gigabytes. With pre_buffer off and a buffer_size, its pages are read only when needed.
    options = {"pre_buffer": False, "buffer_size": 1 << (20 if local or ahead else 23)}
    with (
        ahead.result() if ahead else fs.open_input_file(path) as source,
        pq.ParquetFile(source, metadata=source.footer if isinstance(source, RangeFile) else None, **options) as file,
    ):
        if file.metadata.num_rows <= rows[-1]:
            raise row_count_changed(shard)
        label = label_column(corpus, shard, file.schema_arrow.names) if labels else None
        others = [label and label[0], corpus.start, corpus.end, corpus.group]
        columns = list({corpus.media_column, *others} - {None})
        at = 0  # the index in `rows` of the next row to yield
        for group, before, end in wanted_groups(file.metadata, rows):
            try:
                size = max(1, file.metadata.row_group(group).total_byte_size)
                batch_rows = max(1, min(BATCH, HELD * file.metadata.row_group(group).num_rows // size))
                for batch in file.iter_batches(batch_rows, row_groups=[group], columns=columns, use_threads=False):
                    first, before = before, before + batch.num_rows
                    some = rows[at : bisect_left(rows, before, at, end)]
                    if not some:
                        continue
                    batch = pa.RecordBatch.from_arrays([plain(c) for c in batch.columns], batch.schema.names)
                    # A slice copies nothing, so only rows that are not consecutive are copied.
                    dense = some[-1] - some[0] + 1 == len(some)
                    selected = (
                        batch.slice(some[0] - first, len(some)) if dense else batch.take([r - first for r in some])
                    )
                    media = selected.column(corpus.media_column)
                    if pa.types.is_struct(media.type):
                        media = media.flatten()[media.type.get_field_index("bytes")]  # null where the struct is null
                    for row, data, metadata in zip(
                        some, media.to_pylist(), _rows(corpus, shard, selected, some, label), strict=True
                    ):
                        yield sample(row, data, metadata)
                        at += 1
                    if at == end:
                        break
            except (pa.ArrowInvalid, OSError) as error:
                if isinstance(source, RangeFile) and source.failure:
                    raise source.failure from error
                if isinstance(error, OSError) and not local:
                    _check_readable(source, file.metadata.row_group(group))
            for lost in rows[at:end]:  # after a broken page, nothing in the row group can be read
                yield sample(lost, None, error="unreadable")
            at = end
            if isinstance(source, RangeFile):
                chunks = map(file.metadata.row_group(group).column, range(file.metadata.num_columns))
                source.release(max(sum(column_range(chunk)) for chunk in chunks))
        verify_open(shard, source)


def _rows(
    corpus: Corpus,
    shard: Mapping[str, Any],
    batch: pa.RecordBatch,
    numbers: Sequence[int],
    label: tuple[str, str | None] | None,
) -> Iterator[Metadata]:
    """The metadata of these rows of a parquet file; `batch` contains their columns, `label` is that of the labels."""
    if not (label or corpus.start or corpus.end or corpus.group):
        yield from repeat(NO_METADATA, len(numbers))
        return
    nulls: list[Any] = [None] * len(numbers)
    labels = column_labels(shard, batch, label, numbers) if label else nulls
    start, end = (batch.column(name).to_pylist() if name else nulls for name in (corpus.start, corpus.end))
    group = batch.column(corpus.group).cast(pa.string()).to_pylist() if corpus.group else nulls
    for at, number in enumerate(numbers):
        yield Metadata(labels[at], parse_segment(start[at], end[at], f"{shard['uri']}#{number}"), group[at] or None)


def _check_readable(source: pa.NativeFile, group: pq.RowGroupMetaData) -> None:
    """OSError if the object store cannot read the bytes of a row group: then the storage failed and not the parquet."""
    for start, size in map(column_range, map(group.column, range(group.num_columns))):
        for at in range(start, start + size, BLOCK):
            source.read_at(min(BLOCK, start + size - at), at)
