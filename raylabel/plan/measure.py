"""The pilot of a recipe: measures each kind of work that is left of its run, once."""

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from rich.console import Console

from raylabel.compute.progress import Progress
from raylabel.compute.resources import Cluster
from raylabel.corpus import Shards, unit_rows
from raylabel.evaluate.classify import TOP
from raylabel.features.thumbnails import has_thumbnails
from raylabel.inference.batches import ScoringTask
from raylabel.inference.network import Network
from raylabel.inference.pictures import Pictures
from raylabel.inference.scorer import Scorer
from raylabel.labels.features import feature_width
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.pipelines.inputs import Prepared
from raylabel.plan.done import Done
from raylabel.plan.pilot import (
    Compared,
    Labeled,
    Materialized,
    MeasuredHead,
    Selected,
    Trained,
    measure_comparing,
    measure_head,
    measure_labeling,
    measure_materializing,
    measure_selection,
    measure_training,
    random_network,
    stored_thumbnails,
)
from raylabel.recipes.recipe import Recipe
from raylabel.store.artifact import Artifact, Draft, Root, identity_of
from raylabel.store.files import delete_folder
from raylabel.training.config import Train
from raylabel.training.media import WritingTask
from raylabel.training.stream import Stream
from raylabel.training.task import TrainingTask

TRIAL = "control trial"
"""Name of a trial of `control.sweep`, before its number."""


def examples_of(recipe: Recipe, start: Prepared) -> dict[str, str]:
    """Stage that writes EXAMPLES → the corpus that it reads."""
    found = {"labeled_examples": "labeled", "pseudo_examples": "unlabeled"}
    if recipe.validated and start.validation:
        found["validation_examples"] = start.validation[0]
    if recipe.control_trials:
        found["split_examples"] = "labeled"
    return found


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The measurements of the pilot; None or absent for work that is done."""

    teacher: Labeled | None
    student: Labeled | None
    head: MeasuredHead | None
    """None unless it labels the corpus from stored features."""
    selected: Selected | None
    compared: Compared | None
    """None if no near-duplicates are left to be searched for."""
    pictures: Labeled | None
    """Of making thumbnails without a network."""
    materialized: Mapping[str, Materialized]
    """By the stage that writes the EXAMPLES."""
    trained: Mapping[str, Trained]
    """By the name of the training."""


def compares(recipe: Recipe, done: Done) -> bool:
    """Whether near-duplicates are left to be searched for."""
    scores = done["labels"]
    kept = bool(scores.files("thumbnails-")) if scores else has_thumbnails(recipe.teacher_view.tested_size)
    stages = ("labeled_pairs", "pairs", *(("copies",) if recipe.copies == "near" else ()))
    return kept and not all(done[stage] for stage in stages)


@dataclass(frozen=True)
class Remaining:
    """A training that is not done yet."""

    name: str
    model: Model
    view: View
    config: Train
    examples: str
    """The stage that writes its training examples."""


def remaining(recipe: Recipe, done: Done) -> list[Remaining]:
    """The trainings of the recipe that are not done yet."""
    found = []
    if not done["teacher"] and not recipe.teacher.head.given:
        assert recipe.teacher.train is not None
        found.append(
            Remaining("teacher", recipe.teacher.model, recipe.teacher_view, recipe.teacher.train, "labeled_examples")
        )
    if not done["pretrained"]:
        found.append(Remaining("pretrain", recipe.student, recipe.view, recipe.pretrain, "pseudo_examples"))
    if not done["student"]:
        examples = "pseudo_examples" if recipe.finetune_picks == 1 else "labeled_examples"
        found.append(Remaining("finetune", recipe.student, recipe.view, recipe.finetune, examples))
    for number, (_, trial) in enumerate(recipe.control_trials):
        if not done.trials[number][0]:
            name = f"{TRIAL} {number}"
            found.append(Remaining(name, recipe.student, trial.control_view, trial.control_train, "split_examples"))
    if not done["control"]:
        last = done.control
        found.append(Remaining("control", recipe.student, last.control_view, last.control_train, "labeled_examples"))
    if recipe.mixed and not done["mixed"]:
        found.append(Remaining("mixed", recipe.student, recipe.view, recipe.mixed_train, "pseudo_examples"))
    return found


# Fields of trainings and views that are only in the identity if they are set, and that take time.
_SLOWER = ("optimizer", "mixup", "cutmix", "ema", "accumulate", "sync_batchnorm", "augment", "erase", "interpolation")


def _kind(training: Remaining) -> str:
    """Trainings of the same kind are equally fast, so only one of them is measured."""
    view, config = training.view, training.config
    frames = f" of {view.clip.frames} frames" if view.clip else ""
    given = identity_of(config) | view.training_identity
    shown = {key: "" if isinstance(given[key], (float, bool)) else f" {given[key]}" for key in _SLOWER if key in given}
    if config.init.frozen:
        shown["frozen"] = f" {' '.join(config.init.frozen)}"
    options = ", ".join(f"{key}{value}" for key, value in shown.items())
    name = f"training {training.model.arch}{frames} at {view.size} pixels in batches of {config.batch}"
    return f"{name} with {options}" if options else name


@contextmanager
def scratch_root(root: Root) -> Iterator[Root]:
    """A root for the artifacts of the pilot, inside the root so that all nodes can access it; deleted afterwards."""
    inner = Root(f"{root.uri}/pilot-{uuid.uuid4().hex}")
    try:
        yield inner
    finally:
        delete_folder(inner.uri)


class Pilot:
    """Measures the remaining work of the run, one kind after the other."""

    def __init__(self, root: Root, recipe: Recipe, start: Prepared, done: Done, cluster: Cluster):
        self.root, self.recipe, self.start, self.done, self.cluster = root, recipe, start, done, cluster
        self.classes, self.stages = len(start.classes), examples_of(recipe, start)

    def run(self) -> Measured:
        recipe, done = self.recipe, self.done
        trainings = remaining(recipe, done)
        todo: dict[str, Callable[[], Any]] = {}
        tests = done.tests
        features = recipe.teacher.features
        if not (done["labels"] and tests["teacher"]) or (features and not done["features"]):
            todo["teacher"] = lambda: self._label(
                done["teacher"], recipe.teacher.network, recipe.teacher_view, "unlabeled", recipe.label.p
            )
        scored = [*(test for name, test in tests.items() if name != "teacher"), *(scores for _, scores in done.trials)]
        if not all(scored):
            todo["student"] = lambda: self._label(None, recipe.student, recipe.view, "test", TOP)
        if features and not done["labels"]:
            todo["head"] = self._head
        if not done["picks"]:
            todo["selected"] = self._select
        written = {stage: corpus for stage, corpus in self.stages.items() if not done[stage]}
        if compares(recipe, done):
            todo["compared"] = lambda: self._compare(found.get("teacher"))
            if not done["labeled_pairs"]:
                todo["pictures"] = self._pictures
        for corpus in dict.fromkeys(written.values()):
            todo[f"examples of {corpus}"] = lambda corpus=corpus: self._write(corpus)
        for kind, training in {_kind(training): training for training in reversed(trainings)}.items():
            todo[kind] = lambda training=training: self._train(training, found)
        found: dict[str, Any] = {}
        with Progress("pilot", len(todo), "measurements", console=Console(stderr=True)) as progress:
            for name, measure in todo.items():
                progress.update(len(found), note=name)
                found[name] = measure()
            progress.update(len(found))
        return Measured(
            teacher=found.get("teacher"),
            student=found.get("student"),
            head=found.get("head"),
            selected=found.get("selected"),
            compared=found.get("compared"),
            pictures=found.get("pictures"),
            materialized={stage: found[f"examples of {corpus}"] for stage, corpus in written.items()},
            trained={training.name: found[_kind(training)] for training in trainings},
        )

    def _label(self, model: Artifact | None, arch: Model, view: View, corpus: str, p: int) -> Labeled:
        recipe = self.recipe
        model = model or random_network(self.root, arch, self.classes)
        precision = self.cluster.precision(recipe.label.precision)
        kept = corpus == "unlabeled" and has_thumbnails(view.tested_size)
        return self._score(Network(model, view, precision, min(p, self.classes), thumbnails=kept), corpus)

    def _score(self, scorer: Scorer, corpus: str) -> Labeled:
        shards, pool = Shards(self.start.shards[corpus]), self.cluster.teachers(self.recipe.resources)
        batch = self.recipe.label.batch
        return measure_labeling(ScoringTask(scorer, self.start.corpora[corpus], shards, batch, pool))

    def _pictures(self) -> Labeled:
        return self._score(Pictures(self.recipe.teacher_view), "labeled")

    def _compare(self, labeled: Labeled | None) -> Compared:
        scores, unit = self.done["labels"], unit_rows(self.start.corpora["unlabeled"])
        if scores and scores.files("thumbnails-"):
            sample = ray.get(stored_thumbnails.remote(scores))
        else:
            assert labeled is not None
            sample = labeled.thumbnails
        return measure_comparing(*sample, unit, self.recipe.copies == "near")

    def _head(self) -> MeasuredHead:
        teacher, label = self.recipe.teacher, self.recipe.label
        width = feature_width(teacher.model, self.recipe.teacher_view)
        gpus = self.cluster.teachers(self.recipe.resources).gpus
        return measure_head(width, self.classes, label.batch, min(label.p, self.classes), gpus)

    def _select(self) -> Selected:
        kept = min(self.recipe.label.p, self.classes)
        samples = Shards(self.start.shards["unlabeled"]).samples
        return measure_selection(self.root, self.recipe.select, self.classes, kept, samples)

    def _write(self, corpus: str) -> Materialized:
        task = WritingTask(
            shards=Shards(self.start.shards[corpus]),
            corpus=self.start.corpora[corpus],
            config=self.recipe.materialize,
            max_jpeg_pixels=self.recipe.max_jpeg_pixels,
        )
        return measure_materializing(self.root, corpus, task, self.classes)

    def _train(self, training: Remaining, found: Mapping[str, Any]) -> Trained:
        recipe, config = self.recipe, training.config
        examples = self.done[training.examples] or found[f"examples of {self.stages[training.examples]}"].examples
        workers = self.cluster.workers(recipe.resources, config.batch)
        Stream(examples, recipe.seed).check_workers(workers, config.batch)
        precision = self.cluster.precision(config.precision, training.view.clip is not None)
        task = TrainingTask(
            model=training.model,
            classes=self.classes,
            examples=examples,
            config=config,
            view=training.view,
            seed=recipe.seed,
            precision=precision,
        )
        return measure_training(Draft(f"{self.root.uri}/{training.name}"), task, workers, bool(self.cluster.gpus))
