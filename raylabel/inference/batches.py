"""Units of encoded media → batches of pixels, and the keys, digests and rejects of their samples."""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raylabel.compute.resources import Pool
from raylabel.compute.watchdog import heartbeat
from raylabel.corpus import Corpus, Sample, Shards, Unit, UnitRange
from raylabel.corpus.ahead import UnitReader
from raylabel.corpus.sample import media_digest, sample_digest
from raylabel.inference.scorer import RANKED, Scorer
from raylabel.inference.subset import Subset
from raylabel.media.sandbox.sandbox import Sandbox, shared_sandbox
from raylabel.prefetch import ahead
from raylabel.schema import DIGEST_BYTES, split_key
from raylabel.store.fetch import Fetcher

# A work item: the units of one Ray task or one call of an actor, in order, as lists in a single row.
ITEM = pa.schema(
    [
        *(pa.field(name, pa.list_(pa.int64())) for name in ("shard", "first", "rows")),
        pa.field("only", pa.list_(pa.list_(pa.int64()))),
    ]
)


SPANS = 4  # spans of a batch per decoding thread, so that all threads end at about the same time


@dataclass(frozen=True)
class ScoringTask:
    """The input of an actor or a decoding task: plain data, so that Ray can send it."""

    scorer: Scorer
    corpus: Corpus
    shards: Shards
    batch: int
    pool: Pool
    names: bool = False
    """Whether NAMES are asked for; then the shards are tars."""
    subset: Subset | None = None
    """The samples that are scored, if not all are."""


def item(units: Sequence[Unit]) -> pa.Table:
    """The units as one row of ITEM."""
    if isinstance(units, UnitRange):
        values = [units.shard, units.first, units.rows, [()] * len(units)]
    else:
        values = zip(*((unit.shard, unit.first, unit.rows, unit.only) for unit in units), strict=True)
    ends = pa.array([0, len(units)], pa.int32())
    columns = [
        pa.ListArray.from_arrays(ends, pa.array(column, field.type.value_type))
        for column, field in zip(values, ITEM, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=ITEM)


def decode(task: ScoringTask, table: pa.Table) -> Iterator[pa.Table]:
    """Rows of ITEM → rows of BATCH. Runs in a Ray task."""
    for units in scored_units(task, table):
        reader = UnitReader(task.corpus, task.shards, units, shared_fetcher())
        for facts, batch in batches(task, reader, shared_sandbox(task.scorer.parser), None, reuse=False):
            yield _pack(facts, batch)


@dataclass
class Facts:
    """The columns of an actor's rows for a batch, except what the scorer computes: n values each, n <= B."""

    key: np.ndarray
    digest: list[bytes]
    group: list[int]
    uri: list[str]
    stage: list[str]
    """Empty if the sample is not a reject, like `reason` and `detail`."""
    reason: list[str]
    detail: list[str]
    name: list[str]
    """Empty if the task does not ask for names."""

    def reject(self, slot: int, stage: str, reason: str, detail: str = "") -> None:
        self.stage[slot], self.reason[slot], self.detail[slot] = stage, reason, detail


def scored_units(task: ScoringTask, table: pa.Table) -> Iterator[list[Unit]]:
    """The units of each row of ITEM, with the rows that are scored."""
    return (task.subset.narrow(units) if task.subset else units for units in units_of(table))


def units_of(table: pa.Table) -> Iterator[list[Unit]]:
    for row in table.to_pylist():
        values = zip(row["shard"], row["first"], row["rows"], row["only"], strict=True)
        yield [Unit(shard, first, rows, tuple(only)) for shard, first, rows, only in values]


@functools.cache
def shared_fetcher() -> Fetcher:
    """This process's threads that read ahead, kept for the next task."""
    return Fetcher()


def batches(
    task: ScoringTask, reader: UnitReader, sandbox: Sandbox, threads: ThreadPoolExecutor | None, reuse: bool = True
) -> Iterator[tuple[Facts, np.ndarray]]:
    """Yields (facts, prepared samples uint8 [B, *shape]) for each batch of the units. Slots without a sample are zero.

    Storage is read ahead of decoding. Each batch overwrites the array of the previous one, unless `reuse` is False.
    """
    shape = (task.batch, *task.scorer.shape)
    pixels = np.empty(shape, np.uint8)
    for samples in ahead(_chunks(task, reader), depth=2):
        pixels = pixels if reuse else np.empty(shape, np.uint8)
        facts = _facts(task, samples)
        span = -(-len(samples) // (SPANS * task.pool.threads)) if threads else len(samples)
        spans = [range(i, min(i + span, len(samples))) for i in range(0, len(samples), span)]
        fill = functools.partial(_fill, sandbox, task.corpus.kind, samples, facts, pixels)
        for _ in threads.map(fill, spans) if threads else map(fill, spans):
            pass
        pixels[len(samples) :] = 0
        heartbeat()
        yield facts, pixels


def _chunks(task: ScoringTask, reader: UnitReader) -> Iterator[list[Sample]]:
    """Yields the samples of the units in lists of B; the last list of a unit may be shorter."""
    for run, samples in reader:
        for unit in run:
            for first in range(0, unit.rows, task.batch):
                yield list(itertools.islice(samples, min(task.batch, unit.rows - first)))
        next(samples, None)  # raises an error if the shard has fewer rows than it should


def _facts(task: ScoringTask, samples: list[Sample]) -> Facts:
    n = len(samples)
    key = np.fromiter((sample.key for sample in samples), np.int64, n)
    uri, name = [sample.uri for sample in samples], [""] * n
    if task.names:
        tar = task.shards.row(split_key(samples[0].key)[0])["uri"]  # a batch is of one unit, so of one shard
        name = [one.removeprefix(f"{tar}#") for one in uri]
    return Facts(key, [b"\0" * DIGEST_BYTES] * n, [0] * n, uri, [""] * n, [""] * n, [""] * n, name)


def _identify(sample: Sample, media: bytes, kind: str) -> tuple[bytes, int]:
    """(digest, group). Each segment of a video has its own digest; all share its group, even if it has no name."""
    digest = media_digest(media)
    source = digest if kind == "video" else b""
    if sample.group is not None:
        source = media_digest(sample.group.encode())
    return sample_digest(digest, sample.segment), (
        int.from_bytes(source[:8], "little", signed=True) or 1
    ) if source else 0


def _fill(sandbox: Sandbox, kind: str, samples: list[Sample], facts: Facts, pixels: np.ndarray, slots: range) -> None:
    read = [(slot, media) for slot in slots if (media := samples[slot].media) is not None]
    for slot, media in read:
        facts.digest[slot], facts.group[slot] = _identify(samples[slot], media, kind)
    some = pixels[slots.start : slots.stop]
    own = some if len(read) == len(slots) else np.empty((len(read), *some.shape[1:]), np.uint8)
    rejects = sandbox.fill(own, [media for _, media in read], [samples[slot].segment or () for slot, _ in read])
    if own is not some:
        some[:] = 0
        some[[slot - slots.start for slot, _ in read]] = own
        for slot in slots:
            if samples[slot].media is None:
                facts.reject(slot, "read", samples[slot].error or "missing")
    for (slot, _), reject in zip(read, rejects, strict=True):
        if reject:
            facts.reject(slot, "decode", reject.reason, reject.detail)


BATCH = pa.schema(
    [
        pa.field("pixels", pa.large_binary()),
        *(pa.field(name, pa.list_(RANKED.rows.field(name).type)) for name in Facts.__dataclass_fields__),
    ]
)


def _pack(facts: Facts, pixels: np.ndarray) -> pa.Table:
    """A batch as one row of BATCH, which refers to the memory of `pixels`."""
    buffers = [None, pa.py_buffer(np.array([0, pixels.nbytes], np.int64)), pa.py_buffer(pixels)]
    media = pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, buffers)
    lists = [pa.array([getattr(facts, name)], BATCH.field(name).type) for name in BATCH.names[1:]]
    return pa.Table.from_arrays([media, *lists], schema=BATCH)


class _Pixels:
    """Bytes of an Arrow buffer as an array without a copy.

    The array is marked writable although its memory is not, because torch warns of arrays that are not. No scorer
    writes to its batch.
    """

    def __init__(self, buffer: pa.Buffer, shape: tuple[int, ...]) -> None:
        self.buffer = buffer  # its memory is not freed before this object is
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": shape, "data": (buffer.address, False)}


def unpack_batches(table: pa.Table, task: ScoringTask) -> Iterator[tuple[Facts, np.ndarray]]:
    """The batches of rows of BATCH; the pixels are in the memory of the table and must not be written to."""
    shape = (task.batch, *task.scorer.shape)
    for index, buffer in enumerate(_buffers(table.column("pixels"))):
        if buffer.size != math.prod(shape):
            raise AssertionError(f"{buffer.size} bytes of pixels, expected {shape}")
        row = {name: table.column(name)[index] for name in BATCH.names[1:]}
        key = row.pop("key").values.to_numpy()
        facts = Facts(key, **{name: value.as_py() for name, value in row.items()})
        yield facts, np.asarray(_Pixels(buffer, shape))


def _buffers(column: pa.ChunkedArray) -> Iterator[pa.Buffer]:
    """The bytes of each value; a scalar of the column would be a copy of them."""
    for chunk in column.chunks:
        _, offsets, data = chunk.buffers()
        assert offsets is not None and data is not None
        ends = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1].tolist()
        for start, end in itertools.pairwise(ends):
            yield data.slice(start, end - start)
