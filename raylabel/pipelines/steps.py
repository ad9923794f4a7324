"""What stages of a run do more than once: label a corpus by a network, and store training examples."""

from dataclasses import replace
from typing import Generic, TypeVar

from raylabel.corpus import Corpus, Shards, read_groups
from raylabel.evaluate.classify import TOP
from raylabel.labels.holdout import hold_out
from raylabel.labels.source import LabelSource
from raylabel.labels.teacher import Label, TrainedNetwork
from raylabel.media.view import View
from raylabel.pipelines.inputs import Prepared
from raylabel.recipes.experiment import Experiment
from raylabel.recipes.recipe import Recipe
from raylabel.store.artifact import Artifact, Root
from raylabel.training.digests import read_digests
from raylabel.training.examples import materialize
from raylabel.training.media import WritingTask

E = TypeVar("E", bound=Experiment)


class Used:
    """Remembers the artifacts that its results are made from."""

    def __init__(self) -> None:
        self._used: dict[str, Artifact] = {}

    @property
    def artifacts(self) -> list[Artifact]:
        """What the results are made from, in the order in which it was made."""
        return list(self._used.values())

    def _use(self, artifact: Artifact) -> Artifact:
        return self._used.setdefault(artifact.uri, artifact)


class ExperimentSteps(Used, Generic[E]):
    """Steps of an experiment, which has these fields."""

    root: Root
    recipe: E
    corpora: dict[str, Corpus]
    """By their names."""
    shards: dict[str, Artifact]

    def _labels(self, corpus: str, source: LabelSource) -> Artifact:
        """What a source labels a corpus with."""
        return source.label(self.root, self.corpora[corpus], self.shards[corpus])

    def _hold_out(self, corpus: str, truth: Artifact, share: float, name: str) -> tuple[Artifact, Artifact]:
        """PICKS `truth` of a labeled corpus without a share of each class, and of this share; `name` is its field."""
        groups = read_groups(self.corpora[corpus], Shards(self.shards[corpus]))
        digests = read_digests(self.root, truth, self.shards[corpus], self.corpora[corpus])
        return hold_out(self.root, truth, groups, digests, share, self.recipe.seed, name)

    def _examples(self, name: str, corpus: str, picks: Artifact, reject_limit: float) -> Artifact:
        """EXAMPLES of PICKS of a corpus, the artifact `examples-<name>`."""
        task = WritingTask(
            shards=Shards(self.shards[corpus]),
            corpus=self.corpora[corpus],
            config=self.recipe.materialize,
            max_jpeg_pixels=self.recipe.view.max_jpeg_pixels,
        )
        return self._use(materialize(self.root, name, picks, task, reject_limit, self.recipe.retry_rejects))

    def _scores(self, network: Artifact, corpus: str, config: Label, classes: int) -> Artifact:
        """SCORES of a corpus, with all classes of each sample."""
        source = TrainedNetwork(
            network=network,
            view=self.recipe.view,
            config=replace(config, p=classes),
            resources=self.recipe.resources,
            retry_rejects=self.recipe.retry_rejects,
        )
        return self._use(self._labels(corpus, source))


class Steps:
    """Steps of a run, which has these fields."""

    root: Root
    recipe: Recipe
    start: Prepared

    def test(self, model: Artifact, view: View) -> Artifact:
        """SCORES of the test set by a network."""
        return self.score(model, view, "test")

    def score(self, model: Artifact, view: View, corpus: str, thumbnails: bool = False) -> Artifact:
        """SCORES of a labeled corpus by a network, with as many classes per sample as accuracies need."""
        source = replace(self.network(model, view, thumbnails), config=replace(self.recipe.label, p=TOP))
        return source.label(self.root, self.start.corpora[corpus], self.start.shards[corpus])

    def network(self, model: Artifact, view: View, thumbnails: bool = False) -> TrainedNetwork:
        """A network as a label source, with the recipe's settings."""
        recipe = self.recipe
        return TrainedNetwork(
            network=model,
            view=view,
            config=recipe.label,
            resources=recipe.resources,
            retry_rejects=recipe.retry_rejects,
            thumbnails=thumbnails,
        )

    def materialize(self, name: str, corpus: str, picks: Artifact, scores: Artifact | None = None) -> Artifact:
        """EXAMPLES of PICKS of a corpus, the artifact `examples-<name>`; with SOFT if SCORES are given."""
        recipe = self.recipe
        task = WritingTask(
            shards=Shards(self.start.shards[corpus]),
            corpus=self.start.corpora[corpus],
            config=recipe.materialize,
            max_jpeg_pixels=recipe.max_jpeg_pixels,
            digests=name == "labeled",
        )
        return materialize(self.root, name, picks, task, recipe.label.reject_limit, recipe.retry_rejects, scores)
