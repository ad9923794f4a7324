"""How fast scores become picks, and picks become training samples."""

import contextlib
import io
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from raylabel.artifact import Artifact, Built, Draft, Root, write_table
from raylabel.corpus import Corpus, Shards, Unit, read_unit
from raylabel.examples import SAMPLES, Materialize, summarise, write_part
from raylabel.pilot import process
from raylabel.schema import DIGEST_BYTES, SCORES, make_key
from raylabel.selection import Select, find_duplicates, select

SYNTHETIC = 200_000  # rows of scores that selection is timed on
READING = 1.5  # seconds for which each task reads
TRIED = 32  # samples whose writing tells how many can be written in the seconds there are


@dataclass(frozen=True)
class Selected:
    """What finding duplicates and selecting were seen to take."""

    rows: int
    """Of the scores that were made up: N, or fewer."""
    taken: float
    """Seconds for these."""
    seconds_per_row: float
    """For any more, of one task."""
    bytes_per_pick: float


@dataclass(frozen=True)
class Materialized:
    """What reading and writing samples was seen to take, of one task beside as many others as there are CPUs."""

    examples: Artifact
    """EXAMPLES of what was written, under arbitrary labels: something to train on."""
    start: float
    """Seconds of a stage without work."""
    seconds_per_row: float
    """To read; of the rows between picks too."""
    seconds_per_pick: float
    """To decode and write, besides."""
    bytes_per_pick: float


def measure_selection(root: Root, config: Select, classes: int, p: int, rows: int) -> Selected:
    """Finds duplicates and selects in made-up scores of up to SYNTHETIC rows, with K in proportion to `rows`, N."""
    many = min(SYNTHETIC, rows)
    few = min(many, max(1000, classes))
    taken, stored = [], 0.0
    for count in (few, few, many):  # the first one warms the workers up
        scores = _synthetic(root, count, classes, p, len(taken))
        share = Select(k=max(1, config.k * count // rows), p=config.p, rank=config.rank)
        begin = time.monotonic()
        with contextlib.redirect_stdout(io.StringIO()):  # their own lines of progress
            copies = find_duplicates(root, scores)
            picks = select(root, scores, copies, share, tuple(map(str, range(classes))))
        taken.append(time.monotonic() - begin)
        stored = sum(file.bytes for file in picks.files("picks-")) / picks.info["picks"]
    slope = (taken[2] - taken[1]) / (many - few) if rows > many else 0.0  # where there are no more, nobody asks
    return Selected(many, taken[2], max(0.0, slope), stored)


def _synthetic(root: Root, rows: int, classes: int, p: int, number: int) -> Artifact:
    """SCORES in which the classes come round in turn."""

    def build(draft: Draft) -> Built:
        rng, ends = np.random.default_rng(0), np.arange(0, rows * p + 1, p, dtype=np.int32)
        values = -np.sort(-rng.normal(size=(rows, p)).astype(np.float32), axis=1).ravel()
        flat = {
            "classes": ((np.arange(rows)[:, None] + np.arange(p)) % classes).astype(np.int32).ravel(),
            "log_odds": values,
            "logits": values,
        }
        digests = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(DIGEST_BYTES), rows, [None, pa.py_buffer(rng.bytes(rows * DIGEST_BYTES))]
        )
        lists = {name: pa.ListArray.from_arrays(ends, column) for name, column in flat.items()}
        columns = {"key": pa.array(np.arange(rows)), "digest": digests, **lists}
        table = pa.Table.from_arrays([columns[f.name].cast(f.type) for f in SCORES], schema=SCORES)
        return Built([write_table(draft.uri, "scores-000000.parquet", table)], {"p": p})

    return root.make("scores", {"synthetic": [rows, classes, p, number]}, build)


def measure_materializing(
    root: Root, name: str, shards: Shards, corpus: Corpus, config: Materialize, classes: int
) -> Materialized:
    """Reads runs of the corpus on every CPU, and writes them as EXAMPLES, all at once."""
    tasks = max(1, int(ray.cluster_resources().get("CPU", 1)))
    runs = [_run(shards, unit) for unit in process.draw_units(shards)[:tasks]]
    records: dict[int, dict[str, Any]] = {}

    def build(draft: Draft) -> Built:
        shared = (shards, corpus, config, classes, process.SECONDS / 2)
        found = ray.get([_materialize.remote(draft.uri, part, run, *shared) for part, run in enumerate(runs)])
        records.update(enumerate(found))
        return summarise(records, sum(record["samples"] for record in records.values()), 1.0)

    begin = time.monotonic()
    examples = root.make(f"examples-{name}", {"pilot": name}, build)
    took = time.monotonic() - begin
    rows, picks = (sum(record[name] for record in records.values()) for name in ("rows", "samples"))
    reading, writing = (sum(record[name] for record in records.values()) for name in ("reading", "writing"))
    stored = sum(file.bytes for file in examples.files("examples-"))
    return Materialized(
        examples=examples,
        start=max(0.0, took - max(record["reading"] + record["writing"] for record in records.values())),
        seconds_per_row=reading / rows,
        seconds_per_pick=max(0.0, writing / picks - reading / rows),
        bytes_per_pick=stored / max(1, examples.info["samples"]),
    )


def _run(shards: Shards, unit: Unit) -> Unit:
    """What follows in its shard from the unit's first row on, as many rows as a file of EXAMPLES has."""
    return Unit(unit.shard, unit.first, min(SAMPLES, int(shards.rows[unit.shard]) - unit.first))


@ray.remote(num_cpus=1)
def _materialize(
    folder: str, part: int, run: Unit, shards: Shards, corpus: Corpus, config: Materialize, classes: int, seconds: float
) -> dict[str, Any]:
    """Reads the run, for READING seconds at most; then writes what a try of a few samples says will take `seconds`."""
    begin, rows = time.monotonic(), 0
    for _ in read_unit(corpus, shards.row(run.shard), run):
        rows += 1
        if time.monotonic() - begin > READING:
            break
    reading = time.monotonic() - begin

    def write(where: str, count: int) -> tuple[float, dict[str, Any]]:
        keys = make_key(run.shard, run.first) + np.arange(count)
        begin = time.monotonic()
        record = write_part(where, part, keys % classes, keys, np.arange(count), shards, corpus, config)
        return time.monotonic() - begin, record

    few = min(run.rows, TRIED)
    tried, _ = write(f"{folder}/scratch/{part}", few)
    writing, record = write(folder, min(run.rows, max(2 * config.lanes, int(few * seconds / tried))))
    return {**record, "rows": rows, "reading": reading, "writing": writing}
