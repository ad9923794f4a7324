"""The story: labeled set → teacher → SCORES of the corpus → PICKS → student, and whether it was worth it."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

from raylabel import datasets
from raylabel.compute.resources import Cluster
from raylabel.corpus import Corpus, Shards, index_corpus, read_groups
from raylabel.evaluate.classify import TOP, accuracy, hits, paired_gain
from raylabel.evaluate.precision import pick_precision
from raylabel.evaluate.results import CONTROL, PRETRAINED, STUDENT, TEACHER, Metric, Subject, metrics
from raylabel.labels.teacher import label
from raylabel.labels.truth import truth
from raylabel.media.view import View
from raylabel.models import Model, import_model
from raylabel.recipes.recipe import Recipe, Teacher, check_classes, check_recipe
from raylabel.report.run import Run, write_run
from raylabel.report.summary import Summary
from raylabel.selection.duplicates import find_duplicates
from raylabel.selection.leaks import Leaks, find_leaks
from raylabel.selection.select import select
from raylabel.store.artifact import Artifact, Root, identity_of
from raylabel.training.config import Train
from raylabel.training.examples import materialize
from raylabel.training.stream import Stream
from raylabel.training.train import train


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a run rests on, and what a plan needs to know of it. Corpora and SHARDS: labeled, unlabeled, test."""

    corpora: dict[str, Corpus]
    shards: dict[str, Artifact]
    labels: Artifact
    """PICKS of the labeled set."""
    test_labels: Artifact
    """PICKS of the test set."""
    classes: tuple[str, ...]
    """Their names, in label order."""
    groups: dict[str, pa.Table]
    """Of the labeled and the test set, what `read_groups` says."""
    teacher: Artifact | None
    """The teacher, if it is given and not trained here."""


def prepare(root: Root, recipe: Recipe) -> Prepared:
    """Checks the recipe, indexes its corpora, and reads their labels. InputError for input that a person can mend."""
    check_recipe(recipe)
    corpora = {n: datasets.resolve(root, getattr(recipe, n)) for n in ("labeled", "unlabeled", "test")}
    shards = {n: index_corpus(root, n, corpus) for n, corpus in corpora.items()}
    labels = truth(root, shards["labeled"], corpora["labeled"])
    classes = tuple(labels.info["classes"])
    test_labels = truth(root, shards["test"], corpora["test"], classes)
    groups = {n: read_groups(corpora[n], Shards(shards[n])) for n in ("labeled", "test")}
    find_leaks(root, recipe.leaks, groups["labeled"], groups["test"])  # those that nothing need be scored to see
    check_classes(recipe, len(classes))
    return Prepared(
        corpora=corpora,
        shards=shards,
        labels=labels,
        test_labels=test_labels,
        classes=classes,
        groups=groups,
        teacher=given_teacher(root, recipe.teacher, len(classes)),
    )


def fit_model(
    root: Root,
    recipe: Recipe,
    classes: int,
    name: str,
    model: Model,
    examples: Artifact,
    config: Train | None,
    init: Artifact | None = None,
) -> Artifact:
    """One of the recipe's networks, trained."""
    assert config is not None
    view = recipe.teacher_view if name == "teacher" else recipe.view
    return train(
        root,
        name,
        model=model,
        classes=classes,
        examples=examples,
        config=config,
        view=view,
        seed=recipe.seed,
        resources=recipe.resources,
        init=init,
    )


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """What stands once a student has learned from the corpus."""

    lesson: Artifact
    """EXAMPLES of the labeled set."""
    teacher: Artifact
    scores: Artifact
    """SCORES of the corpus by the teacher."""
    tested: Artifact
    """SCORES of the test set by the teacher."""
    leaks: Leaks
    duplicates: Artifact
    picks: Artifact
    pseudo: Artifact
    """EXAMPLES of the picks."""
    student: Artifact
    """The student, trained on the picks alone."""


def pretrain(root: Root, recipe: Recipe, start: Prepared) -> Pretrained:
    """Teacher, SCORES, PICKS and the student that learned from them. InputError for input that a person can mend."""
    corpora, shards, classes = start.corpora, start.shards, start.classes
    limit, again = recipe.label.reject_limit, recipe.retry_rejects
    lesson = materialize(
        root, "labeled", start.labels, shards["labeled"], corpora["labeled"], recipe.materialize, limit, again
    )

    for config in (recipe.teacher.train, recipe.finetune, recipe.control):  # known now, not after days of pre-training
        if config:
            workers = Cluster.now().workers(recipe.resources, config.batch)
            Stream(lesson, recipe.seed).check_workers(workers, config.batch)

    fit = functools.partial(fit_model, root, recipe, len(classes))

    # 1. The teacher.
    teacher = start.teacher or fit("teacher", recipe.teacher.model, lesson, recipe.teacher.train)

    # 2. It labels the corpus, once; the best K of every class become a training set.
    scores = label(
        root,
        teacher,
        shards["unlabeled"],
        corpora["unlabeled"],
        recipe.teacher_view,
        recipe.label,
        recipe.resources,
        again,
    )

    tested = test(root, recipe, start, teacher, recipe.teacher_view)
    # What of the test set stands in the corpus is known now, not after days of pre-training.
    leaks = find_leaks(root, recipe.leaks, start.groups["labeled"], start.groups["test"], scores, tested)
    duplicates = find_duplicates(root, scores)
    picks = select(root, scores, duplicates, recipe.select, classes)
    pseudo = materialize(
        root, "picked", picks, shards["unlabeled"], corpora["unlabeled"], recipe.materialize, limit, again
    )

    # 3. The student learns from the picks alone.
    student = fit("pretrained", recipe.student, pseudo, recipe.pretrain)
    return Pretrained(
        lesson=lesson,
        teacher=teacher,
        scores=scores,
        tested=tested,
        leaks=leaks,
        duplicates=duplicates,
        picks=picks,
        pseudo=pseudo,
        student=student,
    )


def test(root: Root, recipe: Recipe, start: Prepared, model: Artifact, view: View) -> Artifact:
    """SCORES of the test set by a network."""
    config, again = replace(recipe.label, p=TOP), recipe.retry_rejects
    return label(root, model, start.shards["test"], start.corpora["test"], view, config, recipe.resources, again)


def finetune(root: Root, recipe: Recipe, start: Prepared, found: Pretrained) -> Artifact:
    """The student, fine-tuned on the clean labels alone."""
    return fit_model(
        root,
        recipe,
        len(start.classes),
        "student",
        recipe.student,
        found.lesson,
        recipe.finetune,
        init=found.student,
    )


def semi_supervised(root: Root, recipe: Recipe, start: Prepared | None = None) -> tuple[Artifact, Summary]:
    """Runs the recipe (Yalniz et al. 2019 §3); the artifact holds summary.json and report.html, the same numbers.

    Whatever stands in the root already is used as it is. `start`: what the run rests on, if that is known; else it is
    prepared. InputError for input that a person can mend.
    """
    start = start or prepare(root, recipe)
    corpora, shards, classes = start.corpora, start.shards, start.classes

    # 1. A teacher 2. labels the corpus. 3. The student learns from the picks alone. 4. It is fine-tuned on the clean
    # labels alone.
    found = pretrain(root, recipe, start)
    student = finetune(root, recipe, start, found)

    # Was it worth it? The same architecture, the same recipe, the same number of images, without the corpus.
    control = fit_model(root, recipe, len(classes), "control", recipe.student, found.lesson, recipe.control)

    students = {"control": control, "pretrain": found.student, "finetune": student}
    models = {CONTROL: control, PRETRAINED: found.student, STUDENT: student}
    tests = {name: test(root, recipe, start, model, recipe.view) for name, model in models.items()}
    tests = {TEACHER: found.tested, **tests}
    rows = evaluate(recipe, start, tests, found.picks)
    run = Run(
        name=recipe.name,
        settings=identity_of(recipe),
        classes=classes,
        corpus=corpora["unlabeled"],
        shards=shards["unlabeled"],
        lesson=found.lesson,
        scores=found.scores,
        duplicates=found.duplicates,
        picks=found.picks,
        stages={
            "teacher": (found.teacher,),
            "label": (found.scores,),
            "select": (found.duplicates, found.picks),
            "materialize": (found.lesson, found.pseudo),
            "pretrain": (found.student,),
            "finetune": (student,),
            "control": (control,),
            "evaluate": tuple(tests.values()),
        },
        curves={**({} if start.teacher else {"teacher": found.teacher}), **students},
        metrics=rows,
        leaks=found.leaks,
        more=(
            *shards.values(),
            start.labels,
            start.test_labels,
            metrics(root, recipe.name, rows),
        ),
    )
    return write_run(root, run)


def evaluate(recipe: Recipe, start: Prepared, tests: Mapping[str, Artifact], picks: Artifact) -> list[Metric]:
    """What all evaluators give. `tests`: SCORES of the test set by each model; the networks are not needed."""
    right = {name: hits(scores, start.test_labels) for name, scores in tests.items()}
    of = functools.partial(Subject, seed=recipe.seed, dataset=", ".join(recipe.test.uri), split="test")
    picked = Subject(model=TEACHER, seed=recipe.seed, dataset=", ".join(recipe.unlabeled.uri), split="unlabeled")
    return [
        *(row for name, hit in right.items() for row in accuracy(of(model=name), hit, len(start.classes))),
        paired_gain(of(model=STUDENT), right[STUDENT].top1, right[CONTROL].top1),
        *pick_precision(picked, picks, start.shards["unlabeled"], recipe.truth),
    ]


def given_teacher(root: Root, teacher: Teacher, classes: int) -> Artifact | None:
    """The teacher, if it is given and not trained here."""
    if not teacher.given:
        return None
    return import_model(root, "teacher", teacher.model, classes, checkpoint=teacher.checkpoint, weights=teacher.weights)
