"""Classifiers that are fitted to stored FEATURES of labeled samples → CLASSIFIED of a test set.

Letters: N samples, B samples of a block, D numbers of a feature, C classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from raylabel.compute.resources import Cluster
from raylabel.compute.tasks import fetch, wait_for
from raylabel.compute.watchdog import heartbeat
from raylabel.evaluate.calibration import fit_temperature
from raylabel.evaluate.classified import FILE, classified, unread
from raylabel.evaluate.knn import Knn, knn_classifier
from raylabel.labels.features import LabeledFeatures, read_labeled
from raylabel.schema import CLASSIFIED, PICKS
from raylabel.store.artifact import Artifact, Built, Draft, Root, identity_of, write_table
from raylabel.training.head import Head
from raylabel.training.logistic import SMALL, fit_logistic

BLOCK = 1 << 24  # numbers of a block: of its features, and of its probabilities

Classify = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From features float16 [B, D] of unit length and their norms float32 [B] to log probabilities float32 [B, C]."""


@dataclass(frozen=True, kw_only=True)
class OnFeatures:
    """A classifier to fit, and what to test it on. Plain data, so that Ray can send it."""

    method: Head | Knn
    """Logistic regression, or the k nearest neighbours."""
    raw: bool = False
    """Fit it to what the network computed, divided by the mean norm, and not to features of unit length."""
    features: Artifact
    """FEATURES of the labeled set."""
    labels: Artifact
    """PICKS of the labeled set to fit it to."""
    held: tuple[Artifact, Artifact] | None
    """(FEATURES, PICKS) for the temperature of temperature scaling; None: there is none."""
    tested: tuple[Artifact, Artifact]
    """(FEATURES, PICKS) of the test set."""
    seed: int
    """Of the folds of cross-validation."""

    @property
    def classes(self) -> int:
        return len(self.labels.info["classes"])

    @property
    def identity(self) -> Mapping[str, Any]:
        known = {"method": type(self.method).__name__.lower(), "raw": self.raw, **identity_of(self.method)}
        if isinstance(self.method, Head):
            known["seed"] = self.seed
        data = {"features": self.features.digest, "labels": self.labels.digest}
        held = [one.digest for one in self.held] if self.held and self.calibrates else None
        return {**known, **data, "held": held, "tested": [one.digest for one in self.tested]}

    @property
    def calibrates(self) -> bool:
        """Whether its probabilities are those of logits, which a temperature scales."""
        return isinstance(self.method, Head)


def classify_features(root: Root, task: OnFeatures) -> Artifact:
    """CLASSIFIED of the test set, the artifact `classified`. Info: samples (labeled ones that it is fitted to), without
    (those that could not be read), temperature (None if there is none), strength (of logistic regression)."""
    return classify_each(root, [task])[0]


def classify_each(root: Root, tasks: Sequence[OnFeatures]) -> list[Artifact]:
    """`classify_features` of each, at the same time."""
    running = {
        number: _classify.options(**_needs(task)).remote(task)
        for number, task in enumerate(tasks)
        if root.find("classified", task.identity) is None
    }

    wait_for("fit to features", list(running.values()), "classifiers")

    def build(draft: Draft, number: int) -> Built:
        table, info = fetch(running[number])
        return Built([write_table(draft.uri, FILE, table)], info)

    return [root.make("classified", task.identity, partial(build, number=number)) for number, task in enumerate(tasks)]


def _needs(task: OnFeatures) -> dict[str, Any]:
    """What the task asks Ray for: a GPU if there is one and the set is large."""
    size = task.features.info["scored"] * task.features.info["p"]
    work = size * (task.classes if task.calibrates else task.tested[0].info["scored"])
    tested = task.tested[0].info["scored"] * task.tested[0].info["p"]
    gpu = work > SMALL and Cluster.now().gpus
    return {"memory": 12 * size + 4 * tested} | ({"num_gpus": 1} if gpu else {})


@ray.remote(num_cpus=1, max_retries=3)
def _classify(task: OnFeatures) -> tuple[pa.Table, dict[str, Any]]:
    train, tested = read_labeled(task.features, task.labels), read_labeled(*task.tested)
    info: dict[str, Any] = {"samples": len(train.label), "without": task.labels.info["samples"] - len(train.label)}
    classify, found = _fitted(task, train)
    temperature = None
    if task.held and task.calibrates:
        held = read_labeled(*task.held)
        temperature = fit_temperature(np.concatenate([p for _, p in _blocks(classify, held, task.classes)]), held.label)
    occurring = occurring_classes(task.tested[1])
    tables = [
        classified(tested.key[some], tested.label[some], log_p, occurring, temperature)
        for some, log_p in _blocks(classify, tested, task.classes)
    ]
    return with_unread(tables, task.tested[1]), info | found | {"temperature": temperature}


def occurring_classes(labels: Artifact) -> np.ndarray:
    """The classes that have samples in PICKS, int64, ascending."""
    return np.flatnonzero(labels.info["per_class"])


def with_unread(tables: list[pa.Table], labels: Artifact) -> pa.Table:
    """CLASSIFIED of all samples of the PICKS, in key order: those of the tables, and the rest as not read."""
    picks = labels.table("picks-", PICKS, ["key", "label"])
    key, label = picks.column("key").to_numpy(), picks.column("label").to_numpy()
    known = np.concatenate([np.empty(0, np.int64), *(table.column("key").to_numpy() for table in tables)])
    rest = ~np.isin(key, known)
    table = pa.concat_tables([*tables, unread(key[rest], label[rest])]).sort_by("key")
    if len(table) != len(key):
        raise AssertionError(f"{len(known):,} samples were classified, and {labels.uri} has {len(key):,}")
    return table.combine_chunks().cast(CLASSIFIED)


def _blocks(classify: Classify, samples: LabeledFeatures, classes: int) -> Iterator[tuple[slice, np.ndarray]]:
    rows = max(1, BLOCK // max(samples.feature.shape[1], classes))
    for first in range(0, len(samples.key), rows):
        heartbeat()
        some = slice(first, first + rows)
        yield some, classify(samples.feature[some], samples.norm[some])


def _fitted(task: OnFeatures, train: LabeledFeatures) -> tuple[Classify, dict[str, Any]]:
    """The classifier, and what is known of it."""
    gpu, classes = bool(ray.get_gpu_ids()), task.classes
    scale = float(train.norm.mean()) if task.raw else 1.0

    def inputs(feature: np.ndarray, norm: np.ndarray) -> np.ndarray:
        return feature.astype(np.float32) * (norm / scale)[:, None] if task.raw else feature

    own = inputs(train.feature, train.norm)
    if isinstance(task.method, Knn):
        neighbours = knn_classifier(own, train.label, classes, task.method, gpu)
        return lambda feature, norm: neighbours(inputs(feature, norm)), {}
    fitted = fit_logistic(own, train.label, classes, task.method, task.seed, "cuda" if gpu else "cpu")

    def classify(feature: np.ndarray, norm: np.ndarray) -> np.ndarray:
        logits = inputs(feature, norm).astype(np.float32) @ fitted.weight.T + fitted.bias
        return log_softmax(logits)

    return classify, {"strength": fitted.strength}


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """float32 [B, C] of float32 [B, C]."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(1, keepdims=True))).astype(np.float32)
