"""Further rounds of a run: its student is the teacher of the next one (Yalniz et al. 2019 §4.2, tables 4 and 10)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from raylabel.compute.progress import say
from raylabel.compute.tasks import run_tasks
from raylabel.evaluate.classify import accuracy, hits, paired_gain
from raylabel.evaluate.results import STUDENT, TOP1, Metric, Subject, require
from raylabel.recipes.recipe import Recipe
from raylabel.recipes.teacher import Teacher
from raylabel.schema import PICKS
from raylabel.selection.shuffle import open_table
from raylabel.store.artifact import Artifact
from raylabel.text import percent, points

if TYPE_CHECKING:
    from raylabel.pipelines.semi_supervised import Run

ROUND = "-round-"  # before the number in the name of a round's recipe


@dataclass(frozen=True, kw_only=True)
class Validated:
    """The student of a round on the validation set, which nothing was trained on."""

    top1: Metric
    gain: Metric
    """Over its teacher, paired."""


def validated(run: Run) -> Validated | None:
    """None without a validation set or a teacher."""
    if not run.start.validation or not run.recipe.taught:
        return None
    corpus, held = run.start.validation
    student, teacher = (
        hits(run.score(network, view, corpus), held, part=True)
        for network, view in ((run.student, run.recipe.view), (run.teacher, run.recipe.teacher_view))
    )
    uris = ", ".join(run.start.corpora[corpus].uri)
    of = Subject(model=STUDENT, seed=run.recipe.seed, dataset=uris, split="validation")
    top1 = require(accuracy(of, student, len(run.start.classes)), metric=TOP1)
    return Validated(top1=top1, gain=paired_gain(of, student.top1, teacher.top1))


def next_round(run: Run) -> Recipe | None:
    """The recipe of the round after this run: its student is the teacher, and the student has the next architecture of
    `Recipe.rounds`. None if there is none, or if the student is not measurably better than its teacher on the
    validation set: another round would follow chance. The test set has no say."""
    recipe = run.recipe
    if not recipe.rounds:
        return None
    if (found := validated(run)) and not (found.gain.low or 0) > 0:
        gain = found.gain
        of = f"on the validation set (n = {gain.n:,}) the student has {percent(found.top1.value)}"
        ends = f"{points(gain.low or 0)} to {points(gain.high or 0)}"
        say(f"no further round: {of}, {points(gain.value)} points over its teacher ({ends})")
        return None
    arch, *others = recipe.rounds
    name, _, number = recipe.name.rpartition(ROUND) if ROUND in recipe.name else (recipe.name, "", "1")
    teacher = Teacher(
        model=recipe.student, checkpoint=f"{run.student.uri}/model.safetensors", view=recipe.view, unchecked=True
    )
    return replace(
        recipe,
        name=f"{name}{ROUND}{int(number) + 1}",
        teacher=teacher,
        student=replace(recipe.student, arch=arch),
        rounds=tuple(others),
    )


def overlap(before: Artifact, after: Artifact) -> float:
    """The share of the picks of `after`, pairs of a sample and a class, that are picks of `before` too. Both have the
    same classes in each file."""
    names = [file.name for file in after.files("picks-")]
    both = run_tasks(_common, [(before.uri, after.uri, name) for name in names])
    return sum(both) / max(1, after.info["picks"])


def _common(before: str, after: str, name: str) -> int:
    """Pairs that a file of both has."""
    old, new = (_keys(folder, name) for folder in (before, after))
    return sum(int(np.isin(key, old[label]).sum()) for label, key in new.items() if label in old)


def _keys(folder: str, name: str) -> dict[int, np.ndarray]:
    """Class → the keys of its picks in a file of PICKS, in which the picks of a class follow each other."""
    with open_table(folder, name, PICKS) as file:
        table = file.read(columns=["label", "key"], use_threads=False)
    labels, first = np.unique(table.column("label").to_numpy(), return_index=True)
    return dict(zip(labels.tolist(), np.split(table.column("key").to_numpy(), first[1:]), strict=True))
