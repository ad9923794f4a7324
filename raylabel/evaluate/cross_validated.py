"""FEATURES of labeled samples → the accuracy of a logistic regression in cross-validation, without a test set.

What is chosen by it, such as the number of clusters, is not chosen by the test set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray

from raylabel.compute.resources import Cluster
from raylabel.compute.tasks import fetch, wait_for
from raylabel.labels.features import read_labeled
from raylabel.store.artifact import Artifact, Built, Draft, Root, identity_of
from raylabel.training.head import Head
from raylabel.training.logistic import SMALL, cross_validated


@dataclass(frozen=True, kw_only=True)
class CrossValidation:
    """What is cross-validated. Plain data, so that Ray can send it."""

    head: Head
    features: Artifact
    labels: Artifact
    """PICKS of the labeled set."""
    seed: int
    """Of the folds."""

    @property
    def identity(self) -> Mapping[str, Any]:
        data = {"features": self.features.digest, "labels": self.labels.digest}
        return {**data, "head": identity_of(self.head), "seed": self.seed}


def cross_validate_each(root: Root, tasks: Sequence[CrossValidation]) -> list[Artifact]:
    """The artifact `cross-validated` of each, at the same time. Info: accuracy (of the best strength), strength,
    samples. InputError if a class has less than two samples."""
    running = {
        number: _validate.options(**_needs(task)).remote(task)
        for number, task in enumerate(tasks)
        if root.find("cross-validated", task.identity) is None
    }
    wait_for("cross-validate", list(running.values()), "classifiers")

    def build(_: Draft, number: int) -> Built:
        return Built([], fetch(running[number]))

    return [root.make("cross-validated", one.identity, partial(build, number=n)) for n, one in enumerate(tasks)]


def _needs(task: CrossValidation) -> dict[str, Any]:
    size = task.features.info["scored"] * task.features.info["p"]
    gpu = size * len(task.labels.info["classes"]) > SMALL and Cluster.now().gpus
    return {"memory": 12 * size} | ({"num_gpus": 1} if gpu else {})


@ray.remote(num_cpus=1, max_retries=3)
def _validate(task: CrossValidation) -> dict[str, Any]:
    known, device = read_labeled(task.features, task.labels), "cuda" if ray.get_gpu_ids() else "cpu"
    classes = len(task.labels.info["classes"])
    found = cross_validated(known.feature, known.label, classes, task.head, task.seed, device)
    strength = max(found, key=lambda one: (found[one], -one))
    return {"accuracy": found[strength], "strength": strength, "samples": len(known.label)}
