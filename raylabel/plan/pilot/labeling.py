"""How fast the corpus is labeled, and what scores look like."""

import collections
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from raylabel.corpus import Unit, Units
from raylabel.inference.actor import ScoringActor
from raylabel.inference.batches import ScoringTask, decode, item
from raylabel.inference.pool import PIXELS, units_of_item
from raylabel.inference.scores import unit_rows
from raylabel.models import WEIGHTS, Model, build, describe, save_weights
from raylabel.plan.pilot.process import draw, peak_device_memory, peak_memory, stretch
from raylabel.schema import SCORES
from raylabel.store.artifact import Artifact, Built, Draft, Root, identity_of, write_bytes

SECONDS = 8.0  # of labeling that are timed; start-up comes on top
LEAST = 3.0  # seconds of labeling that are timed, even where the share of the corpus is through sooner
SHARE = 0.001  # of the corpus that is labeled, at most
BATCHES = 8  # per actor that are labeled, at least: of a small corpus more than the share, and units more than once
PLACES = 8  # of the corpus that an actor visits, about, where it is not through sooner
PROBE = 16  # images of the batch that tells a slow network from a fast one, on a CPU


@dataclass(frozen=True)
class Labeled:
    """What labeling was seen to do. A slot is a sample's place in a padded batch."""

    slots_per_second: float
    """Of one actor beside the others, in the steady state."""
    start: float
    """Seconds until all actors had scored a first batch."""
    memory: int
    """Bytes, of the largest actor."""
    device_memory: int | None
    """Bytes of GPU memory, of the largest actor."""
    seen: int
    """Samples that were labeled or rejected, each counted once."""
    rows: pa.Table
    """SCORES of those that could be read."""
    bytes_per_row: float
    """Of SCORES, as they are stored."""


def measure_labeling(job: ScoringTask) -> Labeled:
    """Labels units of the corpus, drawn at random, as the run will; each actor stops by the clock."""
    begin, pool, unit = time.monotonic(), job.pool, unit_rows(job.corpus)
    drawn = draw(job.shards, unit)
    labeler: Any = ray.remote(num_cpus=pool.cpus, num_gpus=pool.gpus)(_Labeler)
    units = len(Units(job.shards.rows, unit))
    size = units_of_item(units, pool.actors)
    # As the run: no more actors than there are pieces of work.
    actors, decoders = [labeler.remote() for _ in range(min(pool.actors, -(-units // size)))], []
    try:
        # A batch of a slow network may take a minute on a CPU; an image takes about as long in a small one.
        small = replace(job, batch=job.batch if pool.gpus else min(PROBE, job.batch))
        once = max(ray.get([actor.load.remote(small, drawn[0]) for actor in actors]))
        start = time.monotonic() - begin
        if not pool.gpus:
            slot = once / small.batch
            while job.batch > PROBE and PLACES * job.batch * slot > SECONDS:
                job = replace(job, batch=job.batch // 2)
            once = max(ray.get([actor.load.remote(job, drawn[0]) for actor in actors]))
        # As long as those of the run, for it costs to begin inside a file, but so short that an actor sees some.
        rows = min(size * unit, max(1, int(SECONDS / PLACES / once)) * job.batch)
        places = [stretch(job.shards, one, rows, unit) for one in drawn]
        if not pool.threads:  # others decode, in halves of the CPUs that are left
            decoder: Any = ray.remote(num_cpus=0.5)(_Decoder)
            free = int(ray.cluster_resources().get("CPU", 1) - pool.actors * pool.cpus)
            count = max(len(actors), 2 * free)
            decoders = [decoder.remote(job, _dealt(places, i, count)) for i in range(count)]
        quota = max(int(SHARE * job.shards.samples) // len(actors), BATCHES * job.batch)
        running = [
            actor.run.remote(_dealt(places, i, len(actors)), decoders[i :: len(actors)], quota, SECONDS, LEAST)
            for i, actor in enumerate(actors)
        ]
        found = ray.get(running)
    finally:
        for actor in [*actors, *decoders]:
            ray.kill(actor)
    seen = _each_once(pa.concat_tables(one["rows"] for one in found))
    rows = seen.filter(pc.field("reason") == "").select(SCORES.names)
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    return Labeled(
        slots_per_second=sum(one["slots"] / one["seconds"] for one in found) / len(found),
        start=start,
        memory=max(one["memory"] for one in found),
        device_memory=max(one["device_memory"] or 0 for one in found) or None,
        seen=seen.num_rows,
        rows=rows,
        bytes_per_row=sink.tell() / max(1, rows.num_rows),
    )


def random_network(root: Root, model: Model, classes: int) -> Artifact:
    """An untrained network, as an artifact."""

    def write(draft: Draft) -> Built:
        return Built([write_bytes(draft.uri, WEIGHTS, save_weights(build(model, classes)))], describe(model, classes))

    return root.make("random", {"model": identity_of(model), "classes": classes}, write)


def _dealt(places: Sequence[Sequence[Unit]], first: int, count: int) -> list[Unit]:
    """What falls to one of `count` when the places are dealt, round after round; at least one place."""
    return [unit for place in places[first % len(places) :: count] for unit in place]


def _each_once(rows: pa.Table) -> pa.Table:
    _, first = np.unique(rows.column("key").to_numpy(), return_index=True)
    return rows.take(first)


class _Labeler:
    """An actor of the run, with a clock."""

    def load(self, job: ScoringTask, unit: Unit) -> float:
        """Makes ready to score; seconds that a batch takes."""
        self._job, self._actor = job, ScoringActor(job)
        one = item([replace(unit, rows=min(job.batch, unit.rows))])
        collections.deque(self._actor(one), maxlen=0)  # warms up
        begin = time.monotonic()
        collections.deque(self._actor(one), maxlen=0)
        return time.monotonic() - begin

    def run(
        self, units: Sequence[Unit], decoders: Sequence[Any], quota: int, seconds: float, least: float
    ) -> dict[str, Any]:
        """Scores the units, again and again, for so many seconds, or `least` if `quota` slots are through by then."""
        tables, slots, begin, now = [], 0, time.monotonic(), 0.0
        seen: set[int] = set()
        for table in itertools.chain.from_iterable(self._tables(units, decoders)):
            slots += self._job.batch
            key = table.column("key")[0].as_py()
            if key not in seen:
                seen.add(key)
                tables.append(table)
            now = time.monotonic() - begin
            if now >= seconds or (slots >= quota and now >= least):
                break
        rows = pa.concat_tables(tables)
        memory, device = peak_memory(), peak_device_memory()
        return {"rows": rows, "slots": slots, "seconds": now, "memory": memory, "device_memory": device}

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
    """A task of the run that decodes for the actors."""

    def __init__(self, job: ScoringTask, units: Sequence[Unit]):
        self._batches = itertools.chain.from_iterable(decode(job, item(units)) for _ in itertools.count())

    def next(self) -> pa.Table:
        return next(self._batches)
