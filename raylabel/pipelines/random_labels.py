"""Random-label pre-training: a set with its true labels, random ones or none → networks → fine-tuned on another set.

Pondenkandath et al. 2018 (arXiv 1811.01640) §3, tables 1 and 2.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import get_args

import numpy as np

from raylabel.compute.progress import say
from raylabel.compute.resources import Cluster
from raylabel.corpus.label_rule import name_warnings
from raylabel.errors import InputError
from raylabel.evaluate.classified import classified_metrics, right_of
from raylabel.evaluate.classify import paired_gain, wilson
from raylabel.evaluate.learning_curve import LearningCurve
from raylabel.evaluate.on_scores import classify_scores
from raylabel.evaluate.results import EARLY_TOP1, Metric, Subject
from raylabel.labels.drawn import RandomLabels, ShuffledLabels
from raylabel.labels.source import LabelSource
from raylabel.labels.truth import GivenLabels
from raylabel.models import check, check_input
from raylabel.models.start import check_start
from raylabel.pipelines.inputs import index_corpora, lacking_classes
from raylabel.pipelines.steps import ExperimentSteps
from raylabel.recipes.random_labels import Labels, RandomPretraining
from raylabel.store.artifact import Artifact, Root
from raylabel.training.task import TrainingTask
from raylabel.training.train import train


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one kind of labels gives in one direction."""

    pretrained_on: str
    """The set of pre-training: first or second."""
    finetuned_on: str
    labels: Labels
    pretrained: Artifact | None
    """The network before fine-tuning; None without pre-training."""
    network: Artifact
    """The fine-tuned network."""
    classified: Artifact
    """CLASSIFIED of the test set by it."""
    metrics: tuple[Metric, ...]
    gains: Mapping[Labels, Metric]
    """Its top-1 minus that of each kind of labels before it, in the order of `Labels`."""
    learned: LearningCurve | None
    """Accuracy on what is learned in pre-training; None if it is not measured."""
    curve: LearningCurve | None
    """Accuracy while it is fine-tuned; None if it is not measured."""

    @property
    def gain(self) -> Metric | None:
        """Its top-1 minus that without pre-training; None of the latter, or if that is not run."""
        return self.gains.get("none")


class RandomLabelsRun(ExperimentSteps[RandomPretraining]):
    """The artifacts of a recipe. Reading a property returns an artifact if the root has it, or else builds it.
    InputError if the user has to fix an input."""

    def __init__(self, root: Root, recipe: RandomPretraining):
        """Checks the recipe, indexes its corpora and reads their labels."""
        _check(recipe)
        super().__init__()
        self.root, self.recipe = root, recipe
        sets = {"first": recipe.first, "second": recipe.second}
        given = {f"{name}-{part}": getattr(one, part) for name, one in sets.items() for part in ("labeled", "test")}
        self.corpora, self.shards = index_corpora(root, given)
        self.truth = {name: self._labels(f"{name}-labeled", GivenLabels()) for name in sets}
        self.classes = {name: tuple(one.info["classes"]) for name, one in self.truth.items()}
        self.test_labels = {
            name: self._labels(f"{name}-test", GivenLabels(classes=classes)) for name, classes in self.classes.items()
        }
        self.warnings = tuple(
            f"{name}: {text}"
            for name, classes in self.classes.items()
            for text in (*name_warnings(classes), *lacking_classes(classes, self.test_labels[name]))
        )
        for text in self.warnings:
            say(f"warning: {text}")

    @cached_property
    def outcomes(self) -> tuple[Outcome, ...]:
        """The result of each kind of labels, direction by direction."""
        return tuple(one for before, after in self.recipe.directions for one in self._of_direction(before, after))

    @cached_property
    def splits(self) -> dict[str, tuple[Artifact, Artifact | None]]:
        """PICKS of the true labels that each set is fine-tuned on, and of those that are held out."""
        return {after: self._split(after) for _, after in self.recipe.directions}

    def source(self, name: str, labels: Labels) -> LabelSource:
        """The label source of a set in pre-training."""
        recipe, own = self.recipe, self.classes[name]
        if labels == "random":
            names = own if recipe.classes in (0, len(own)) else tuple(map(str, range(recipe.classes)))
            return RandomLabels(classes=names, seed=recipe.seed)
        return ShuffledLabels(seed=recipe.seed) if labels == "shuffled" else GivenLabels()

    def pretrained(self, name: str, labels: Labels) -> Artifact:
        """The network that is trained on labels of this kind of a set."""
        picks, config = self.picks(name, labels), self.recipe.pretrain
        examples = self._stored(name, picks)
        task = TrainingTask(
            model=self.recipe.model,
            classes=len(picks.info["classes"]),
            examples=examples,
            config=config,
            view=self.recipe.view,
            seed=self.recipe.seed,
            validation=examples if config.validate.given else None,
        )
        return self._use(train(self.root, f"pretrained-{labels}", task, self.recipe.resources))

    def finetuned(self, name: str, labels: Labels, start: Artifact | None) -> Artifact:
        """The network that is trained on the true labels of a set, from `start`; None: from random weights."""
        recipe, config = self.recipe, self.recipe.finetune
        examples = self._stored(name, self.splits[name][0])
        init = replace(config.init, head="new") if start else replace(config.init, take=(), head="same")
        task = TrainingTask(
            model=recipe.model,
            classes=len(self.classes[name]),
            examples=examples,
            config=replace(config, init=init),
            view=recipe.view,
            seed=recipe.seed,
            init=start,
            validation=self._validation(name),
        )
        return self._use(train(self.root, f"finetuned-{labels}", task, recipe.resources))

    def _of_direction(self, before: str, after: str) -> Iterator[Outcome]:
        right: dict[Labels, np.ndarray] = {}
        # Each kind of labels is compared with those before it.
        for labels in sorted(self.recipe.labels, key=get_args(Labels).index):
            start = None if labels == "none" else self.pretrained(before, labels)
            network = self.finetuned(after, labels, start)
            scores = self._scores(network, f"{after}-test", self.recipe.label, len(self.classes[after]))
            made = self._use(classify_scores(self.root, scores, self.test_labels[after]))
            subject = Subject(
                model=f"{after} after {labels} of {before}" if start else f"{after} alone",
                seed=self.recipe.seed,
                dataset=", ".join(self.corpora[f"{after}-test"].uri),
                split="test",
            )
            right[labels] = right_of(made)
            validation, pretrain = self._validation(after), self.recipe.pretrain.validate
            curve = LearningCurve.of(network, validation, self.recipe.finetune.validate) if validation else None
            learned = None
            if start and pretrain.given:
                learned = LearningCurve.of(start, self._stored(before, self.picks(before, labels)), pretrain)
            yield Outcome(
                pretrained_on=before,
                finetuned_on=after,
                labels=labels,
                pretrained=start,
                network=network,
                classified=made,
                metrics=(*classified_metrics(subject, made, len(self.classes[after])), *self._rising(subject, curve)),
                gains={one: paired_gain(subject, right[labels], right[one]) for one in right if one != labels},
                learned=learned,
                curve=curve,
            )

    def _rising(self, subject: Subject, curve: LearningCurve | None) -> Iterator[Metric]:
        """METRICS rows of a fine-tuning that is validated."""
        if curve:
            n, early, on = curve.samples, curve.early.accuracy, replace(subject, split=self.recipe.finetune.validate.on)
            low, high = wilson(round(early * n), n)
            yield Metric(**vars(on), metric=EARLY_TOP1, value=early, low=low, high=high, n=n)
            yield from curve.metrics(on)

    def picks(self, name: str, labels: Labels) -> Artifact:
        """PICKS of a set with labels of this kind, as pre-training learns them."""
        return self._use(self._labels(f"{name}-labeled", self.source(name, labels)))

    def _validation(self, name: str) -> Artifact | None:
        """EXAMPLES that fine-tuning is validated on; None without validation."""
        learned, held = self.splits[name]
        if self.recipe.finetune.validate.on == "labeled":
            return self._stored(name, learned)
        return self._stored(name, held, "validation") if held and self.recipe.finetune.validate.given else None

    def _split(self, name: str) -> tuple[Artifact, Artifact | None]:
        truth, share = self.truth[name], self.recipe.holdout
        return self._hold_out(f"{name}-labeled", truth, share, "holdout") if share else (truth, None)

    def _stored(self, name: str, picks: Artifact, part: str = "labeled") -> Artifact:
        return self._examples(f"{name}-{part}", f"{name}-labeled", picks, self.recipe.label.reject_limit)


def _check(recipe: RandomPretraining) -> None:
    """InputError for what can be checked before any work."""
    check(recipe.model)
    kind, cluster = "video" if recipe.view.clip else "image", Cluster.now()
    cluster.teachers(recipe.resources)
    for size in {recipe.view.size, recipe.view.tested_size}:
        check_input(recipe.model, recipe.view.clip.frames if recipe.view.clip else None, size)
    for name in ("pretrain", "finetune"):
        config = getattr(recipe, name)
        cluster.workers(recipe.resources, config.batch)
        # The names of layers that are taken are checked as those of frozen ones are, before days of pre-training.
        for init in (config.init, replace(config.init, frozen=config.init.take, frozen_until=0.5)):
            check_start(name, recipe.model, 2, init, None)
    for name, one in (("first", recipe.first), ("second", recipe.second)):
        for part in ("labeled", "test"):
            if (found := getattr(one, part).kind) != kind:
                raise InputError(f"{name}.{part}.kind is '{found}', but the view is for {kind}s: change one")
            recipe.label.check_against(getattr(one, part), recipe.view)
