"""Random labels that are drawn again: a corpus → its random labels, again and again → a network for each drawing.

Pondenkandath et al. 2018 (arXiv 1811.01640) Figure 1.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from raylabel.compute.progress import say
from raylabel.compute.resources import Cluster
from raylabel.errors import InputError
from raylabel.evaluate.learning_curve import LearningCurve
from raylabel.evaluate.results import Metric, Subject
from raylabel.labels.drawn import RandomLabels
from raylabel.models import check, check_input
from raylabel.models.start import check_start
from raylabel.models.trained import CURVE
from raylabel.pipelines.inputs import index_corpora
from raylabel.pipelines.steps import ExperimentSteps
from raylabel.recipes.redrawing import FRESH, KEPT, Redrawing, init_of
from raylabel.store.artifact import Artifact, Root
from raylabel.training.task import TrainingTask
from raylabel.training.train import train

FIRST_LOSS = "first_epoch_loss"
"""Mean training loss of the first pass over the samples, nats. It has no interval."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A training on random labels."""

    redraw: int
    """0: the first labels; then how often they have been drawn again."""
    start: str
    """What the training starts from, as in `Redrawing.controls`; of the first labels 'none', or else 'all' if it is no
    control."""
    network: Artifact
    curve: LearningCurve
    """The accuracy on the labels that are learned."""
    first_loss: float
    """Mean training loss of the first pass over the samples, nats."""


class RedrawingRun(ExperimentSteps[Redrawing]):
    """The artifacts of a recipe. Reading a property returns an artifact if the root has it, or else builds it.
    InputError if the user has to fix an input."""

    def __init__(self, root: Root, recipe: Redrawing):
        """Checks the recipe, and indexes its corpus."""
        _check(recipe)
        super().__init__()
        self.root, self.recipe = root, recipe
        self.corpora, self.shards = index_corpora(root, {"corpus": recipe.corpus})

    @cached_property
    def drawings(self) -> tuple[Drawing, ...]:
        """All trainings: of each drawing the one that goes on, then its controls."""
        return tuple(self._drawings())

    def examples(self, redraw: int) -> Artifact:
        """EXAMPLES with the labels of a drawing; the media are those of all others."""
        recipe = self.recipe
        source = RandomLabels(classes=tuple(map(str, range(recipe.classes))), seed=recipe.seed)
        picks = self._use(source.label(self.root, self.corpora["corpus"], self.shards["corpus"], redraw))
        return self._examples("drawn", "corpus", picks, recipe.reject_limit)

    def metrics(self) -> Iterator[Metric]:
        """METRICS rows of all trainings; the model is that of `model_of`."""
        dataset = ", ".join(self.corpora["corpus"].uri)
        for one in self.drawings:
            subject = Subject(model=model_of(one), seed=self.recipe.seed, dataset=dataset, split="labeled")
            yield from one.curve.metrics(subject)
            yield Metric(**vars(subject), metric=FIRST_LOSS, value=one.first_loss, n=one.curve.samples)

    def _drawings(self) -> Iterator[Drawing]:
        before: Artifact | None = None
        for redraw in range(1 + self.recipe.redraws):
            kept = self._train(redraw, KEPT if redraw else FRESH, before)
            yield kept
            for start in self.recipe.controls if redraw in self.recipe.controlled else ():
                say(f"redraw {redraw}: control from {start}")
                yield self._train(redraw, start, before)
            before = kept.network

    def _train(self, redraw: int, start: str, before: Artifact | None) -> Drawing:
        recipe, examples, init = self.recipe, self.examples(redraw), init_of(start)
        task = TrainingTask(
            model=recipe.model,
            classes=recipe.classes,
            examples=examples,
            config=replace(recipe.train, init=init) if init else recipe.train,
            view=recipe.view,
            seed=recipe.seed,
            init=before if init else None,
            validation=examples,
        )
        network = self._use(train(self.root, f"drawn-{redraw}", task, recipe.resources))
        curve = LearningCurve.of(network, examples, recipe.train.validate)
        first = first_loss(network, curve.samples)
        return Drawing(redraw=redraw, start=start, network=network, curve=curve, first_loss=first)


def model_of(drawing: Drawing) -> str:
    """The id of its network in METRICS: drawn-2 after norms."""
    return f"drawn-{drawing.redraw}" + ("" if drawing.start == FRESH and not drawing.redraw else f" {drawing.start}")


def first_loss(network: Artifact, samples: int) -> float:
    """Mean training loss until each of so many samples has been processed once, nats: up to the first point of the
    curve at which they have."""
    total, before = 0.0, 0
    for point in json.loads(network.read(CURVE)):
        total += point["loss"] * (point["images"] - before)
        before = point["images"]
        if before >= samples:
            break
    return total / before


def _check(recipe: Redrawing) -> None:
    """InputError for what can be checked before any work."""
    check(recipe.model)
    clip, cluster = recipe.view.clip, Cluster.now()
    for size in {recipe.view.size, recipe.view.tested_size}:
        check_input(recipe.model, clip.frames if clip else None, size)
    cluster.workers(recipe.resources, recipe.train.batch)
    if (kind := "video" if clip else "image") != recipe.corpus.kind:
        raise InputError(f"corpus.kind is '{recipe.corpus.kind}', but the view is for {kind}s: change one")
    for start in recipe.controls:
        if init := init_of(start):
            # The names of layers that are taken are checked as those of frozen ones are, before days of training.
            check_start(f"controls '{start}'", recipe.model, 2, replace(init, frozen=init.take, frozen_until=0.5), None)
