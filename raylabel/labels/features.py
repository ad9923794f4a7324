"""A frozen network → FEATURES of a corpus, and the teacher that is a head on them.

Letters: N samples, D numbers of a feature, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray

from raylabel.compute.autoscaler import ready
from raylabel.compute.progress import say
from raylabel.compute.resources import Cluster, Resources
from raylabel.compute.tasks import fetch
from raylabel.corpus import Corpus
from raylabel.inference.features import FeatureNetwork
from raylabel.inference.scores import Scoring, make_scores
from raylabel.labels.teacher import Label
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.init import PENULTIMATE, TRUNK, Init
from raylabel.models.trained import WEIGHTS, describe
from raylabel.schema import PICKS, features_schema
from raylabel.store.artifact import Artifact, Built, Draft, Root, identity_of, write_bytes
from raylabel.training.head import Head
from raylabel.training.logistic import SMALL, Fitted, fit_logistic


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """A network whose features of a corpus are stored."""

    model: Model
    weights: Artifact
    """Those of the trunk, at least."""
    view: View
    config: Label
    """Batch, arithmetic and limit of rejects."""
    resources: Resources
    layer: str = PENULTIMATE
    """What the head of the network takes, or the output of the layer with this name: see models/trunk.py."""
    retry_rejects: bool = False
    thumbnails: bool = False
    """Also keep THUMBNAILS, from which near-duplicates are found."""
    subset: Artifact | None = None
    """A table with the keys of the samples that are scored; None: all are."""

    @property
    def identity(self) -> Mapping[str, Any]:
        return {
            "weights": self.weights.digest,
            "arch": identity_of(replace(self.model, features="raw")),
            "layer": self.layer,
            "view": self.view.evaluation_identity,
            "label": {"batch": self.config.batch, "precision": self._precision},
        }

    @property
    def _precision(self) -> str:
        return ready(self.resources).precision(self.config.precision)

    def features(self, root: Root, corpus: Corpus, shards: Artifact) -> Artifact:
        """FEATURES of every sample of the corpus, the artifact `features`, with REJECTS for those that could not be
        read. It is committed, resumed and grown as SCORES are."""
        self.config.check_against(corpus, self.view)
        arch, width = replace(self.model, features="raw"), feature_width(self.model, self.view, self.layer)
        network = FeatureNetwork(self.weights, self.view, self._precision, width, arch=arch, layer=self.layer)
        scoring = Scoring(
            scorer=replace(network, thumbnails=self.thumbnails),
            source=self.identity,
            shards=shards,
            corpus=corpus,
            batch=self.config.batch,
            reject_limit=self.config.reject_limit,
            resources=self.resources,
            retry_rejects=self.retry_rejects,
            by=self.weights.name,
            subset=self.subset,
        )
        return make_scores(root, scoring, [replace(scoring, scorer=network)] if self.thumbnails else [])


def feature_width(model: Model, view: View, layer: str = PENULTIMATE) -> int:
    """D of the features of a network, for its input in this view."""
    from raylabel.models.trunk import width_of

    shape = view.eval_shape[-4 if view.clip else -3 :]
    return width_of(replace(model, features="raw"), layer, (shape[-1], *shape[:-1]))


def make_head(root: Root, frozen: Frozen, features: Artifact, labels: Artifact, config: Head, seed: int) -> Artifact:
    """The teacher, the artifact `teacher`: the frozen network with a head that is fitted to its features of the labeled
    samples. `labels`: their PICKS. Info: also strength, the accuracies of cross-validation, samples, without (labeled
    samples that have no features, since they could not be read)."""
    model, classes = replace(frozen.model, features="unit"), len(labels.info["classes"])

    def build(draft: Draft) -> Built:
        fitted, samples = fetch(
            _fit.options(**needs(features, classes)).remote(features, labels, classes, config, seed)
        )
        without = labels.info["samples"] - samples
        say(f"head: strength {fitted.strength:g}, fitted to {samples:,} samples" + _validated(fitted))
        state = network_with_head(model, frozen.weights, fitted.weight, fitted.bias)
        found = {"strength": fitted.strength, "samples": samples, "without": without}
        found["validation"] = [{"strength": s, "accuracy": a} for s, a in fitted.accuracies.items()]
        return Built([write_bytes(draft.uri, WEIGHTS, state)], describe(model, classes) | found)

    identity = {"features": features.digest, "labels": labels.digest, "head": identity_of(config), "seed": seed}
    return root.make("teacher", {**identity, "model": identity_of(model)}, build)


def needs(features: Artifact, classes: int) -> dict[str, Any]:
    """What the task asks Ray for: a GPU if there is one and the set is large."""
    size = features.info["scored"] * features.info["p"]
    gpu = size * classes > SMALL and Cluster.now().gpus
    return {"memory": (12 if size * classes <= SMALL else 4) * size} | ({"num_gpus": 1} if gpu else {})


@ray.remote(num_cpus=1, max_retries=3)
def _fit(features: Artifact, labels: Artifact, classes: int, config: Head, seed: int) -> tuple[Fitted, int]:
    """The head, and the number of labeled samples that it is fitted to."""
    found = read_labeled(features, labels)
    device = "cuda" if ray.get_gpu_ids() else "cpu"
    return fit_logistic(found.feature, found.label, classes, config, seed, device), len(found.label)


@dataclass(frozen=True)
class LabeledFeatures:
    """The features of labeled samples, in the order of their keys."""

    key: np.ndarray
    """int64 [N]"""
    label: np.ndarray
    """int64 [N]"""
    feature: np.ndarray
    """float16 [N, D], of unit length"""
    norm: np.ndarray
    """float32 [N]: the feature times this is what the network computed."""


def read_labeled(features: Artifact, labels: Artifact) -> LabeledFeatures:
    """Those of the PICKS that have FEATURES, each in memory once. A sample that could not be read has none."""
    table = features.table("features-", features_schema(features.info["p"]), ["key", "feature", "norm"])
    picks = labels.table("picks-", PICKS, ["key", "label"]).sort_by("key")
    key, picked = table.column("key").to_numpy(), picks.column("key").to_numpy()
    found, of_labels = np.flatnonzero(np.isin(key, picked)), np.isin(picked, key)
    found = found[np.argsort(key[found])]  # features of stored samples are in the order in which these are stored
    column = table.column("feature").combine_chunks()
    return LabeledFeatures(
        key=key[found],
        label=picks.column("label").to_numpy()[of_labels].astype(np.int64),
        feature=column.flatten().to_numpy().reshape(len(column), -1)[found],
        norm=table.column("norm").to_numpy()[found],
    )


def _validated(fitted: Fitted) -> str:
    best = fitted.accuracies.get(fitted.strength)
    return "" if best is None else f", accuracy in cross-validation {best:.1%}"


def network_with_head(model: Model, weights: Artifact, weight: np.ndarray, bias: np.ndarray) -> bytes:
    """A network with the layers of `weights` and a head with weight float32 [C, D] and bias float32 [C], as bytes."""
    import torch

    from raylabel.models.head import head_of
    from raylabel.models.start import start_network
    from raylabel.models.weights import save_weights

    network = start_network(model, len(bias), Init(take=(TRUNK,)), weights)
    head: Any = network.get_submodule(head_of(network))
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight.copy()))
        head.bias.copy_(torch.from_numpy(bias.copy()))
    return save_weights(network)
