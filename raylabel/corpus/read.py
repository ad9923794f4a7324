"""Samples of a corpus: the rows of one unit in order, some rows of a shard, or a few rows anywhere."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby, islice, repeat
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raylabel.corpus.config import Corpus, locate
from raylabel.corpus.fingerprint import no_longer, verify_open, verify_shard
from raylabel.corpus.loose import read_files
from raylabel.corpus.sample import HELD, NOTHING, Said, Sample, Unread, make_sample
from raylabel.corpus.segments import is_name, named_group, parse_segment
from raylabel.corpus.shards import Shards
from raylabel.corpus.tar import Member, TarReader, TarSample
from raylabel.corpus.units import Unit
from raylabel.errors import InputError
from raylabel.schema import MAX_BYTES, make_key, split_key
from raylabel.store.files import unreadable

BATCH = 128  # rows decoded at once from parquet, at most; more are no quicker and take more memory
BLOCK = 8 << 20  # bytes that are read at once where all are read


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
    read = {"parquet": _read_parquet, "webdataset": _read_tar, "files": read_files}[shard["format"]]
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


def label_text(shard: Mapping[str, Any], column: pa.ChunkedArray | pa.Array) -> list[str | None]:
    """The labels of a column of integers or strings, as text. InputError if it is of another type."""
    if not is_name(column.type):
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
    about = [corpus.label_column if labels else None, corpus.start, corpus.end, corpus.group]
    columns = list({corpus.media_column, *about} - {None})

    def sample(row: int, media: bytes | None, said: Said = NOTHING, error: Unread = "missing") -> Sample:
        return make_sample(make_key(shard["shard"], row), f"{shard['uri']}#{row}", media, said, error)

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
                size = max(1, file.metadata.row_group(group).total_byte_size)
                few = max(1, min(BATCH, HELD * file.metadata.row_group(group).num_rows // size))
                for batch in file.iter_batches(few, row_groups=[group], columns=columns, use_threads=False):
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
                    for row, data, said in zip(
                        some, media.to_pylist(), _rows(corpus, shard, part, some, labels), strict=True
                    ):
                        yield sample(row, data, said)
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


def _rows(
    corpus: Corpus, shard: Mapping[str, Any], batch: pa.RecordBatch, numbers: Sequence[int], labels: bool
) -> Iterator[Said]:
    """What these rows of a parquet file say, but for their media."""
    if not (labels or corpus.start or corpus.end or corpus.group):
        yield from repeat(NOTHING, len(numbers))
        return
    nothing: list[Any] = [None] * len(numbers)
    label = label_text(shard, batch.column(corpus.label_column)) if labels else nothing
    start, end = (batch.column(name).to_pylist() if name else nothing for name in (corpus.start, corpus.end))
    group = batch.column(corpus.group).cast(pa.string()).to_pylist() if corpus.group else nothing
    for at, number in enumerate(numbers):
        yield Said(label[at], parse_segment(start[at], end[at], f"{shard['uri']}#{number}"), group[at] or None)


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
            place = f"{shard['uri']}#{member.name if member else found.name}"
            start, end = (tar_text(tar, found, name) for name in (corpus.start, corpus.end))
            said = Said(
                tar_text(tar, found, corpus.label_extension) if labels else None,
                parse_segment(start, end, place),
                tar_group(corpus, tar, found),
            )
            large = member is not None and member.size > MAX_BYTES
            yield make_sample(
                make_key(shard["shard"], row),
                place,
                tar.read_member(member) if member and not large else None,
                said,
                "too_many_bytes" if large else "missing",
            )
        if (following := next(samples, None)) is not None:
            starts[at] = following.offset
        verify_open(shard, tar.file)


def tar_text(tar: TarReader, sample: TarSample, extension: str | None) -> str | None:
    """The stripped text of the sample's member with that extension; None if it has none or that is empty. InputError
    if it is not UTF-8."""
    member: Member | None = sample.members.get(extension) if extension else None
    if member is None:
        return None
    try:
        return tar.read_member(member).decode().strip() or None
    except UnicodeDecodeError as error:
        raise InputError(f"'{tar.uri}#{member.name}' is not UTF-8 text: {error}; fix it or take it out") from error


def tar_group(corpus: Corpus, tar: TarReader, sample: TarSample) -> str | None:
    """What its member says, if the corpus has such; else what the name of its media says."""
    if corpus.group:
        return tar_text(tar, sample, corpus.group)
    member = sample.media(corpus)
    return named_group(corpus, member.name) if member else None
