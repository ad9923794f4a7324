"""Measures how fast samples are selected, and how fast picks are materialized."""

import contextlib
import io
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from raylabel.corpus import Unit, read_unit, unit_rows
from raylabel.plan.pilot.process import draw
from raylabel.schema import DIGEST_BYTES, SCORES, make_key
from raylabel.selection.config import Select
from raylabel.selection.duplicates import find_duplicates
from raylabel.selection.select import select
from raylabel.store.artifact import Artifact, Built, Draft, File, Root, write_table
from raylabel.store.files import filesystem
from raylabel.store.reject_limit import RejectTally
from raylabel.training.digests import TASK
from raylabel.training.examples import labels_of_part, rejected_of, write_labels
from raylabel.training.media import WritingTask, finish_media, write_part
from raylabel.training.samples import samples_table

SYNTHETIC = 200_000  # rows of synthetic scores on which selection is timed
READING = 1.5  # seconds for which each task reads
WRITING = 4.0  # seconds for which each task writes
PROBE = 32  # samples that are written first, to see how many can be written in these seconds


@dataclass(frozen=True)
class Sorted:
    """The measured time of a pass over SCORES."""

    rows: int
    """Rows of the synthetic scores: N, or fewer."""
    seconds: float
    """Seconds for these rows."""
    seconds_per_row: float
    """Seconds of one task for each further row."""


@dataclass(frozen=True)
class Selected:
    """The measured time of finding duplicates and of selecting."""

    duplicates: Sorted
    select: Sorted
    bytes_per_pick: float


@dataclass(frozen=True)
class Materialized:
    """The measured time of reading and writing samples, by one task while one task runs on every CPU."""

    examples: Artifact
    """EXAMPLES of the samples that were written, with arbitrary labels, for the pilot of training."""
    start: float
    """Seconds of the stage besides its longest task."""
    seconds_per_row: float
    """Seconds to read a row."""
    seconds_per_pick: float
    """Additional seconds to decode and write a picked row."""
    bytes_per_pick: float
    group_rows: int
    """Rows of which the first ones are read too: of a parquet row group, of a unit of a tar; 1 for loose files."""


def measure_selection(root: Root, config: Select, classes: int, p: int, rows: int) -> Selected:
    """Times duplicate search and selection on synthetic scores of up to SYNTHETIC rows, with K scaled to `rows`, N."""
    many = min(SYNTHETIC, rows)
    few = min(many, max(1000, classes))
    names = tuple(map(str, range(classes)))
    taken, stored = np.zeros((3, 2)), 0.0
    for number, count in enumerate((few, few, many)):  # the first pass warms up the workers
        scores = _synthetic(root, count, classes, p, number)
        share = Select(k=max(1, config.k * count // rows), p=config.p, rank=config.rank)
        taken[number, 0], copies = _timed(lambda scores=scores: find_duplicates(root, scores))
        taken[number, 1], picks = _timed(
            lambda scores=scores, copies=copies, share=share: select(root, scores, copies, share, names)
        )
        stored = sum(file.bytes for file in picks.files("picks-")) / picks.info["picks"]
    slope = np.maximum(0, taken[2] - taken[1]) / max(1, many - few)
    parts = [Sorted(many, float(seconds), float(more)) for seconds, more in zip(taken[2], slope, strict=True)]
    return Selected(*parts, bytes_per_pick=stored)


def _timed(make: Callable[[], Artifact]) -> tuple[float, Artifact]:
    """(seconds, the artifact); the progress lines are not shown."""
    begin = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):
        made = make()
    return time.monotonic() - begin, made


def _synthetic(root: Root, rows: int, classes: int, p: int, number: int) -> Artifact:
    """SCORES with random values, in which each class is equally frequent."""

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
        none = pa.ListArray.from_arrays(np.zeros(rows + 1, np.int32), np.empty(0, np.int32))
        plain = {"key": np.arange(rows), "group": np.zeros(rows, np.int64)}
        columns = {**{name: pa.array(x) for name, x in plain.items()}, "digest": digests, **lists, "clips": none}
        table = pa.Table.from_arrays([columns[f.name].cast(f.type) for f in SCORES], schema=SCORES)
        return Built([write_table(draft.uri, "scores-000000.parquet", table)], {"p": p})

    return root.make("scores", {"synthetic": [rows, classes, p, number]}, build)


def measure_materializing(
    root: Root,
    name: str,
    task: WritingTask,
    classes: int,
) -> Materialized:
    """Times one task on each CPU, all at the same time: each reads rows of the corpus and writes them as EXAMPLES."""
    tasks = max(1, int(ray.cluster_resources().get("CPU", 1)))
    records: list[dict[str, Any]] = []

    def build(draft: Draft) -> Built:
        shared: Any = ray.put(task)
        drawn = list(enumerate(draw(task.shards, unit_rows(task.corpus))[:tasks]))
        lanes = spread(task.config.lanes, min(tasks, len(drawn)))
        work = [_materialize.remote(draft.uri, part, unit, lanes[part], shared, WRITING) for part, unit in drawn]
        records.extend(ray.get(work))
        tally = RejectTally(sum(record["samples"] for record in records), 1.0, "picked samples", name)
        for record in records:
            tally.add(record["samples"], record["reasons"])  # no tables: the pilot's folder is deleted
        return finish_media(draft, dict(enumerate(records)), tally)

    def build_labels(draft: Draft) -> Built:
        work = [_label.remote(draft.uri, media, record, classes) for record in records]
        files = [file for file in ray.get(work) if file.rows]
        return write_labels(draft, media, files, sum(file.rows for file in files))

    begin = time.monotonic()
    media = root.make(f"media-{name}", {"pilot": name}, build)
    took = time.monotonic() - begin
    examples = root.make(f"examples-{name}", {"pilot": name}, build_labels)
    rows, picks, reading, writing = (
        sum(record[name] for record in records) for name in ("rows", "samples", "reading", "writing")
    )
    per_row, stored = reading / rows, sum(file.bytes for file in media.files("media-"))
    return Materialized(
        examples=examples,
        start=max(0.0, took - max(record["seconds"] for record in records)),
        seconds_per_row=per_row,
        seconds_per_pick=max(0.0, writing / picks - per_row),
        bytes_per_pick=stored / max(1, examples.info["samples"]),
        group_rows=max(record["group_rows"] for record in records),
    )


@ray.remote(num_cpus=1)
def _materialize(
    folder: str, part: int, unit: Unit, lanes: list[int], task: WritingTask, seconds: float
) -> dict[str, Any]:
    """Reads from the start of the unit for at most READING seconds. Then writes as many samples as take `seconds`."""
    begin, shard, corpus = time.monotonic(), task.shards.row(unit.shard), task.corpus
    group = unit_rows(corpus) if shard["format"] == "webdataset" else 1
    if shard["format"] == "parquet":
        fs, path = filesystem(shard["uri"])
        with pq.ParquetFile(path, filesystem=fs) as file:
            group = file.metadata.row_group(0).num_rows
    first = unit.first - unit.first % group  # the row group that has the first row of the unit
    end = min(first + TASK[corpus.kind], shard["rows"])
    rows, reading = 0, time.monotonic()
    for _ in read_unit(corpus, shard, Unit(unit.shard, first, end - first)):
        rows += 1
        if time.monotonic() - reading > READING:
            break
    reading = time.monotonic() - reading

    def write(where: str, count: int) -> tuple[float, dict[str, Any]]:
        keys = [make_key(unit.shard, row) for row in range(first, first + count)]
        begin = time.monotonic()
        record = write_part(where, part, keys, lanes, task)
        return time.monotonic() - begin, {**record, "keys": keys, "lanes": lanes}

    few = min(end - first, PROBE)
    probe_seconds, _ = write(f"{folder}/scratch/{part}", few)
    writing, record = write(folder, min(end - first, max(2 * task.config.lanes, int(few * seconds / probe_seconds))))
    found = {"rows": rows, "reading": reading, "writing": writing, "group_rows": group}
    return {**record, **found, "seconds": time.monotonic() - begin}


@ray.remote(num_cpus=1)
def _label(folder: str, media: Artifact, record: dict[str, Any], classes: int) -> File:
    """Writes arbitrary labels of a part of MEDIA."""
    keys = np.array(record["keys"], np.int64)
    samples = samples_table(keys, np.arange(len(keys) + 1), keys % classes)
    labels = labels_of_part(samples, rejected_of(media, record["part"]), len(record["lanes"]))
    return write_table(folder, f"examples-{record['part']:06d}.parquet", labels)


def spread(lanes: int, parts: int) -> list[list[int]]:
    """The lanes of the groups of each part: all of them, in order, at least one for each part."""
    ends = [part * lanes // parts for part in range(parts + 1)]
    return [list(range(begin, max(end, begin + 1))) for begin, end in itertools.pairwise(ends)]
