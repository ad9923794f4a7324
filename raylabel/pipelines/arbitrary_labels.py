"""Arbitrary labels: a labeled set → one epoch on these or other labels → the head on true ones → tests after each.

The fast.ai post "Why pseudo-label when you can arbitrarily-label?", with controls.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from raylabel.compute.progress import say
from raylabel.compute.resources import Cluster
from raylabel.corpus.label_rule import name_warnings
from raylabel.errors import InputError
from raylabel.evaluate.classified import classified_metrics, right_of
from raylabel.evaluate.classify import paired_gain
from raylabel.evaluate.on_scores import classify_scores
from raylabel.evaluate.results import LOSS, Metric, Subject
from raylabel.labels.drawn import ShuffledLabels
from raylabel.labels.truth import GivenLabels
from raylabel.models import Model, check, check_input
from raylabel.models.init import Init
from raylabel.models.start import check_start
from raylabel.models.trained import CURVE
from raylabel.pipelines.inputs import index_corpora, lacking_classes
from raylabel.pipelines.steps import ExperimentSteps
from raylabel.recipes.arbitrary_labels import ARMS, ArbitraryLabels, Arm, Labels, Stage
from raylabel.selection.config import Select
from raylabel.selection.select import select
from raylabel.store.artifact import Artifact, Root
from raylabel.training.config import Train
from raylabel.training.task import TrainingTask
from raylabel.training.train import train

UNCHANGED = 1e-60
"""A learning rate that is 0 in float32: no weight changes, while BatchNorm's statistics do."""
TRAIN_LOSS, TRAIN_TOP1 = "train_loss", "train_top1"
"""Mean loss and top-1 over the images of a training, while it changes the network, as Keras reports an epoch."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """A network after one training of an arm."""

    network: Artifact
    classified: Artifact
    """CLASSIFIED of the test set."""
    metrics: tuple[Metric, ...]
    """Of the test set, and with `split` 'labeled' those of the training."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What an arm gives."""

    arm: Arm
    epochs: tuple[Epoch, ...]
    gains: Mapping[Arm, Metric]
    """Its top-1 after the last epoch minus that of each arm before it, in the order of `Arm`."""

    @property
    def last(self) -> Epoch:
        return self.epochs[-1]


class ArbitraryLabelsRun(ExperimentSteps[ArbitraryLabels]):
    """The artifacts of a recipe. Reading a property returns an artifact if the root has it, or else builds it.
    InputError if the user has to fix an input."""

    def __init__(self, root: Root, recipe: ArbitraryLabels):
        """Checks the recipe, indexes its corpora and reads their labels."""
        _check(recipe)
        super().__init__()
        self.root, self.recipe = root, recipe
        self.corpora, self.shards = index_corpora(root, {"labeled": recipe.labeled, "test": recipe.test})
        self.truth = self._labels("labeled", GivenLabels())
        self.classes = tuple(self.truth.info["classes"])
        self.test_labels = self._labels("test", GivenLabels(classes=self.classes))
        self.warnings = (*name_warnings(self.classes), *lacking_classes(self.classes, self.test_labels))
        for text in self.warnings:
            say(f"warning: {text}")

    @cached_property
    def results(self) -> tuple[Result, ...]:
        """The result of each arm."""
        return tuple(self._results())

    @cached_property
    def teacher(self) -> Artifact:
        """The network that is trained on a share of the labeled set."""
        recipe = self.recipe
        _, learned = self._hold_out("labeled", self.truth, recipe.teacher_share, "teacher_share")
        return self._train("teacher", learned, recipe.teacher, recipe.model, recipe.seed, None)

    def picks(self, labels: Labels) -> Artifact:
        """PICKS of the labeled set with labels of this kind."""
        if labels == "true":
            return self.truth
        if labels == "shuffled":
            return self._use(self._labels("labeled", ShuffledLabels(seed=self.recipe.seed)))
        scores = self._scores(self.teacher, "labeled", self.recipe.label, len(self.classes))
        every = Select(k=self.truth.info["samples"], p=1, repeat_videos=True, allow_empty=True)
        return self._use(select(self.root, scores, None, every, self.classes))

    def _results(self) -> Iterator[Result]:
        right: dict[Arm, np.ndarray] = {}
        # Each is compared with those before it.
        for arm in sorted(self.recipe.arms, key=list(ARMS).index):
            epochs = tuple(self._epochs(arm))
            right[arm] = right_of(epochs[-1].classified)
            subject = self._subject(arm, len(epochs))
            gains: dict[Arm, Metric] = {
                one: paired_gain(subject, right[arm], right[one]) for one in right if one != arm
            }
            yield Result(arm=arm, epochs=epochs, gains=gains)

    def _epochs(self, arm: Arm) -> Iterator[Epoch]:
        network = None
        for number, stage in enumerate(ARMS[arm]):
            say(f"{arm}: epoch {number + 1} of {len(ARMS[arm])}")
            network = self._stage(stage, network, self.recipe.seed + (number << 20))  # samples in another order
            scores = self._scores(network, "test", self.recipe.label, len(self.classes))
            made = self._use(classify_scores(self.root, scores, self.test_labels))
            subject = self._subject(arm, number + 1)
            rows = [
                *classified_metrics(subject, made, len(self.classes)),
                Metric(**vars(subject), metric=LOSS, value=made.info["loss"], n=made.info["read"]),
                *self._of_training(subject, network),
            ]
            yield Epoch(network=network, classified=made, metrics=tuple(rows))

    def _stage(self, stage: Stage, before: Artifact | None, seed: int) -> Artifact:
        recipe, config = self.recipe, self.recipe.train
        if stage.change == "direction":
            config = replace(config, direction="random")
        elif stage.change == "statistics":
            schedule = replace(config.schedule, lr=UNCHANGED, warmup_lr=UNCHANGED, final_lr=0.0)
            config = replace(config, schedule=schedule, weight_decay=0.0)
        frozen = recipe.frozen if stage.change == "head" else ()
        config = replace(config, init=Init(frozen=frozen))
        model = replace(recipe.linear, size=recipe.view.size) if stage.linear else recipe.model
        return self._train(f"epoch-{stage.labels}", self.picks(stage.labels), config, model, seed, before)

    def _train(
        self, name: str, picks: Artifact, config: Train, model: Model, seed: int, before: Artifact | None
    ) -> Artifact:
        recipe, part = self.recipe, "teacher" if name == "teacher" else "labeled"
        examples = self._examples(part, "labeled", picks, recipe.label.reject_limit)
        training = TrainingTask(
            model=model,
            classes=len(self.classes),
            examples=examples,
            config=config,
            view=recipe.view,
            seed=seed,
            init=before,
        )
        return self._use(train(self.root, name, training, recipe.resources))

    def _of_training(self, subject: Subject, network: Artifact) -> Iterator[Metric]:
        curve, before, sums = json.loads(network.read(CURVE)), 0, np.zeros(2)
        for point in curve:
            sums += (point["images"] - before) * np.array([point["loss"], point["accuracy"]])
            before = point["images"]
        of = replace(subject, dataset=", ".join(self.corpora["labeled"].uri), split="labeled")
        for metric, value in zip((TRAIN_LOSS, TRAIN_TOP1), (sums / before).tolist(), strict=True):
            yield Metric(**vars(of), metric=metric, value=value, n=before)

    def _subject(self, arm: Arm, epoch: int) -> Subject:
        uris = ", ".join(self.corpora["test"].uri)
        return Subject(model=f"{arm} {epoch}", seed=self.recipe.seed, dataset=uris, split="test")


def _check(recipe: ArbitraryLabels) -> None:
    """InputError for what can be checked before any work."""
    check(recipe.model)
    kind, cluster = "video" if recipe.view.clip else "image", Cluster.now()
    cluster.teachers(recipe.resources)
    linear = {"linear": replace(recipe.linear, size=recipe.view.size)} if "linear" in recipe.arms else {}
    for name, model in {"model": recipe.model, **linear}.items():
        check(model, name)
        for size in {recipe.view.size, recipe.view.tested_size}:
            check_input(model, recipe.view.clip.frames if recipe.view.clip else None, size, name)
    for name in ("train", "teacher"):
        cluster.workers(recipe.resources, getattr(recipe, name).batch)
    check_start("train", recipe.model, 2, Init(frozen=recipe.frozen), None)
    for part in ("labeled", "test"):
        if (found := getattr(recipe, part).kind) != kind:
            raise InputError(f"{part}.kind is '{found}', but the view is for {kind}s: change one")
        recipe.label.check_against(getattr(recipe, part), recipe.view)
