"""SCORES and THUMBNAILS of a corpus, and those of other sets → PAIRS: samples of the corpus that are also in a set.

Yalniz et al. 2019 §4.1 remove near-duplicates of the test images from the corpus before anything else, since a test
image that was learned measures memory. They search an index of the corpus for each test image, look at the most similar
pairs, and remove by hand. Here every sample of the corpus is compared with every sample of the sets, without an index:
the sets are in memory, and the corpus streams past them. No media are read.

compare.py defines a pair.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from raylabel.compute.progress import PatientProgress
from raylabel.compute.tasks import run_tasks
from raylabel.compute.watchdog import heartbeat
from raylabel.errors import InputError
from raylabel.features.search import References, screen_precision
from raylabel.features.thumbnails import descriptors
from raylabel.schema import PAIRS
from raylabel.selection.compare import CANDIDATE, KINDS, Sets, merge, only, pairs_of, starts
from raylabel.selection.references import Gathered, Known, Reference, find_known, gather
from raylabel.selection.samples import number_of, read_samples, read_table, take
from raylabel.store.artifact import Artifact, Built, Draft, Root, write_table
from raylabel.store.files import read_file
from raylabel.store.parts import commit_part, committed_parts, files_of

THRESHOLD = 0.93
"""Similarity from which two pictures are near-duplicates, -1 to 1. Chosen on planted copies: see docs/leaks.md."""
VERSION = 2  # of the arithmetic
ROWS = 4096  # samples compared at a time
TASK_PAIRS = 1 << 31  # pairs of one task: about a minute of work
BYTES = 2200  # of a sample in memory: its thumbnail, and its descriptor


def find_pairs(
    root: Root, scores: Artifact, sets: Mapping[str, Reference], threshold: float | None = THRESHOLD
) -> Artifact:
    """PAIRS, the artifact `pairs`: the samples of `scores` that are in one of the sets.

    `scores`: SCORES or PICTURES. If all have THUMBNAILS, near-duplicates are found too; otherwise, or if the threshold
    is None, only equal bytes and source videos. Of what an earlier artifact compared, nothing is compared again: a part
    of the corpus that is the same is compared only with the samples of the sets that are new.

    Files `pairs-*`, one per part that has pairs. Info: pairs (rows), removed (samples that are in a set), sets (name →
    kind → pairs and samples), threshold (None: near-duplicates were not searched for), new (parts that were compared in
    the build), earlier (parts whose pairs were all known).
    """
    if threshold is not None and not 0 < threshold <= 1:
        raise InputError(f"the threshold is {threshold}: give a similarity above 0 and up to 1")
    sets = dict(sorted(sets.items()))
    near = threshold is not None and all(
        one.files("thumbnails-") for one in (scores, *(one.samples for one in sets.values()))
    )
    identity = {
        "scores": scores.digest,
        "sets": {name: one.samples.digest for name, one in sets.items()},
        "threshold": threshold if near else None,
        "version": VERSION,
    }
    if picks := {name: one.picks.digest for name, one in sets.items() if one.picks}:
        identity["picks"] = picks
    parts = {number_of(file.name): file for file in scores.files(f"{scores.name}-")}
    rows, others = sum(file.rows for file in parts.values()), sum(one.rows for one in sets.values())

    def build(draft: Draft) -> Built:
        known, done = find_known(root, scores, sets, identity), committed_parts(draft.uri)
        todo = [number for number in parts if number not in done]
        left = sum(parts[number].rows for number in todo)
        before = known.sets if known else {}
        gathered = ray.remote(num_cpus=1, max_retries=3, memory=3 * BYTES * others)(gather).remote(sets, before, near)
        tasks = [
            (gathered, scores, draft.uri, run, known, threshold or 1.0, near)
            for run in task_parts({number: parts[number].rows for number in todo}, others)
        ]

        def show(share: float) -> None:
            progress.update(rows - left + int(share * left))

        memory = BYTES * (2 * others + 2 * max((file.rows for file in parts.values()), default=0))
        with PatientProgress("compare with the evaluation sets", rows, "samples") as progress:
            for records in run_tasks(_compare, tasks, show, memory):
                done |= {record["part"]: record for record in records}
        return Built(files_of(done), {**_info(done), "threshold": threshold if near else None})

    return root.make("pairs", identity, build)


def read_keys(uris: Sequence[str]) -> np.ndarray:
    """The keys of the samples that are in a set, in files of PAIRS, int64, ascending; a request for each file."""

    def keys(uri: str) -> np.ndarray:
        table = pq.read_table(pa.BufferReader(read_file(uri)), columns=["key", "kind"], use_threads=False)
        return table.filter(in_a_set(table)).column("key").to_numpy()

    with ThreadPoolExecutor(16) as pool:
        return np.unique(np.concatenate([np.empty(0, np.int64), *pool.map(keys, uris)]))


def first_pairs(pairs: Artifact) -> Iterator[dict[str, Any]]:
    """The rows of PAIRS that say that a sample is in a set, in key order."""
    for file in pairs.files("pairs-"):
        table = read_table(pairs.uri, "pairs", number_of(file.name), PAIRS.names)
        yield from table.filter(in_a_set(table)).to_pylist()


def in_a_set(table: pa.Table) -> pa.ChunkedArray:
    """Which PAIRS say that a sample is in a set."""
    return pc.not_equal(table.column("kind"), "below")  # pyright: ignore[reportAttributeAccessIssue]


def _compare(
    gathered: Gathered,
    scores: Artifact,
    folder: str,
    parts: Sequence[int],
    known: Known | None,
    threshold: float,
    near: bool,
) -> list[dict[str, Any]]:
    """Writes and commits the PAIRS of some parts, and returns their records."""
    import torch

    torch.set_num_threads(1)
    sets, lookups = gathered.sets, dict[bool, tuple[Sets, References | None]]()

    def lookup(again: bool) -> tuple[Sets, References | None]:
        """The samples of the sets that a part is compared with, if it was compared before (`again`), or if not."""
        if again not in lookups:
            some = only(sets, ~gathered.known) if again else sets
            theirs = some.samples.thumbnail
            references = None if theirs is None else References(descriptors(theirs), CANDIDATE, screen_precision())
            lookups[again] = some, references
        return lookups[again]

    records = []
    for number in parts:
        heartbeat()
        before = known.rows(number, gathered) if known else None
        some, references = lookup(before is not None)
        tables = [PAIRS.empty_table() if before is None else before]
        compared = len(some.samples.key)
        if compared:
            samples = read_samples(scores, number, near)
            for first in range(0, len(samples.key), ROWS):
                heartbeat()
                mine = take(samples, slice(first, first + ROWS))
                tables.append(pairs_of(mine, some, references, threshold))
        records.append(_commit(folder, number, merge(tables, sets.names), compared))
    return records


def _commit(folder: str, number: int, table: pa.Table, compared: int) -> dict[str, Any]:
    files = [write_table(folder, f"pairs-{number:06d}.parquet", table)] if len(table) else []
    key = table.column("key").to_numpy()
    of_set, kind = (np.array(table.column(name).to_pylist(), str) for name in ("set", "kind"))
    counts = [
        [name, one, int(mine.sum()), int(np.count_nonzero(starts(key[mine])))]
        for name, one in sorted({*zip(of_set.tolist(), kind.tolist(), strict=True)})
        for mine in [(of_set == name) & (kind == one)]
    ]
    removed = int(np.count_nonzero(starts(key[kind != "below"])))
    found = {"removed": removed, "counts": counts, "compared": compared, "reasons": {}}
    return commit_part(folder, number, files, found)


def _info(records: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    sets: dict[str, dict[str, dict[str, int]]] = {}
    for record in records.values():
        for name, kind, pairs, samples in record["counts"]:
            found = sets.setdefault(name, {}).setdefault(kind, {"pairs": 0, "samples": 0})
            found["pairs"] += pairs
            found["samples"] += samples
    new = sum(record["compared"] > 0 for record in records.values())
    return {
        "pairs": sum(found["pairs"] for kinds in sets.values() for found in kinds.values()),
        "removed": sum(record["removed"] for record in records.values()),
        "sets": {name: dict(sorted(kinds.items())) for name, kinds in sorted(sets.items())},
        "new": new,
        "earlier": len(records) - new,
    }


def count_samples(pairs: Artifact, of_set: str, kind: str) -> int:
    """Samples that have such a pair."""
    return pairs.info["sets"].get(of_set, {}).get(kind, {}).get("samples", 0)


def find_references(pairs: Artifact, of_set: str) -> dict[str, np.ndarray]:
    """Kind → the keys of the samples of a set that are in PAIRS, int64, ascending. All PAIRS are
    read; no more is kept than the set has."""
    found = {kind: np.empty(0, np.int64) for kind in KINDS}
    with ThreadPoolExecutor(16) as pool:
        read = functools.partial(read_table, pairs.uri, "pairs", columns=["set", "reference", "kind"])
        for table in pool.map(read, (number_of(file.name) for file in pairs.files("pairs-"))):
            mine = table.filter(pc.equal(table.column("set"), of_set))  # pyright: ignore[reportAttributeAccessIssue]
            for kind in KINDS:
                keys = mine.filter(pc.equal(mine.column("kind"), kind)).column("reference")  # pyright: ignore
                found[kind] = np.union1d(found[kind], keys.to_numpy())
    return found


def task_parts(rows: Mapping[int, int], others: int) -> Iterator[list[int]]:
    """The parts of each task."""
    run, pairs = list[int](), 0
    for number, count in rows.items():
        run.append(number)
        pairs += count * max(others, 1000)  # reading takes time too
        if pairs >= TASK_PAIRS:
            yield run
            run, pairs = [], 0
    if run:
        yield run
