"""Pre-trainings without labels → a logistic regression on each layer of each network.

Caron et al. 2018 (arXiv 1807.05520), Table 1, with other pretexts of the same size and length. The same workers train
and compute features, and stay until the end.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from raylabel.compute.autoscaler import ready
from raylabel.compute.progress import say
from raylabel.corpus.label_rule import name_warnings
from raylabel.evaluate.classified import classified_metrics, right_of
from raylabel.evaluate.classify import paired_gain
from raylabel.evaluate.cross_validated import CrossValidation, cross_validate_each
from raylabel.evaluate.on_features import OnFeatures, classify_each
from raylabel.evaluate.results import TOP1, Metric, Subject, require
from raylabel.labels.drawn import OwnLabels, RandomLabels
from raylabel.labels.features import feature_width
from raylabel.labels.truth import GivenLabels
from raylabel.pipelines.deep_cluster import DeepClusterRun
from raylabel.pipelines.inputs import index_corpora, lacking_classes
from raylabel.pipelines.steps import ExperimentSteps
from raylabel.recipes.deep_cluster import DeepCluster
from raylabel.recipes.pretexts import LAYERWISE, STARTS, Pretexts, Start
from raylabel.store.artifact import Artifact, Root
from raylabel.training.config import PRETEXTS
from raylabel.training.examples import media_of
from raylabel.training.features import FeatureTask, media_features
from raylabel.training.held_group import HeldGroup
from raylabel.training.layerwise import LayerwiseTask, train_layerwise
from raylabel.training.task import TrainingTask
from raylabel.training.train import train


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One layer of one network."""

    start: Start
    layer: str
    network: Artifact | None
    """None: random weights."""
    classified: Artifact
    """CLASSIFIED of the test set."""
    top1: Metric
    gain: Metric | None
    """Its top-1 minus that of random weights; None of these, or if they are not asked for."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One number of clusters."""

    k: int
    run: DeepClusterRun
    accuracies: tuple[float, ...]
    """Of each layer, in cross-validation on the labeled set."""


class PretextsRun(ExperimentSteps[DeepCluster]):
    """The artifacts of a recipe. Reading a property returns an artifact if the root has it, or else builds it.
    InputError if the user has to fix an input."""

    def __init__(self, root: Root, recipe: Pretexts):
        """Checks the recipe, indexes its corpora and reads their labels."""
        super().__init__()
        own = replace(recipe.clusters, resources=recipe.resources, retry_rejects=recipe.retry_rejects)
        self.root, self.recipe, self.pretexts = root, own, recipe
        self._group = HeldGroup(root.workers_folder())
        self.clusters = DeepClusterRun(root, own, self._group)
        for layer in recipe.layers:
            feature_width(own.model, own.view, layer)
        others = {"labels": recipe.labeled, "test": recipe.test}
        if "surrogate" in recipe.starts:
            others["surrogate"] = replace(own.corpus, share=own.corpus.share * recipe.surrogates)
        corpora, shards = index_corpora(root, others)
        self.corpora, self.shards = self.clusters.corpora | corpora, self.clusters.shards | shards
        self.labels = self._labels("labels", GivenLabels())
        self.classes = tuple(self.labels.info["classes"])
        self.test_labels = self._labels("test", GivenLabels(classes=self.classes))
        self.warnings = (*name_warnings(self.classes), *lacking_classes(self.classes, self.test_labels))
        for text in self.warnings:
            say(f"warning: {text}")

    @cached_property
    def judged(self) -> tuple[Judged, ...]:
        """Each layer of each network, start by start, in the order of `Start`."""
        with self._group:
            return tuple(self._judged())

    def _judged(self) -> Iterator[Judged]:
        right = dict[str, np.ndarray]()  # of random weights, by layer
        for start in sorted(self.pretexts.starts, key=STARTS.index):
            say(f"start: {start}")
            network = None if start == "none" else self._network(start)
            found = classify_each(self.root, [self._on_layer(network, layer) for layer in self.pretexts.layers])
            for layer, made in zip(self.pretexts.layers, found, strict=True):
                hits = right_of(self._use(made))
                uris = ", ".join(self.pretexts.test.uri)
                subject = Subject(model=f"{start} {layer}", seed=self.recipe.seed, dataset=uris, split="test")
                if start == "none":
                    right[layer] = hits
                compared = start != "none" and layer in right
                yield Judged(
                    start=start,
                    layer=layer,
                    network=network,
                    classified=made,
                    top1=require(classified_metrics(subject, made, len(self.classes)), metric=TOP1),
                    gain=paired_gain(subject, hits, right[layer]) if compared else None,
                )

    def _network(self, start: Start) -> Artifact:
        """The pre-trained network of a start."""
        if start == "clusters":
            return self._clustered(self.chosen)
        if start in LAYERWISE:
            return self._use(self._layerwise(start))
        recipe, config = self.recipe, self.pretexts.train
        # Of all samples, so that the media of the clusters are used.
        name, corpus = "labeled" if recipe.labeled else "corpus", "corpus"
        if start == "true":
            picks = self._labels(corpus, GivenLabels())
        elif start == "surrogate":
            name = corpus = "surrogate"
            picks = self._labels(corpus, OwnLabels())
        else:
            config = replace(config, pretext=start)
            # Each sample once; the pretext has labels of its own.
            names = tuple(f"{start} {number}" for number in range(PRETEXTS[start]))
            picks = self._labels(corpus, RandomLabels(classes=names, seed=recipe.seed))
        task = TrainingTask(
            model=recipe.model,
            classes=len(picks.info["classes"]),
            examples=self._examples(name, corpus, self._use(picks), recipe.reject_limit),
            config=config,
            view=recipe.view,
            seed=recipe.seed,
        )
        return self._use(train(self.root, start, task, recipe.resources, group=self._group))

    @property
    def chosen(self) -> DeepClusterRun:
        """The clusters that are judged."""
        return max(self.tried, key=lambda one: sum(one.accuracies)).run if self.pretexts.ks else self.clusters

    @cached_property
    def tried(self) -> tuple[Tried, ...]:
        """Each number of clusters that is tried, in ascending order."""
        found, recipe = list[Tried](), self.recipe
        for k in sorted(self.pretexts.ks):
            say(f"k = {k:,}")
            run = DeepClusterRun(self.root, replace(recipe, kmeans=replace(recipe.kmeans, k=k)), self._group)
            network = self._clustered(run)
            tasks = [
                CrossValidation(
                    head=self.pretexts.head,
                    features=self._features("labels", network, layer),
                    labels=self.labels,
                    seed=recipe.seed,
                )
                for layer in self.pretexts.layers
            ]
            validated = [self._use(one) for one in cross_validate_each(self.root, tasks)]
            found.append(Tried(k=k, run=run, accuracies=tuple(one.info["accuracy"] for one in validated)))
        return tuple(found)

    def _clustered(self, run: DeepClusterRun) -> Artifact:
        network = run.rounds[-1].network
        for artifact in run.artifacts:
            self._use(artifact)
        return network

    def _layerwise(self, start: Start) -> Artifact:
        """The network whose layers are learned one after another, from the random weights of the clusters."""
        recipe = self.recipe
        task = LayerwiseTask(
            media=self.clusters.media,
            model=recipe.model,
            classes=recipe.kmeans.k,
            view=recipe.view,
            seed=recipe.seed,
            method=LAYERWISE[start],
        )
        name = start.replace("_", "-")
        return train_layerwise(self.root, name, task, recipe.resources, recipe.train.batch, self._group)

    def _on_layer(self, network: Artifact | None, layer: str) -> OnFeatures:
        """The logistic regression on a layer, and its test."""
        return OnFeatures(
            method=self.pretexts.head,
            features=self._features("labels", network, layer),
            labels=self.labels,
            held=None,
            tested=(self._features("test", network, layer), self.test_labels),
            seed=self.recipe.seed,
        )

    @cached_property
    def _media(self) -> dict[str, Artifact]:
        """MEDIA of the labeled set and the test set."""
        picks, limit = {"labels": self.labels, "test": self.test_labels}, self.recipe.reject_limit
        return {name: media_of(self._examples(name, name, some, limit)) for name, some in picks.items()}

    def _features(self, corpus: str, network: Artifact | None, layer: str) -> Artifact:
        """FEATURES of a labeled set."""
        recipe = self.recipe
        resources, view, wanted = recipe.resources, recipe.view, recipe.train.precision
        task = FeatureTask(
            media=self._media[corpus],
            model=recipe.model,
            classes=recipe.kmeans.k,
            view=view,
            seed=recipe.seed,
            init=network,
            layer=layer,
            precision=ready(resources).precision(wanted, view.clip is not None),
        )
        return self._use(media_features(self.root, task, resources, recipe.train.batch, self._group))
