"""Label sources: labels that say nothing about the samples.

Drawn at random, as Pondenkandath et al. 2018 (arXiv 1811.01640, §3) pre-train on; or the true labels of a labeled set,
permuted, so that each class has as many samples as before. In each round they are drawn again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from raylabel.compute.progress import PatientProgress
from raylabel.compute.tasks import run_tasks
from raylabel.compute.watchdog import heartbeat
from raylabel.corpus import Corpus, Shards
from raylabel.errors import InputError
from raylabel.labels.picks import sorted_picks
from raylabel.labels.source import make_picks
from raylabel.labels.truth import GivenLabels
from raylabel.rng import mixed, uniform
from raylabel.schema import PICKS, make_key
from raylabel.selection.select import SLICE
from raylabel.store.artifact import Artifact, Built, Draft, File, Root, write_table

VERSION = 1  # of the numbers
ROWS = 1 << 24  # picks of one task, about; of more samples of one class a task has all
BLOCK = 1 << 20  # keys that are drawn together
ROW_GROUP = 1 << 20
MOST = 1 << 20
"""Samples that may be classes of their own."""


@dataclass(frozen=True, kw_only=True)
class RandomLabels:
    """One of C classes for every sample, each with the same probability: a function of the seed, the round and the
    sample's key."""

    classes: tuple[str, ...]
    """Names of the classes, in the order of their indices."""
    seed: int = 0

    @property
    def name(self) -> str:
        return "random"

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"random": list(self.classes), "seed": self.seed, "version": VERSION}

    def label(self, root: Root, corpus: Corpus, shards: Artifact, round: int = 0) -> Artifact:
        """PICKS of every sample of the corpus, which is not read; other ones in each round. Files as those of a
        selection. InputError without two classes."""
        if len(self.classes) < 2:
            raise InputError(f"{len(self.classes)} random classes: give two or more")
        of = Shards(shards)

        def build(draft: Draft) -> Built:
            total, slices = of.samples, _slices(len(self.classes), of.samples)
            tasks = [
                (_Drawing(of, draft.uri, len(self.classes), self.seed, round), n, *s) for n, s in enumerate(slices)
            ]
            most = max(high - low for low, high in slices)
            with PatientProgress("draw labels", total, "samples") as progress:
                memory = 60 * (total * most // len(self.classes) + BLOCK)
                made = run_tasks(_write_slice, tasks, lambda share: progress.update(int(share * total)), memory)
            files, counts = [file for file, _ in made], [count for _, some in made for count in some]
            info = {"picks": total, "samples": total, "per_class": counts, "classes": list(self.classes)}
            return Built(files, info)

        identity = {"shards": shards.info["content"], **self.identity} | ({"round": round} if round else {})
        return root.make(self.name, identity, build)


@dataclass(frozen=True, kw_only=True)
class ShuffledLabels:
    """The true labels of a labeled set, permuted: a function of the seed, the round and the samples' keys."""

    seed: int = 0
    classes: tuple[str, ...] | None = None
    """As of `GivenLabels`."""

    @property
    def name(self) -> str:
        return "shuffled"

    @property
    def identity(self) -> Mapping[str, Any]:
        classes = list(self.classes) if self.classes else None
        return {"shuffled": True, "classes": classes, "seed": self.seed, "version": VERSION}

    def label(self, root: Root, corpus: Corpus, shards: Artifact, round: int = 0) -> Artifact:
        """PICKS of every sample of a labeled set, of each class as many as have it; other ones in each round.
        InputError as of `GivenLabels.label`."""
        truth = GivenLabels(classes=self.classes).label(root, corpus, shards)

        def read() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
            table = truth.table("picks", PICKS, ["label", "key"]).sort_by("key")
            key, label = (table.column(name).to_numpy() for name in ("key", "label"))
            order = np.lexsort((key, mixed(key, self.seed, round)))
            return key[order], label.astype(np.int64), tuple(truth.info["classes"])

        return make_picks(root, self, shards, read, round)


@dataclass(frozen=True, kw_only=True)
class OwnLabels:
    """Each sample is a class of its own, as the surrogate classes of Dosovitskiy et al. 2014 (arXiv 1406.6909)."""

    @property
    def name(self) -> str:
        return "own"

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"own": True, "version": VERSION}

    def label(self, root: Root, corpus: Corpus, shards: Artifact, round: int = 0) -> Artifact:
        """PICKS of every sample of the corpus, the same in every round. InputError with fewer than two samples, or more
        than `MOST`, for which no head is large enough."""
        of = Shards(shards)
        if not 2 <= of.samples <= MOST:
            raise InputError(f"{of.samples:,} samples as classes of their own: give 2 to {MOST:,}, by a share")

        def read() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
            keys = [make_key(number, 0) + np.arange(rows) for number, rows in enumerate(of.rows.tolist())]
            label = np.arange(of.samples)
            return np.concatenate(keys).astype(np.int64), label, tuple(f"sample {number}" for number in label)

        return make_picks(root, self, shards, read)


@dataclass(frozen=True)
class _Drawing:
    """What a task is told to do."""

    shards: Shards
    folder: str
    classes: int
    seed: int
    round: int

    def draws(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(keys, labels), int64, of all samples in blocks, in key order."""
        for number, rows in enumerate(self.shards.rows.tolist()):
            for first in range(0, rows, BLOCK):
                heartbeat()
                key = make_key(number, first) + np.arange(min(BLOCK, rows - first), dtype=np.int64)
                yield key, draw(key, self.classes, self.seed, self.round)


def draw(key: np.ndarray, classes: int, seed: int, round: int = 0) -> np.ndarray:
    """The random label of each key, int64 [n], from 0 to `classes` - 1."""
    return (uniform(mixed(key, seed, round)) * classes).astype(np.int64)


def _slices(classes: int, samples: int) -> list[tuple[int, int]]:
    """The classes of each file: from, to."""
    step = max(1, min(SLICE, ROWS * classes // max(1, samples)))
    return [(low, min(low + step, classes)) for low in range(0, classes, step)]


def _write_slice(task: _Drawing, number: int, low: int, high: int) -> tuple[File, list[int]]:
    """PICKS of a slice of the classes, and how many picks each class has."""
    keys, labels = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for key, label in task.draws():
        own = (label >= low) & (label < high)
        keys.append(key[own])
        labels.append(label[own])
    label = np.concatenate(labels)
    table = sorted_picks(np.concatenate(keys), label)
    groups = [table[start : start + ROW_GROUP] for start in range(0, max(1, len(table)), ROW_GROUP)]
    file = write_table(task.folder, f"picks-{number:05d}.parquet", *groups)
    return file, np.bincount(label - low, minlength=high - low).tolist()
