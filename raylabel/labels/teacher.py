"""label → SCORES: a trained model ranks every class for every sample of a corpus, once.

Ray Data streams the units of the corpus through decoding tasks, each of which emits blocks of one padded batch of
pixels, to actors that hold the model, to tasks that commit files of many units. What is computed is fixed by the
corpus: a batch never crosses a unit, its shape never changes, and a part holds the same units on any cluster, so
that any number of actors, any order and any crash gives the same bytes.
"""

import collections
import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import ray
import ray.data

from raylabel.artifact import (
    NOT_IDENTITY,
    Artifact,
    Built,
    Draft,
    File,
    Root,
    identity_of,
    list_files,
    read_file,
    write_file,
    write_table,
)
from raylabel.corpus import Corpus, Unit, read_unit, units
from raylabel.errors import InputError
from raylabel.media.decode import Reject, decode_image
from raylabel.media.views import View, eval_view
from raylabel.report.terminal import Progress
from raylabel.resources import Cluster, Resources
from raylabel.schema import DIGEST_BYTES, REJECTS, SCORES, SHARDS, check

UNIT = 1024  # rows of a unit of work
PART = 16  # units that are committed together: some 2 MB of scores, and what a crash can cost one part's worth of work
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
        if self.batch < 2:
            raise InputError(f"label.batch is {self.batch}: give at least 2 images")
        if self.p < 1:
            raise InputError(f"label.p is {self.p}: store at least 1 class per sample")
        if not 0 <= self.reject_limit <= 1:
            raise InputError(f"label.reject_limit is {self.reject_limit}: give a share between 0 and 1")


def label(
    root: Root, model: Artifact, shards: Artifact, corpus: Corpus, view: View, config: Label, resources: Resources
) -> Artifact:
    """SCORES of every sample of the corpus by the model, with REJECTS for those that could not be read.

    Log-odds and not probabilities: near p = 1 a float32 softmax has ties where a billion samples need an order
    (Yalniz et al. 2019 §3.2 ranks by softmax; the order is the same). InputError if too many samples are rejected.
    """
    cluster = Cluster.now()
    precision = cluster.precision(config.precision)
    identity = {
        "model": model.digest,
        "shards": shards.info["content"],
        "view": _evaluation_identity(view),
        "label": identity_of(config) | {"precision": precision},
        "unit": [UNIT, PART],
    }
    work = functools.partial(_build, model, shards, corpus, view, config, precision, cluster, resources)
    return root.make("scores", identity, work)


def _evaluation_identity(view: View) -> dict[str, Any]:
    """What of a view shows in evaluation pixels: its training crop does not."""
    return {name: identity_of(getattr(view, name)) for name in ("size", "resize", "mean", "std")}


@dataclass(frozen=True)
class _Part:
    """Units that are committed together, and the samples in them."""

    number: int
    units: tuple[Unit, ...]

    @property
    def rows(self) -> int:
        return sum(unit.rows for unit in self.units)


def _parts(shards: pa.Table) -> Iterator[_Part]:
    stream = units(shards, UNIT)
    for number in itertools.count():
        if not (some := tuple(itertools.islice(stream, PART))):
            return
        yield _Part(number, some)


def _build(
    model: Artifact,
    shards: Artifact,
    corpus: Corpus,
    view: View,
    config: Label,
    precision: str,
    cluster: Cluster,
    resources: Resources,
    draft: Draft,
) -> Built:
    table = shards.table("shards", SHARDS)
    committed = _committed(draft)
    todo = [part for part in _parts(table) if part.number not in committed]
    total = sum(table.column("rows").to_pylist())
    tally = _Tally(total, config.reject_limit)
    for record in committed.values():
        tally.add(record)
    before = tally.seen
    with Progress(f"label with {model.name}", total, done=before) as progress:
        for record in _run(todo, table, model, corpus, view, config, precision, cluster, resources, draft):
            committed[record["part"]] = record
            tally.add(record)
            progress.update(tally.seen, rejects=tally.rejected)
    tally.close()
    files = [File(**f) for record in committed.values() for f in record["files"]]
    info = {
        "samples": total,
        "images": total - before,  # in the build that took `seconds`
        "scored": total - tally.rejected,
        "rejected": tally.rejected,
        "reasons": dict(tally.reasons.most_common()),
        "p": min(config.p, model.info["classes"]),
        "hardware": cluster.name,
    }
    return Built(files, info)


def _committed(draft: Draft) -> dict[int, dict[str, Any]]:
    """The parts that an earlier run has finished, by number."""
    records = (json.loads(read_file(f"{draft.uri}/parts/{name}")) for name in list_files(f"{draft.uri}/parts"))
    return {record["part"]: record for record in records}


class _Tally:
    """Counts samples and rejects, and stops a run whose input is mostly unreadable."""

    ENOUGH = 10_000  # samples after which the share so far is believed

    def __init__(self, total: int, limit: float):
        self.total, self.limit = total, limit
        self.seen = self.rejected = 0
        self.reasons: collections.Counter[str] = collections.Counter()

    def add(self, record: dict[str, Any]) -> None:
        self.seen += record["rows"]
        self.rejected += sum(record["reasons"].values())
        self.reasons.update(record["reasons"])
        if self.seen >= min(self.total, self.ENOUGH):
            self._judge()

    def close(self) -> None:
        if self.seen != self.total:
            raise AssertionError(f"{self.total} samples in, {self.seen} out")
        if self.rejected == self.total:
            self._stop()

    def _judge(self) -> None:
        if self.rejected > self.limit * self.seen:
            self._stop()

    def _stop(self) -> None:
        top = ", ".join(f"{reason} {count:,}" for reason, count in self.reasons.most_common(3))
        raise InputError(
            f"{self.rejected:,} of {self.seen:,} samples could not be read, over the limit of {self.limit:.0%} "
            f"(top reasons: {top}): mend the corpus, or raise --label.reject-limit"
        )


def _run(
    todo: list[_Part],
    shards: pa.Table,
    model: Artifact,
    corpus: Corpus,
    view: View,
    config: Label,
    precision: str,
    cluster: Cluster,
    resources: Resources,
    draft: Draft,
) -> Iterator[dict[str, Any]]:
    """Scores the parts and yields the record of each as it is committed."""
    if not todo:
        return
    work = [unit for part in todo for unit in part.units]
    decode = functools.partial(_decode_units, ray.put(work), ray.put(shards), corpus, view, config.batch)
    gpus = 1 if cluster.gpus else 0
    batches = sum(-(-unit.rows // config.batch) for unit in work)
    pool = ray.data.ActorPoolStrategy(size=min(cluster.teachers(resources), batches), max_tasks_in_flight_per_actor=2)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # The order of rows tells which part they belong to, without a look at them: only references pass the driver.
    context.execution_options.preserve_order = True
    context.target_max_block_size = config.batch * view.size**2 * 3  # a block is one batch of pixels
    dataset = (
        ray.data.range(len(work), override_num_blocks=len(work))
        # Half a CPU: a decoder waits for storage as long as it computes. (It also differs from the actors' whole one,
        # which keeps Ray from fusing decoding into them.)
        .map_batches(decode, batch_size=1, batch_format="pyarrow", num_cpus=0.5)
        .map_batches(
            _Teacher,
            fn_constructor_args=(model, view, config, precision),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=1,
            num_gpus=gpus,
            compute=pool,
        )
    )
    writing: list[Any] = []  # references
    pending: list[Any] = []
    rows, queue = 0, iter(todo)
    part = next(queue, None)
    for bundle in dataset.iter_internal_ref_bundles():
        for entry in bundle.blocks:
            pending.append(entry.ref)
            rows += entry.metadata.num_rows or 0
            if part is not None and rows == part.rows:
                writing.append(_commit.remote(draft.uri, part.number, rows, *pending))
                pending, rows, part = [], 0, next(queue, None)
        while writing and (len(writing) > IN_FLIGHT or ray.wait(writing, timeout=0)[0]):
            done, writing = ray.wait(writing)
            yield ray.get(done[0])
    if part is not None or pending:
        raise AssertionError("the stream of scores ended inside a part")
    for reference in writing:
        yield ray.get(reference)


def _decode_units(work_ref, shards_ref, corpus: Corpus, view: View, batch: int, ids: pa.Table) -> Iterator[pa.Table]:
    """Reads and decodes one unit: a row per batch, whose pixels are uint8 [B, H, W, 3], zero where a sample is bad."""
    (index,) = ids.column("id").to_pylist()
    unit = ray.get(work_ref)[index]
    shards: pa.Table = ray.get(shards_ref)  # pyright: ignore[reportAssignmentType]
    shard = shards.slice(unit.shard, 1).to_pylist()[0]
    samples = read_unit(corpus, shard, unit)
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
                    pixels[slot] = eval_view(decode_image(sample.media), view)
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

    def __init__(self, model: Artifact, view: View, config: Label, precision: str):
        import torch

        from raylabel.models import load_model

        torch.set_num_threads(1)  # one single-threaded actor per core beats threads (and sums in one order)
        self.view, self.config, self.precision = view, config, precision
        self.device = torch.device("cuda" if torch.cuda.is_available() and ray.get_gpu_ids() else "cpu")
        self.module = load_model(model).eval().to(self.device).to(memory_format=torch.channels_last)  # pyright: ignore
        self.p = min(config.p, model.info["classes"])

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
        ends = np.concatenate([[0], np.cumsum(np.where(readable & finite, self.p, 0))]).astype(np.int32)
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

        size = self.view.size
        pixels = np.frombuffer(buffer, np.uint8).reshape(self.config.batch, size, size, 3)
        images = normalise(torch.from_numpy(pixels.copy()).to(self.device), self.view)
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits = self.module(images).float()
        return tuple(x.cpu().numpy() for x in top_classes(logits, self.p))  # pyright: ignore[reportReturnType]


@ray.remote(num_cpus=0.5, max_retries=3)
def _commit(folder: str, part: int, rows: int, *blocks: pa.Table) -> dict[str, Any]:
    """Writes one part's SCORES and REJECTS, then its record: the record is the commit, and rewriting it is harmless."""
    table = pa.concat_tables(blocks)
    if table.num_rows != rows:
        raise AssertionError(f"part {part} has {table.num_rows} rows, expected {rows}")
    rejected = pa.compute.not_equal(table.column("reason"), "")  # pyright: ignore[reportAttributeAccessIssue]
    rejects = check(table.filter(rejected).select(REJECTS.names), REJECTS, "rejects")
    scores = table.filter(pa.compute.invert(rejected)).select(SCORES.names)  # pyright: ignore[reportAttributeAccessIssue]
    files = [write_table(folder, f"scores-{part:06d}.parquet", check(scores, SCORES, "scores"))]
    if rejects.num_rows:
        files.append(write_table(folder, f"rejects-{part:06d}.parquet", rejects))
    reasons = collections.Counter(rejects.column("reason").to_pylist())
    record = {"part": part, "rows": rows, "reasons": reasons, "files": [dataclasses.asdict(f) for f in files]}
    write_file(f"{folder}/parts/{part:06d}.json", json.dumps(record).encode())
    return record
