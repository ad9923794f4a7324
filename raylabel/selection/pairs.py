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
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from raylabel.compute.progress import PatientProgress
from raylabel.compute.watchdog import heartbeat
from raylabel.errors import InputError
from raylabel.features.search import References, screen_precision
from raylabel.features.thumbnails import descriptors
from raylabel.schema import PAIRS
from raylabel.selection.compare import CANDIDATE, KINDS, Sets, only, pairs_of, starts
from raylabel.selection.samples import Samples, number_of, read_samples, read_table, take
from raylabel.selection.shuffle import run_tasks
from raylabel.store.artifact import Artifact, Built, Draft, File, Root, write_table
from raylabel.store.files import read_file
from raylabel.store.parts import commit_part, committed_parts, files_of

THRESHOLD = 0.93
"""Similarity from which two pictures are near-duplicates, -1 to 1. Chosen on planted copies: see docs/leaks.md."""
VERSION = 2  # of the arithmetic
ROWS = 4096  # samples compared at a time
TASK_PAIRS = 1 << 31  # pairs of one task: about a minute of work
BYTES = 2200  # of a sample in memory: its thumbnail, and its descriptor


def find_pairs(
    root: Root, scores: Artifact, sets: Mapping[str, Artifact], threshold: float | None = THRESHOLD
) -> Artifact:
    """PAIRS, the artifact `pairs`: the samples of `scores` that are in one of the sets.

    `scores` and `sets`: SCORES or PICTURES. If all have THUMBNAILS, near-duplicates are found too; otherwise, or if the
    threshold is None, only equal bytes and source videos. Parts that an earlier artifact compared with the same sets
    are not compared again, and the others are compared only with what is new.

    Files `pairs-*`, one per part that has pairs. Info: pairs (rows), removed (samples that are in a set), sets (name →
    kind → pairs and samples), threshold (None: near-duplicates were not searched for), new (parts that were compared in
    the build), earlier (parts whose pairs were all known).
    """
    if threshold is not None and not 0 < threshold <= 1:
        raise InputError(f"the threshold is {threshold}: give a similarity above 0 and up to 1")
    sets = dict(sorted(sets.items()))
    near = threshold is not None and all(one.files("thumbnails-") for one in (scores, *sets.values()))
    identity = {
        "scores": scores.digest,
        "sets": {name: one.digest for name, one in sets.items()},
        "threshold": threshold if near else None,
        "version": VERSION,
    }
    parts = {number_of(file.name): file for file in scores.files(f"{scores.name}-")}
    rows = sum(file.rows for file in parts.values())
    others = sum(file.rows for one in sets.values() for file in one.files(f"{one.name}-"))

    def build(draft: Draft) -> Built:
        known, done = _find_known(root, scores, parts, identity), committed_parts(draft.uri)
        todo = [number for number in parts if number not in done]
        left = sum(parts[number].rows for number in todo)
        gathered = ray.remote(num_cpus=1, max_retries=3, memory=2 * BYTES * others)(gather).remote(sets, near)
        tasks = [
            (gathered, scores, draft.uri, {number: known.get(number) for number in run}, threshold or 1.0, near)
            for run in _runs({number: parts[number].rows for number in todo}, others)
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


def gather(sets: Mapping[str, Artifact], near: bool) -> Sets:
    """All samples of the sets in memory: 2 KB each."""
    found = [
        read_samples(one, number_of(file.name), near) for one in sets.values() for file in one.files(f"{one.name}-")
    ]
    counts = [sum(file.rows for file in one.files(f"{one.name}-")) for one in sets.values()]
    key, digest, group = (np.concatenate([getattr(one, name) for one in found]) for name in ("key", "digest", "group"))
    thumbnail = np.concatenate([one.thumbnail for one in found]) if near else None
    return Sets(tuple(sets), np.repeat(np.arange(len(counts)), counts), Samples(key, digest, group, thumbnail))


def _compare(
    sets: Sets,
    scores: Artifact,
    folder: str,
    parts: Mapping[int, "_Known | None"],
    threshold: float,
    near: bool,
) -> list[dict[str, Any]]:
    """Writes and commits the PAIRS of some parts, and returns their records."""
    import torch

    torch.set_num_threads(1)
    lookups: dict[tuple[str, ...], tuple[Sets, References | None]] = {}
    records = []
    for number, known in parts.items():
        heartbeat()
        before = known.rows(number) if known else PAIRS.empty_table()
        left = tuple(name for name in sets.names if not (known and name in known.sets))
        tables = [before]
        if left:
            if left not in lookups:
                some = only(sets, left)
                theirs = some.samples.thumbnail
                references = None if theirs is None else References(descriptors(theirs), CANDIDATE, screen_precision())
                lookups[left] = some, references
            samples = read_samples(scores, number, near)
            for first in range(0, len(samples.key), ROWS):
                heartbeat()
                tables.append(pairs_of(take(samples, slice(first, first + ROWS)), *lookups[left], threshold))
        table = pa.concat_tables(tables).sort_by([("key", "ascending"), ("set", "ascending")])
        records.append(_commit(folder, number, table, len(left)))
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


@dataclass(frozen=True)
class _Known:
    """What an earlier artifact compared with a part."""

    uri: str
    sets: tuple[str, ...]
    """Those that are the same now."""
    has_rows: bool

    def rows(self, number: int) -> pa.Table:
        """The pairs with these sets."""
        if not self.has_rows:
            return PAIRS.empty_table()
        table = read_table(self.uri, "pairs", number, PAIRS.names)
        return table.filter(pc.is_in(table.column("set"), pa.array(self.sets, pa.string())))  # pyright: ignore


def _find_known(
    root: Root, scores: Artifact, parts: Mapping[int, File], identity: Mapping[str, Any]
) -> dict[int, _Known]:
    """Part → what is known of it: of all earlier artifacts, the one that knows the most sets of the most parts."""
    best: dict[int, _Known] = {}
    mine = _contents(scores)
    others = {one.digest: one for one in root.named(scores.name)}
    for pairs in root.named("pairs"):
        before = pairs.identity
        of = others.get(before["scores"])
        same = tuple(name for name, digest in identity["sets"].items() if before["sets"].get(name) == digest)
        if not (of and same and all(before[name] == identity[name] for name in ("threshold", "version"))):
            continue
        theirs, files = _contents(of), {number_of(file.name) for file in pairs.files("pairs-")}
        found = {n: _Known(pairs.uri, same, n in files) for n in parts if theirs.get(n) == mine[n]}
        if sum(len(one.sets) for one in found.values()) > sum(len(one.sets) for one in best.values()):
            best = found
    return best


def _contents(scores: Artifact) -> dict[int, tuple[str, ...]]:
    """Part → the checksums of its samples and its thumbnails."""
    found: dict[int, tuple[str, ...]] = {}
    for file in (*scores.files(f"{scores.name}-"), *scores.files("thumbnails-")):
        found[number_of(file.name)] = (*found.get(number_of(file.name), ()), file.sha256)
    return found


def _runs(rows: Mapping[int, int], others: int) -> Iterator[list[int]]:
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
