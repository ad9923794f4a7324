"""What is measured of a run: the METRICS rows of all evaluators."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from raylabel.errors import InputError
from raylabel.evaluate.classify import Hits, accuracy, hits, paired_gain, share_right
from raylabel.evaluate.given_teacher import check_teacher, problem_of
from raylabel.evaluate.results import CLEAN_GAIN, CLEAN_TOP1, CONTROL, STUDENT, TOP1, Metric, Subject, require
from raylabel.pipelines.curves import curve_metrics
from raylabel.schema import PICKS
from raylabel.store.artifact import Artifact

if TYPE_CHECKING:
    from raylabel.pipelines.semi_supervised import Run


def metrics_of(run: Run) -> list[Metric]:
    """Accuracies on the test set, the gain, learning curves, the precision of the picks."""
    recipe, start = run.recipe, run.start
    of = functools.partial(Subject, seed=recipe.seed, dataset=", ".join(recipe.test.uri), split="test")
    right = {name: hits(scores, start.test_labels) for name, scores in run.tests.items()}
    return [
        *(row for name, hit in right.items() for row in accuracy(of(model=name), hit, len(start.classes))),
        paired_gain(of(model=STUDENT), right[STUDENT].top1, right[CONTROL].top1),
        *_clean(run, right, of),
        *curve_metrics(run),
        *run.precision,
    ]


def _clean(run: Run, right: Mapping[str, Hits], of: Callable[..., Subject]) -> Iterator[Metric]:
    """The accuracies and the gain on the test samples that do not leak, if any does."""
    key = np.sort(run.start.test_labels.table("picks", PICKS, ["key"]).column("key").to_numpy())
    clean = ~np.isin(key, run.leaks.keys)
    if clean.all() or not clean.any():
        return
    for name, hit in right.items():
        yield share_right(of(model=name), CLEAN_TOP1, hit.top1[clean])
    yield paired_gain(of(model=STUDENT), right[STUDENT].top1[clean], right[CONTROL].top1[clean], CLEAN_GAIN)


def check_of(run: Run) -> Artifact | None:
    """The accuracy of a given or zero-shot teacher; None for others."""
    teacher = run.recipe.teacher
    if not run.teacher_test or not teacher.checked:
        return None
    found = check_teacher(run.root, run.teacher_test, run.start.test_labels, teacher.head)
    if not teacher.unchecked and (problem := problem_of(found, run.start.classes, teacher.head)):
        raise InputError(problem)
    return found


def validate(run: Run, network: Artifact, held: Artifact) -> Metric:
    """Top-1 of a network on a validation split of the labeled set, given as PICKS."""
    recipe = run.recipe
    right = hits(run.score(network, recipe.view, "labeled"), held, part=True)
    of = Subject(model=network.name, seed=recipe.seed, dataset=", ".join(recipe.labeled.uri), split="validation")
    return require(accuracy(of, right, len(run.start.classes)), metric=TOP1)
