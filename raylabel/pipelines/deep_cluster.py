"""Clusters of a network's own features as labels: a corpus → rounds of features, clusters and training.

Caron et al. 2018 (arXiv 1807.05520) §3. The workers that train also compute the features, and stay from round to round.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.compute as pc
import ray

from raylabel.compute.autoscaler import ready
from raylabel.compute.progress import say
from raylabel.compute.resources import Cluster
from raylabel.compute.tasks import PROCESS_BYTES, fetch
from raylabel.compute.watchdog import heartbeat
from raylabel.corpus import Shards
from raylabel.errors import InputError
from raylabel.features.agreement import HELD, Agreement
from raylabel.features.clusters import ASSIGNED, SIZES
from raylabel.features.kmeans import build_clusters
from raylabel.features.whitening import fit_whitening, whiten
from raylabel.labels.truth import GivenLabels
from raylabel.models import check, check_input
from raylabel.models.init import Init
from raylabel.models.trained import CURVE
from raylabel.pipelines.inputs import index_corpora
from raylabel.pipelines.steps import ExperimentSteps
from raylabel.recipes.deep_cluster import DeepCluster
from raylabel.schema import SAMPLES
from raylabel.store.artifact import Artifact, Built, Draft, Root, identity_of
from raylabel.training.examples import media_of
from raylabel.training.features import FeatureTask, media_features
from raylabel.training.held_group import HeldGroup
from raylabel.training.media import WritingTask, make_media
from raylabel.training.samples import all_samples
from raylabel.training.task import TrainingTask
from raylabel.training.train import train
from raylabel.training.uniform import make_uniform

VERSION = 1
"""Of the clusters of a round."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round: the features of the network before it, in clusters, and the network that was trained on these."""

    number: int
    """From 0."""
    clusters: Artifact
    """CLUSTERS and ASSIGNED; those of an earlier round, if this one did not cluster."""
    network: Artifact
    before: Agreement | None
    """With the clusters of the round before; None in the first round, and in those that do not cluster."""
    truth: Agreement | None
    """With the true labels, if the samples have some."""

    @property
    def sizes(self) -> np.ndarray:
        """Samples of each cluster, int64 [k]."""
        return self.clusters.table("clusters", SIZES, ["size"]).column("size").to_numpy()

    @property
    def end(self) -> dict[str, float]:
        """The last point of the training's curve."""
        return json.loads(self.network.read(CURVE))[-1]


class DeepClusterRun(ExperimentSteps[DeepCluster]):
    """The artifacts of a recipe. Reading a property returns an artifact if the root has it, or else builds it.
    InputError if the user has to fix an input."""

    def __init__(self, root: Root, recipe: DeepCluster, group: HeldGroup | None = None):
        """Checks the recipe, and indexes its corpus. `group`: workers that stay after the last round."""
        _check(recipe)
        super().__init__()
        self.root, self.recipe, self._group = root, recipe, group
        self.corpora, self.shards = index_corpora(root, {"corpus": recipe.corpus})

    @cached_property
    def truth(self) -> Artifact | None:
        """EXAMPLES of the true labels, if the samples have some: the clusters are compared with them."""
        if not self.recipe.labeled:
            return None
        return self._examples("labeled", "corpus", self._labels("corpus", GivenLabels()), self.recipe.reject_limit)

    @cached_property
    def media(self) -> Artifact:
        """MEDIA of all samples."""
        if self.truth:
            return self._use(media_of(self.truth))
        recipe, shards = self.recipe, Shards(self.shards["corpus"])
        task = WritingTask(
            shards=shards,
            corpus=self.corpora["corpus"],
            config=recipe.materialize,
            max_jpeg_pixels=recipe.view.max_jpeg_pixels,
        )
        samples = all_samples(self.root, "corpus", shards)
        made = make_media(self.root, "corpus", samples, task, recipe.reject_limit, recipe.retry_rejects)
        return self._use(made)

    @cached_property
    def rounds(self) -> tuple[Round, ...]:
        """All rounds, in order."""
        if self._group:
            return tuple(self._rounds(self._group))
        with HeldGroup(self.root.workers_folder()) as group:
            return tuple(self._rounds(group))

    def _rounds(self, group: HeldGroup) -> Iterator[Round]:
        recipe, media = self.recipe, self.media
        clusters, network = None, None
        for number in range(recipe.rounds):
            say(f"round {number + 1} of {recipe.rounds}")
            seed, earlier = recipe.seed + (number << 20), clusters
            if recipe.clusters_in(number):
                clusters = self._use(self._cluster(network, seed, group))
            assert clusters is not None
            examples = self._use(make_uniform(self.root, "clusters", media, clusters, seed, recipe.uniform))
            network = self._use(self._train(number, network, examples, seed, group))
            anew = earlier is not None and clusters != earlier
            yield Round(
                number=number,
                clusters=clusters,
                network=network,
                before=self._agreement(earlier, clusters) if anew and earlier else None,
                truth=self._agreement(clusters, self.truth) if self.truth else None,
            )

    def _cluster(self, network: Artifact | None, seed: int, group: HeldGroup) -> Artifact:
        """CLUSTERS of the features of a network, or of random weights: the artifact `clusters`. The features are
        deleted once it is complete: those of all rounds together would be larger than the corpus."""
        recipe = self.recipe
        precision = ready(recipe.resources).precision(recipe.train.precision, recipe.view.clip is not None)
        task = FeatureTask(
            media=self.media,
            model=recipe.model,
            classes=recipe.kmeans.k,
            view=recipe.view,
            seed=recipe.seed,
            init=network,
            layer=recipe.layer,
            precision=precision,
        )

        def build(draft: Draft) -> Built:
            inner = Root(draft.scratch("features"))
            features = media_features(inner, task, recipe.resources, recipe.train.batch, group)
            whitened = whiten(inner, features, fit_whitening(inner, features, recipe.components, recipe.whitened))
            ready(recipe.resources)  # its CPU machines may have been shut down while GPUs computed features
            return build_clusters(draft, whitened, recipe.kmeans, seed, gpus=False)  # the group has them

        identity = {"features": task.identity, "components": recipe.components}
        identity |= {} if recipe.whitened else {"whitened": False}
        identity |= {"kmeans": identity_of(recipe.kmeans), "seed": seed, "version": VERSION}
        return self.root.make("clusters", identity, build)

    def _train(self, number: int, before: Artifact | None, examples: Artifact, seed: int, group: HeldGroup) -> Artifact:
        recipe = self.recipe
        anew = recipe.clusters_in(number) and recipe.new_head
        task = TrainingTask(
            model=recipe.model,
            classes=recipe.kmeans.k,
            examples=examples,
            config=replace(recipe.train, init=Init(head="new") if anew and before else Init()),
            view=recipe.view,
            seed=seed,
            init=before,
            continued=True,
        )
        return train(self.root, "round", task, recipe.resources, group=group)

    def _agreement(self, first: Artifact, second: Artifact) -> Agreement:
        def build(_: Draft) -> Built:
            pairs: Any = _agreement.options(memory=PROCESS_BYTES + 64 * HELD)
            return Built([], dict(fetch(pairs.remote(first, second)).info))

        made = self.root.make("agreement", {"first": first.digest, "second": second.digest}, build)
        self._use(made)
        return Agreement(nmi=made.info["nmi"], moved=made.info["moved"])


@ray.remote(num_cpus=1, max_retries=3)
def _agreement(first: Artifact, second: Artifact) -> Agreement:
    return Agreement.of(_aligned(_labels(first), _labels(second)))


def _labels(artifact: Artifact) -> Iterator[np.ndarray]:
    """The labels of ASSIGNED, or of EXAMPLES with one label for each sample, file by file."""
    assigned = [file.name for file in artifact.files("assigned-")]
    for name in assigned:
        heartbeat()
        yield artifact.table(name, ASSIGNED, ["cluster"]).column("cluster").to_numpy()
    for file in [] if assigned else artifact.files("examples-"):
        heartbeat()
        labels = artifact.table(file.name, SAMPLES, ["labels"]).column("labels")
        yield pc.list_flatten(labels).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]


def _aligned(first: Iterator[np.ndarray], second: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Both sequences in pieces of equal lengths."""
    a = b = np.empty(0, np.int32)
    while True:
        a = a if len(a) else next(first, a)
        b = b if len(b) else next(second, b)
        if not len(a) and not len(b):
            return
        size = min(len(a), len(b))
        if not size:
            raise AssertionError("the labelings have different numbers of samples")
        yield a[:size], b[:size]
        a, b = a[size:], b[size:]


def _check(recipe: DeepCluster) -> None:
    """InputError for what can be checked before any work."""
    check(recipe.model)
    clip = recipe.view.clip
    for size in {recipe.view.size, recipe.view.tested_size}:
        check_input(recipe.model, clip.frames if clip else None, size)
    Cluster.now().workers(recipe.resources, recipe.train.batch)
    if (kind := "video" if clip else "image") != recipe.corpus.kind:
        raise InputError(f"corpus.kind is '{recipe.corpus.kind}', but the view is for {kind}s: change one")
