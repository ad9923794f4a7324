"""Measures how fast pictures are compared, and how many of a sample of the corpus are so alike that they are aligned.

The parts of the search are timed one by one, since they grow in different ways: what is done for each picture, for each
pair of pictures, and for each pair that is alike.

Letters: n pictures.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from raylabel.features.alignment import similarities
from raylabel.features.partitions import nearest
from raylabel.features.search import Pairs, References, screen_precision
from raylabel.features.thumbnails import descriptors
from raylabel.selection import leaders
from raylabel.selection.compare import CANDIDATE, Sets, pairs_of
from raylabel.selection.pairs import ROWS, THRESHOLD
from raylabel.selection.samples import Samples, number_of, read_samples, take
from raylabel.store.artifact import Artifact

SAMPLED = 8192  # pictures that are compared with each other, at most
FILES = 4  # of existing THUMBNAILS that they are read from
FEW = 16  # references beside which the work for each picture is timed
ALIGNED = 1024  # pairs that are aligned to time it
SECONDS = 0.3  # for which each part is repeated


@dataclass(frozen=True)
class Inside:
    """The measured time of comparing a corpus with itself, by one task."""

    seconds_per_pair: float
    """To see that two pictures are not alike, in smaller blocks than with other sets."""
    seconds_per_centroid: float
    """To compare a picture with a centroid."""
    seconds_per_call: float
    """To align a single pair; further pairs of the same block of pictures take less."""
    candidates: np.ndarray
    """float64 [n]: the share of all other pictures that are so similar to one that the pair is aligned."""


@dataclass(frozen=True)
class Compared:
    """The measured time of comparing a corpus with other sets, by one task while one runs on every CPU."""

    seconds_per_row: float
    """Of a picture of the corpus, besides comparing it; also to prepare a reference."""
    seconds_per_pair: float
    """To see that a picture and a reference are not alike."""
    seconds_per_candidate: float
    """To align a picture with one that it is like."""
    candidates: float
    """The share of pairs of pictures of the corpus that are aligned."""
    inside: Inside | None
    """None unless the corpus is compared with itself."""


def measure_comparing(key: np.ndarray, thumbnails: np.ndarray, unit: int, inside: bool) -> Compared:
    """Compares pictures of the corpus with each other, on all CPUs at the same time. `key`: int64 [n]. `thumbnails`:
    uint8 [n, side * side * 3]. `unit`: neighbours within so many rows may be alike, so their pairs are not counted."""
    shared, tasks = ray.put((key, thumbnails)), max(1, int(ray.cluster_resources().get("CPU", 1)))
    task: Any = ray.remote(num_cpus=1)(measure_sample)
    found = ray.get([task.remote(shared, unit, inside) for _ in range(tasks)])
    compared, within = (_mean([one[part] for one in found]) for part in (0, 1))
    return Compared(*compared, inside=Inside(*within) if inside else None)


def _mean(rows: list[tuple[Any, ...]]) -> list[Any]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


@ray.remote(num_cpus=1)
def stored_thumbnails(scores: Artifact) -> tuple[np.ndarray, np.ndarray]:
    """(keys int64 [n], thumbnails uint8 [n, side * side * 3]) of samples of existing SCORES."""
    files = scores.files("thumbnails-")
    files = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, FILES).round().astype(int))]
    parts = []
    for file in files:
        samples = read_samples(scores, number_of(file.name), True)
        parts.append(take(samples, slice(None, None, max(1, -(-len(samples.key) * len(files) // SAMPLED)))))
    return np.concatenate([one.key for one in parts]), np.concatenate([one.thumbnail for one in parts])


def measure_sample(sample: tuple[np.ndarray, np.ndarray], unit: int, inside: bool) -> tuple[tuple, tuple]:
    """On this CPU: the fields of `Compared` before `inside`, and those of `Inside`."""
    import torch

    torch.set_num_threads(1)
    key, pictures = (values[:SAMPLED] for values in sample)
    n, precision, unit_of = len(key), screen_precision(), key // unit
    if len(np.unique(unit_of)) == 1:
        unit_of = np.arange(n)
    feature = descriptors(pictures)
    references = References(feature, CANDIDATE, precision)
    per_pair = _timed(lambda: references.pairs(feature[:ROWS])) / (min(n, ROWS) * n)
    found = _apart(_all_pairs(references, feature), unit_of)
    count = len(found.at)
    some = found.at[:ALIGNED], found.reference[:ALIGNED]
    per_candidate = _timed(lambda: similarities(pictures[some[0]], pictures[some[1]])) / len(some[0]) if count else 0.0
    samples = Samples(key, np.arange(n).astype("S16"), np.zeros(n, np.int64), pictures)
    few = Sets(("test",), np.zeros(min(n, FEW), np.int64), take(samples, slice(0, FEW)))
    beside, block = References(feature[:FEW], CANDIDATE, precision), take(samples, slice(0, ROWS))
    per_row = _timed(lambda: pairs_of(block, few, beside, THRESHOLD)) / len(block.key)
    possible = _possible(unit_of)
    compared = per_row, per_pair, per_candidate, count / max(1, int(possible.sum()))
    if not inside:
        return compared, ()

    stricter = References(feature, leaders.CANDIDATE, precision)
    blocks = [feature[first : first + leaders.BLOCK] for first in range(0, min(n, ROWS), leaders.BLOCK)]
    per_pair = _timed(lambda: [stricter.pairs(some) for some in blocks]) / (min(n, ROWS) * n)
    alike = np.bincount(_apart(_all_pairs(stricter, feature), unit_of).at, minlength=n) / np.maximum(1, possible)
    per_call = _timed(lambda: similarities(pictures[:1], pictures[:1]))  # equal ones are not given up
    per_centroid = _timed(lambda: nearest(feature[:ROWS], feature.astype(np.float32))) / (min(n, ROWS) * n)
    return compared, (per_pair, per_centroid, per_call, alike)


def _timed(work: Callable[[], Any]) -> float:
    """Seconds of a call, after one that warms up."""
    work()
    calls, begin = 0, time.monotonic()
    while (took := time.monotonic() - begin) < SECONDS:
        work()
        calls += 1
    return took / calls


def _all_pairs(references: References, feature: np.ndarray) -> Pairs:
    """The pairs of the pictures, in both orders, and of each with itself."""
    firsts = range(0, len(feature), ROWS)
    found = [references.pairs(feature[first : first + ROWS]) for first in firsts]
    at = np.concatenate([one.at + first for one, first in zip(found, firsts, strict=True)])
    others = (np.concatenate([getattr(one, name) for one in found]) for name in ("reference", "similarity"))
    return Pairs(at, *others)


def _apart(pairs: Pairs, unit_of: np.ndarray) -> Pairs:
    """The pairs of pictures that are in different units."""
    apart = unit_of[pairs.at] != unit_of[pairs.reference]
    return Pairs(pairs.at[apart], pairs.reference[apart], pairs.similarity[apart])


def _possible(unit_of: np.ndarray) -> np.ndarray:
    """int64 [n]: how many pictures are in other units than a picture."""
    _, index, count = np.unique(unit_of, return_inverse=True, return_counts=True)
    return len(unit_of) - count[index]
