"""The actor pool that scores: Ray Data streams units of a corpus through decoding tasks and actors that hold the model.

Blocks of one padded batch of pixels go in, small tables come out, and tasks commit them as files of many units. Only
references pass the driver.
"""

import collections
import functools
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import ray
import ray.data

from raylabel.artifact import NOT_IDENTITY, Artifact, commit_part, write_table
from raylabel.corpus import Corpus, Unit, read_unit
from raylabel.errors import InputError
from raylabel.media.decode import Reject
from raylabel.media.views import View, eval_pixels
from raylabel.schema import DIGEST_BYTES, REJECTS, SCORES, check

UNIT = 1024  # rows of a unit of work
IN_FLIGHT = 64  # parts being written at once

# What leaves a teacher actor: a row per sample, scored (reason is empty) or rejected (no classes).
ROWS = pa.schema([*SCORES, *(REJECTS.field(name) for name in ("uri", "stage", "reason", "detail"))])


@dataclass(frozen=True, kw_only=True)
class Label:
    """How a model labels a corpus."""

    batch: int = 256
    """Images per forward pass, always padded to this number so that scores do not depend on their neighbours."""
    p: int = 10
    """Classes stored per sample: the largest P that a selection can ask for later (fewer where there are fewer)."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the forward pass; auto is bf16 where the hardware has it."""
    reject_limit: float = field(default=0.05, metadata=NOT_IDENTITY)
    """Share of samples that may be unreadable before the run stops, 0 to 1."""

    def __post_init__(self):
        if not 2 <= self.batch <= UNIT:
            raise InputError(f"label.batch is {self.batch}: give 2 to {UNIT} images, since no batch crosses a unit")
        if self.p < 1:
            raise InputError(f"label.p is {self.p}: store at least 1 class per sample")
        if not 0 <= self.reject_limit <= 1:
            raise InputError(f"label.reject_limit is {self.reject_limit}: give a share between 0 and 1")


@dataclass(frozen=True)
class Job:
    """All that scoring needs; plain data, so that it travels."""

    model: Artifact
    corpus: Corpus
    view: View
    config: Label
    precision: str
    teachers: int
    gpu: bool

    @property
    def p(self) -> int:
        """Classes stored per sample."""
        return min(self.config.p, self.model.info["classes"])


@dataclass(frozen=True)
class Part:
    """Units that are committed together, and the samples in them."""

    number: int
    units: tuple[Unit, ...]

    @property
    def rows(self) -> int:
        return sum(unit.rows for unit in self.units)


def score(job: Job, todo: list[Part], shards: pa.Table, folder: str) -> Iterator[dict[str, Any]]:
    """Scores the parts, commits each in `folder`, and yields its record then, in any order."""
    if not todo:
        return
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # The order of rows tells which part they belong to, without a look at them.
    context.execution_options.preserve_order = True
    context.target_max_block_size = job.config.batch * job.view.size**2 * 3  # a block is one batch of pixels
    writing: list[Any] = []  # references
    with ray.data.DataContext.current(context):
        for part, blocks in _grouped(_pipeline(job, todo, shards), todo):
            writing.append(_commit.remote(folder, part.number, part.rows, *blocks))
            while writing and (len(writing) > IN_FLIGHT or ray.wait(writing, timeout=0)[0]):
                done, writing = ray.wait(writing)
                yield ray.get(done[0])
    for reference in writing:
        yield ray.get(reference)


def _pipeline(job: Job, todo: list[Part], shards: pa.Table) -> ray.data.Dataset:
    work = [unit for part in todo for unit in part.units]
    batches = sum(-(-unit.rows // job.config.batch) for unit in work)
    pool = ray.data.ActorPoolStrategy(size=min(job.teachers, batches), max_tasks_in_flight_per_actor=2)
    decode = functools.partial(_decode_units, ray.put(work), ray.put(shards), job)
    return (
        ray.data.range(len(work), override_num_blocks=len(work))
        # Half a CPU: a decoder waits for storage as long as it computes. (It also differs from the actors' whole one,
        # which keeps Ray from fusing decoding into them.)
        .map_batches(decode, batch_size=1, batch_format="pyarrow", num_cpus=0.5)
        .map_batches(
            _Teacher,
            fn_constructor_args=(job,),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=1,
            num_gpus=1 if job.gpu else 0,
            compute=pool,
        )
    )


def _grouped(dataset: ray.data.Dataset, todo: list[Part]) -> Iterator[tuple[Part, list[Any]]]:
    """Each part with the references of its blocks, which come in the order of the parts and never span two."""
    queue, blocks, rows = iter(todo), [], 0
    part = next(queue)
    for bundle in dataset.iter_internal_ref_bundles():
        for entry in bundle.blocks:
            blocks.append(entry.ref)
            rows += entry.metadata.num_rows or 0
            if rows == part.rows:
                yield part, blocks
                blocks, rows = [], 0
                part = next(queue, Part(-1, ()))
    if blocks or part.units:
        raise AssertionError(f"the stream of scores ended inside part {part.number}")


def _decode_units(work_ref: Any, shards_ref: Any, job: Job, ids: pa.Table) -> Iterator[pa.Table]:
    """Reads and decodes one unit: a row per batch, whose pixels are uint8 [B, H, W, 3], zero where a sample is bad."""
    (index,) = ids.column("id").to_pylist()
    unit = ray.get(work_ref)[index]
    shards: Any = ray.get(shards_ref)
    shard = shards.slice(unit.shard, 1).to_pylist()[0]
    batch, view = job.config.batch, job.view
    samples = read_unit(job.corpus, shard, unit)
    while chunk := list(itertools.islice(samples, batch)):
        pixels = np.zeros((batch, view.size, view.size, 3), np.uint8)
        rows: dict[str, list] = {name: [] for name in ("key", "digest", "uri", "stage", "reason", "detail")}
        for slot, sample in enumerate(chunk):
            digest, stage, reason, detail = b"\0" * DIGEST_BYTES, "", "", ""
            if sample.media is None:
                stage, reason = "read", sample.error
            else:
                digest = hashlib.blake2b(sample.media, digest_size=DIGEST_BYTES).digest()
                try:
                    pixels[slot] = eval_pixels(sample.media, view)
                except Reject as reject:
                    stage, reason, detail = "decode", reject.reason, reject.detail
            for name, value in zip(rows, (sample.key, digest, sample.uri, stage, reason, detail), strict=True):
                rows[name].append(value)
        yield _batch_row(pixels, rows)


_BATCH = pa.schema(
    [
        pa.field("pixels", pa.large_binary()),
        *(pa.field(name, pa.list_(ROWS.field(name).type)) for name in ("key", "digest", "uri")),
        *(pa.field(name, pa.list_(pa.string())) for name in ("stage", "reason", "detail")),
    ]
)


def _batch_row(pixels: np.ndarray, rows: dict[str, list]) -> pa.Table:
    offsets = np.array([0, pixels.nbytes], np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(pixels)]
    media = pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, buffers)  # no copy of the pixels
    lists = [pa.array([rows[name]], _BATCH.field(name).type) for name in _BATCH.names[1:]]
    return pa.Table.from_arrays([media, *lists], schema=_BATCH)


class _Teacher:
    """Holds the model; scores batches of a fixed shape."""

    def __init__(self, job: Job):
        import torch

        from raylabel.models import load_model

        torch.backends.cudnn.deterministic = True
        torch.set_num_threads(1)  # one single-threaded actor per core beats threads (and sums in one order)
        self.job = job
        self.device = torch.device("cuda" if torch.cuda.is_available() and ray.get_gpu_ids() else "cpu")
        self.module = load_model(job.model).eval().to(self.device).to(memory_format=torch.channels_last)  # pyright: ignore

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for index in range(batch.num_rows):
            yield self._score(batch.slice(index, 1))

    def _score(self, batch: pa.Table) -> pa.Table:
        rows = {name: batch.column(name)[0].values for name in _BATCH.names[1:]}
        n = len(rows["key"])
        classes, log_odds, logits = self._forward(batch.column("pixels")[0].as_buffer())
        finite = np.isfinite(log_odds[:n]).all(axis=1) & np.isfinite(logits[:n]).all(axis=1)
        readable = np.array([reason == "" for reason in rows["reason"].to_pylist()])
        if (bad := readable & ~finite).any():  # a score that is no number is a reject, never ranked
            for name, word in (("stage", "score"), ("reason", "not_finite")):
                words = np.where(bad, word, np.array(rows[name].to_pylist(), object))
                rows[name] = pa.array(words.tolist(), pa.string())
        ends = np.concatenate([[0], np.cumsum(np.where(readable & finite, self.job.p, 0))]).astype(np.int32)
        keep = readable & finite
        for name, values in (("classes", classes), ("log_odds", log_odds), ("logits", logits)):
            rows[name] = pa.ListArray.from_arrays(ends, values[:n][keep].ravel())
        columns = [rows[name].cast(ROWS.field(name).type) for name in ROWS.names]
        return pa.Table.from_arrays(columns, schema=ROWS)

    def _forward(self, buffer: pa.Buffer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """classes int32, log-odds and logits float32, each [B, P], of one batch of pixels."""
        import torch

        from raylabel.labels.log_odds import top_classes
        from raylabel.media.views import normalise

        size = self.job.view.size
        pixels = np.frombuffer(buffer, np.uint8).reshape(self.job.config.batch, size, size, 3)
        images = normalise(torch.from_numpy(pixels.copy()).to(self.device), self.job.view)
        bf16 = self.job.precision == "bf16"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            logits = self.module(images).float()
        return tuple(x.cpu().numpy() for x in top_classes(logits, self.job.p))  # pyright: ignore[reportReturnType]


@ray.remote(num_cpus=0.5, max_retries=3)
def _commit(folder: str, part: int, rows: int, *blocks: pa.Table) -> dict[str, Any]:
    """Writes one part's SCORES and REJECTS, then its record: the record is the commit, and rewriting it is harmless."""
    table = pa.concat_tables(blocks)
    if table.num_rows != rows:
        raise AssertionError(f"part {part} has {table.num_rows} rows, expected {rows}")
    rejected = np.array([reason != "" for reason in table.column("reason").to_pylist()], bool)
    rejects = check(table.filter(pa.array(rejected)).select(REJECTS.names), REJECTS, "rejects")
    scores = table.filter(pa.array(~rejected)).select(SCORES.names)
    files = [write_table(folder, f"scores-{part:06d}.parquet", check(scores, SCORES, "scores"))]
    if rejects.num_rows:
        files.append(write_table(folder, f"rejects-{part:06d}.parquet", rejects))
    reasons = collections.Counter(rejects.column("reason").to_pylist())
    return commit_part(folder, part, files, {"rows": rows, "reasons": reasons})
