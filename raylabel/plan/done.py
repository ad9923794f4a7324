"""What of a run stands in the root already: the story told again, with nothing built."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from raylabel.corpus import Shards
from raylabel.evaluate.classify import TOP
from raylabel.inference.reuse import find_earlier
from raylabel.inference.scores import PART, unit_rows
from raylabel.labels.teacher import label
from raylabel.media.view import View
from raylabel.pipelines.semi_supervised import Prepared, fit_model
from raylabel.recipes.recipe import Recipe
from raylabel.selection.duplicates import find_duplicates
from raylabel.selection.select import select
from raylabel.store.artifact import Artifact, Root, committed_parts, digest
from raylabel.training.examples import materialize


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The artifacts of a run; None for one that is not complete."""

    lesson: Artifact | None
    teacher: Artifact | None
    scores: Artifact | None
    picks: Artifact | None
    pseudo: Artifact | None
    pretrained: Artifact | None
    student: Artifact | None
    control: Artifact | None
    tests: tuple[Artifact | None, ...]
    """SCORES of the test set by teacher, control, pretrained and fine-tuned student."""
    labeled: int
    """Samples of the corpus that need not be scored: their parts are committed, or they were scored earlier."""
    lesson_written: int
    """Samples of `lesson` in committed parts."""
    pseudo_written: int
    """Samples of `pseudo` in committed parts."""


class _Missing(Exception):
    def __init__(self, uri: str, identity: Mapping[str, Any]):
        super().__init__(uri)
        self.uri, self.identity = uri, identity


class _Bare(Root):
    """A root in which nothing is built."""

    def make(self, name: str, identity: Mapping[str, Any], build: Any) -> Artifact:
        if done := self.find(name, identity):
            return done
        raise _Missing(f"{self.uri}/{name}-{digest(identity)}", identity)


def look(root: Root, recipe: Recipe, start: Prepared) -> Standing:
    """What stands of the recipe's run, whatever built it."""
    bare, missing = _Bare(root.uri), dict[str, _Missing]()

    def find(name: str, make: Callable[..., Artifact], *inputs: Artifact | None) -> Artifact | None:
        """What `make` finds; None if it is missing, or its inputs are."""
        if None in inputs:
            return None
        try:
            return make(*inputs)
        except _Missing as error:
            missing[name] = error
            return None

    shards, corpora, classes = start.shards, start.corpora, start.classes
    config, limit = recipe.materialize, recipe.label.reject_limit

    def write(name: str, corpus: str, picks: Artifact) -> Artifact:
        return materialize(bare, name, picks, shards[corpus], corpora[corpus], config, limit)

    def score(corpus: str, p: int, view: View, model: Artifact) -> Artifact:
        how = replace(recipe.label, p=p)
        return label(bare, model, shards[corpus], corpora[corpus], view, how, recipe.resources)

    fit = functools.partial(fit_model, bare, recipe, len(classes))
    model = recipe.student
    lesson = find("lesson", functools.partial(write, "labeled", "labeled"), start.labels)
    teacher = start.teacher or find(
        "teacher", lambda lesson: fit("teacher", recipe.teacher.model, lesson, recipe.teacher.train), lesson
    )
    scores = find("scores", functools.partial(score, "unlabeled", recipe.label.p, recipe.teacher_view), teacher)
    copies = find("duplicates", lambda scores: find_duplicates(bare, scores), scores)
    picks = find("picks", lambda scores, copies: select(bare, scores, copies, recipe.select, classes), scores, copies)
    pseudo = find("pseudo", functools.partial(write, "picked", "unlabeled"), picks)
    pretrained = find("pretrained", lambda pseudo: fit("pretrained", model, pseudo, recipe.pretrain), pseudo)
    student = find(
        "student",
        lambda lesson, init: fit("student", model, lesson, recipe.finetune, init=init),
        lesson,
        pretrained,
    )
    control = find("control", lambda lesson: fit("control", model, lesson, recipe.control), lesson)
    networks = ((teacher, recipe.teacher_view), *((one, recipe.view) for one in (control, pretrained, student)))
    return Standing(
        lesson=lesson,
        teacher=teacher,
        scores=scores,
        picks=picks,
        pseudo=pseudo,
        pretrained=pretrained,
        student=student,
        control=control,
        tests=tuple(find("test", functools.partial(score, "test", TOP, view), one) for one, view in networks),
        labeled=_labeled(
            root, Shards(shards["unlabeled"]), unit_rows(corpora["unlabeled"]), scores, missing.get("scores")
        ),
        lesson_written=_written(missing.get("lesson")),
        pseudo_written=_written(missing.get("pseudo")),
    )


def _labeled(root: Root, shards: Shards, unit: int, scores: Artifact | None, missing: _Missing | None) -> int:
    if scores:
        return shards.samples
    if missing is None:
        return 0
    earlier = find_earlier(root, missing.identity, shards, unit, PART)
    records = committed_parts(missing.uri).values()
    return (earlier.samples if earlier else 0) + sum(record["rows"] - record["earlier"] for record in records)


def _written(missing: _Missing | None) -> int:
    return sum(record["samples"] for record in committed_parts(missing.uri).values()) if missing else 0
