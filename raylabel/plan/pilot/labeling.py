"""Measures how fast the corpus is labeled, and labels a sample of it."""

import collections
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from raylabel.compute.gpu import use_full_float32
from raylabel.corpus import Unit, Units, unit_rows
from raylabel.inference.actor import ScoringActor
from raylabel.inference.batches import ScoringTask, decode, item
from raylabel.inference.pool import PIXELS, units_of_item
from raylabel.inference.stored import rank_features
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.trained import WEIGHTS, describe
from raylabel.models.weights import save_weights
from raylabel.plan.pilot.process import draw, peak_device_memory, peak_memory, stretch
from raylabel.store.artifact import Artifact, Built, Draft, Root, identity_of, write_bytes
from raylabel.store.encoding import encode_table

SECONDS = 8.0  # of labeling that are timed, at most; start-up is not included
MIN_SECONDS = 3.0  # of labeling that are timed, even if the share of the corpus is labeled before
SHARE = 0.001  # of the corpus; all actors stop once it is labeled, unless BATCHES or MIN_SECONDS require more
BATCHES = 8  # per actor that are labeled at least: of a small corpus, more than the share, and units more than once
STRETCHES = 8  # of the corpus that an actor visits, about, unless it is done before
HEAD_SECONDS = 1.0  # in which a head ranks features
PICTURES = 8192  # samples whose thumbnails are returned, at most; in all, not per actor
PROBE = 16  # images of the first batch on a CPU, which shows how slow the network is


@dataclass(frozen=True)
class Labeled:
    """The measured speed and memory of labeling, and the scores. A slot is one position of a padded batch."""

    slots_per_second: float
    """Slots per second of one actor while all actors run, in the steady state."""
    start: float
    """Seconds until all actors had scored a first batch."""
    memory: int
    """Peak memory of the largest actor, bytes."""
    device_memory: int | None
    """Peak GPU memory of the largest actor, bytes."""
    seen: int
    """Samples that were labeled or rejected, each counted once."""
    rows: pa.Table
    """SCORES of the samples that could be read, or PICTURES."""
    thumbnails: tuple[np.ndarray, np.ndarray]
    """Of some of these samples, if the scorer keeps thumbnails: keys int64 [n] and thumbnails uint8 [n, side * side *
    3]."""
    bytes_per_row: float
    """Bytes per row of SCORES, as they are stored."""


def measure_labeling(task: ScoringTask) -> Labeled:
    """Labels units of the corpus, drawn at random, in the same way as the run; each actor stops after some seconds."""
    begin, pool, unit = time.monotonic(), task.pool, unit_rows(task.corpus)
    drawn = draw(task.shards, unit)
    labeler: Any = ray.remote(num_cpus=pool.cpus, num_gpus=pool.gpus)(_Labeler)
    units = len(Units(task.shards.rows, unit))
    size = units_of_item(units, pool.actors)
    # As in the run: no more actors than there are work items.
    actors, decoders = [labeler.remote() for _ in range(min(pool.actors, -(-units // size)))], []
    try:
        # A batch of a slow network may take a minute on a CPU. In a small batch, an image takes about as long.
        small = replace(task, batch=task.batch if pool.gpus else min(PROBE, task.batch))
        once = max(ray.get([actor.load.remote(small, drawn[0]) for actor in actors]))
        start = time.monotonic() - begin
        if not pool.gpus:
            slot = once / small.batch
            while task.batch > PROBE and STRETCHES * task.batch * slot > SECONDS:
                task = replace(task, batch=task.batch // 2)
            once = max(ray.get([actor.load.remote(task, drawn[0]) for actor in actors]))
        # Long stretches, since starting inside a file costs time, but so short that each actor visits several.
        rows = min(size * unit, max(1, int(SECONDS / STRETCHES / once)) * task.batch)
        stretches = [stretch(task.shards, one, rows, unit) for one in drawn]
        if not pool.threads:  # other tasks decode, each on half of a remaining CPU
            decoder: Any = ray.remote(num_cpus=0.5)(_Decoder)
            free = int(ray.cluster_resources().get("CPU", 1) - pool.actors * pool.cpus)
            # As in the run: no more of them than there are stretches of the corpus, but one for each actor.
            count = max(len(actors), min(2 * free, len(stretches)))
            decoders = [decoder.remote(task, _round_robin(stretches, i, count)) for i in range(count)]
        quota = max(int(SHARE * task.shards.samples) // len(actors), BATCHES * task.batch)
        pictures = -(-PICTURES // len(actors))
        running = [
            actor.run.remote(
                _round_robin(stretches, i, len(actors)),
                decoders[i :: len(actors)],
                quota,
                pictures,
                SECONDS,
                MIN_SECONDS,
            )
            for i, actor in enumerate(actors)
        ]
        found = ray.get(running)
    finally:
        for actor in [*actors, *decoders]:
            ray.kill(actor)
    seen = _each_once(pa.concat_tables(one["rows"] for one in found))
    rows = seen.filter(pc.field("reason") == "").select(task.scorer.kept.schema.names)
    return Labeled(
        slots_per_second=sum(one["slots"] / one["seconds"] for one in found) / len(found),
        start=start,
        memory=max(one["memory"] for one in found),
        device_memory=max(one["device_memory"] or 0 for one in found) or None,
        seen=seen.num_rows,
        rows=rows,
        thumbnails=_pictures(_each_once(pa.concat_tables(one["pictures"] for one in found))),
        # Without what a file has of no row: the pilot may have few rows, a file of SCORES has 65,000.
        bytes_per_row=(encode_table(rows).nbytes - encode_table(rows[:0]).nbytes) / max(1, rows.num_rows),
    )


@dataclass(frozen=True)
class MeasuredHead:
    """The measured speed at which a head ranks stored features."""

    start: float
    """Seconds until a task had ranked a first batch."""
    samples_per_second: float
    """Of one task, without reading and writing."""


def measure_head(width: int, classes: int, batch: int, p: int, gpus: float) -> MeasuredHead:
    """Ranks random features of `width` numbers for a second."""
    begin = time.monotonic()
    reached, rate = ray.get(_rank_features.options(num_gpus=gpus).remote(width, classes, batch, p))
    return MeasuredHead(max(0.0, reached - begin), rate)


@ray.remote(num_cpus=1)
def _rank_features(width: int, classes: int, batch: int, p: int) -> tuple[float, float]:
    """(when it had ranked a batch, samples per second after that)."""
    import torch

    torch.set_num_threads(1)
    use_full_float32()
    device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
    features = torch.rand(batch, width).half()
    weight, bias = torch.rand(classes, width).to(device), torch.rand(classes).to(device)
    rank_features(features, weight, bias, p)
    first = last = time.monotonic()
    done = 0
    while last - first < HEAD_SECONDS:
        rank_features(features, weight, bias, p)
        done, last = done + batch, time.monotonic()
    return first, done / (last - first)


def random_network(root: Root, model: Model, classes: int) -> Artifact:
    """A network with random weights, as an artifact."""

    def write(draft: Draft) -> Built:
        return Built([write_bytes(draft.uri, WEIGHTS, save_weights(build(model, classes)))], describe(model, classes))

    return root.make("random", {"model": identity_of(model), "classes": classes}, write)


def _round_robin(stretches: Sequence[Sequence[Unit]], first: int, count: int) -> list[Unit]:
    """The units of every `count`-th stretch from `first` on; at least one stretch."""
    return [unit for units in stretches[first % len(stretches) :: count] for unit in units]


def _pictures(rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    some = rows.filter(pc.field("reason") == "")
    flat: Any = some.column("thumbnail").combine_chunks()
    pixels = flat.flatten().to_numpy()
    return some.column("key").to_numpy(), pixels.reshape(len(some), len(pixels) // max(1, len(some)))


def _each_once(rows: pa.Table) -> pa.Table:
    _, first = np.unique(rows.column("key").to_numpy(), return_index=True)
    return rows.take(first)


class _Labeler:
    """The ScoringActor of a run, with a time limit."""

    def load(self, task: ScoringTask, unit: Unit) -> float:
        """Loads the network and warms up; returns the seconds of a batch."""
        self._task, self._actor = task, ScoringActor(task)
        one = item([replace(unit, rows=min(task.batch, unit.rows))])
        collections.deque(self._actor(one), maxlen=0)  # warms up
        begin = time.monotonic()
        collections.deque(self._actor(one), maxlen=0)
        return time.monotonic() - begin

    def run(
        self,
        units: Sequence[Unit],
        decoders: Sequence[Any],
        quota: int,
        pictures: int,
        seconds: float,
        min_seconds: float,
    ) -> dict[str, Any]:
        """Scores the units repeatedly for `seconds`, or for `min_seconds` if `quota` slots are scored by then. Returns
        the thumbnails of `pictures` samples."""
        tables, small, slots, begin, now = [], [], 0, time.monotonic(), 0.0
        seen: set[int] = set()
        for table in itertools.chain.from_iterable(self._tables(units, decoders)):
            slots += self._task.batch
            key = table.column("key")[0].as_py()
            if key not in seen:
                seen.add(key)
                tables.append(table.drop_columns("thumbnail"))
                small.append(table.select(["key", "reason", "thumbnail"])[: max(0, pictures)])
                pictures -= len(table)
            now = time.monotonic() - begin
            if now >= seconds or (slots >= quota and now >= min_seconds):
                break
        rows = pa.concat_tables(tables)
        memory, device = peak_memory(), peak_device_memory()
        found = {"rows": rows, "pictures": pa.concat_tables(small)}
        return found | {"slots": slots, "seconds": now, "memory": memory, "device_memory": device}

    def _tables(self, units: Sequence[Unit], decoders: Sequence[Any]) -> Iterator[Iterator[pa.Table]]:
        waiting = collections.deque(decoder.next.remote() for _ in range(2) for decoder in decoders)
        turn = itertools.cycle(decoders)
        while True:
            if not decoders:
                yield self._actor(item(units))
                continue
            block = []
            for _ in range(PIXELS):
                block.append(ray.get(waiting.popleft()))
                waiting.append(next(turn).next.remote())
            yield self._actor(pa.concat_tables(block))


class _Decoder:
    """Decodes for the actors, as the decoding tasks of a run do."""

    def __init__(self, task: ScoringTask, units: Sequence[Unit]):
        self._batches = itertools.chain.from_iterable(decode(task, item(units)) for _ in itertools.count())

    def next(self) -> pa.Table:
        return next(self._batches)
