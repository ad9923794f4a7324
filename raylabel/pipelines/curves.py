"""The networks that a run trains, and how their accuracy rose on the sets that they are validated on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from raylabel.evaluate.learning_curve import LearningCurve
from raylabel.evaluate.results import CONTROL, MIXED, PRETRAINED, STUDENT, TEACHER, Metric, Subject
from raylabel.store.artifact import Artifact
from raylabel.training.config import Train

if TYPE_CHECKING:
    from raylabel.pipelines.semi_supervised import Run


class Training(NamedTuple):
    """A training of a run."""

    model: str
    """Id of the model in METRICS."""
    network: Artifact
    config: Train


def trainings_of(run: Run) -> dict[str, Training]:
    """The trainings of a run, by their names in the report."""
    recipe, found = run.recipe, dict[str, Training]()
    if recipe.teacher.train and not run.start.teacher and recipe.taught:
        found["teacher"] = Training(TEACHER, run.teacher, recipe.teacher.train)
    found |= {
        "control": Training(CONTROL, run.control, run.chosen.control_train),
        "pretrain": Training(PRETRAINED, run.pretrained, recipe.pretrain),
        "finetune": Training(STUDENT, run.student, recipe.finetune),
    }
    if run.mixed:
        found["mixed"] = Training(MIXED, run.mixed, recipe.mixed_train)
    return found


def curves_of(run: Run) -> dict[str, LearningCurve]:
    """The learning curves of the trainings that are validated, by the name of the training."""
    found: dict[str, LearningCurve] = {}
    for name, (_, network, config) in trainings_of(run).items():
        if examples := run.validation_set(config):
            found[name] = LearningCurve.of(network, examples, config.validate)
    return found


def curve_metrics(run: Run) -> Iterator[Metric]:
    """METRICS rows of the learning curves."""
    recipe, trainings = run.recipe, trainings_of(run)
    for name, curve in curves_of(run).items():
        on = curve.config.on
        corpus = (on == "validation" and recipe.validation) or recipe.labeled
        uris = ", ".join(corpus.uri)
        yield from curve.metrics(Subject(model=trainings[name].model, seed=recipe.seed, dataset=uris, split=on))
