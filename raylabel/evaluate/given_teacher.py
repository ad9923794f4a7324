"""Checks a given or zero-shot teacher before it labels a corpus: SCORES of the test set + its labels → whether the
order of the teacher's classes is that of the labels.

Nothing in a checkpoint names its classes, and the names of a zero-shot head may be in any order. Another order makes a
good teacher a bad one, and all that follows is useless.

Letters: N test samples, C classes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from raylabel.compute.progress import say
from raylabel.evaluate.classify import best_classes, wilson
from raylabel.store.artifact import Artifact, Built, Draft, Root
from raylabel.text import percent, percent_range, printable
from raylabel.training.head import Head

MORE = 3  # times the accuracy that another order of the classes has to give to be taken for the right one
PAIRS = 3  # pairs of classes that are shown

GIVEN = Head()
"""The head of a teacher that is given as it is."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """The accuracy of a teacher, and its accuracy if its classes were in another order."""

    n: int
    """Test samples."""
    right: int
    """Those whose best class is the true one."""
    reordered: int
    """Those whose best class would be the true one in the best order, found on other samples: see `measure`."""
    classes: int
    pairs: Sequence[Sequence[int]]
    """(true class, class that the best order takes for it, samples of the former whose best class is the latter,
    samples of the former): the pairs of different classes with the most samples."""

    @property
    def other_order(self) -> bool:
        """Whether another order of the classes gives more than `MORE` times the accuracy, beyond chance."""
        # One is added for each class, so that 0 of a few samples is not taken for an accuracy of zero.
        return wilson(self.reordered, self.n)[0] > MORE * (self.right + 1) / (self.n + self.classes)

    @property
    def poor(self) -> bool:
        """Whether the 95% interval ends below twice the accuracy of guessing; of 2 or 3 classes, below one half."""
        return wilson(self.right, self.n)[1] < min(2 / self.classes, 0.5)

    @property
    def sentence(self) -> str:
        """The accuracy in words."""
        low, high = wilson(self.right, self.n)
        return (
            f"top-1 {percent(self.right / self.n)} of {self.n:,} test samples (95% interval {percent_range(low, high)})"
        )

    def problem(self, names: Sequence[str], head: Head = GIVEN) -> str:
        """Why this teacher must not label a corpus, and the fix; empty if it may. `head`: that of the recipe."""
        if not (self.other_order or self.poor):
            return ""
        found = f"the {_kind(head)} teacher has {self.sentence}"
        if self.other_order:
            found += f", and {percent(self.reordered / self.n)} if its classes were in another order"
        else:
            found += f"; guessing one of {self.classes:,} classes gives {percent(1 / self.classes)}"
        for number, (true, taken, count, of) in enumerate(self.pairs):
            found += f"{', ' if number else ' ('}'{names[true]}' is taken for '{names[taken]}' in {count:,} of {of:,}"
        found += ")" if self.pairs else ""
        if head.zero_shot:
            order = "their order, or " if self.other_order else ""
            return (
                f"{printable(found)}: the likely reason is in the names that it is computed from: {order}that they do "
                "not say what the pictures show; give a file with one name per line, in the order of the classes, as "
                "--teacher.head.names, or continue with --teacher.unchecked"
            )
        view = "" if self.other_order else ", or its view (size, mean, std), which may not be that of its training"
        return (
            f"{printable(found)}: the likely reason is the order of its classes{view}; give a file with one class name "
            "per line, in the teacher's order, as --labeled.classes, or continue with --teacher.unchecked"
        )


def measure(true: np.ndarray, best: np.ndarray, classes: int) -> Check:
    """The Check of samples with these true and best classes, int64 [N]; -1 if the sample could not be read.

    The best order is found on one half of each class's samples and measured on the other half, both ways. Otherwise, of
    many classes with few samples each, some order would always seem better.
    """
    order = np.argsort(true, kind="stable")
    half = np.empty(len(true), np.int64)
    half[order] = np.arange(len(true)) % 2
    reordered = 0
    for one in (0, 1):
        found, of_half = _match(true[half == one], best[half == one], classes), half != one
        reordered += int((found[best[of_half]] == true[of_half]).sum())
    counts, taken = np.bincount(true, minlength=classes), _match(true, best, classes)[:classes]
    others = np.flatnonzero((taken >= 0) & (taken != np.arange(classes)))
    both = np.sort(true[best >= 0] * classes + best[best >= 0])
    pair = taken[others] * classes + others
    samples = np.searchsorted(both, pair, side="right") - np.searchsorted(both, pair)
    first = np.lexsort((pair, -samples))[:PAIRS]
    columns = (taken[others], others, samples, counts[taken[others]])
    return Check(
        n=len(true),
        right=int((true == best).sum()),
        reordered=reordered,
        classes=classes,
        pairs=tuple(zip(*(column[first].tolist() for column in columns), strict=True)),
    )


def _match(true: np.ndarray, best: np.ndarray, classes: int) -> np.ndarray:
    """For each of the teacher's classes the true class that most of its samples are of, int64 [C + 1]; -1 if there is
    none left, and for the last, which is that of samples that could not be read.

    Greedy: the pair with the most samples first, each class once. It finds at least half of the samples that the best
    matching finds, and needs no table of C x C.
    """
    read = best >= 0
    pairs, counts = np.unique(true[read] * classes + best[read], return_counts=True)
    rows, columns = np.divmod(pairs, classes)
    found, used = np.full(classes + 1, -1), np.zeros(classes, bool)
    for i in np.lexsort((pairs, -counts)):
        if found[columns[i]] < 0 and not used[rows[i]]:
            found[columns[i]] = rows[i]
            used[rows[i]] = True
    return found


def check_teacher(root: Root, scores: Artifact, truth: Artifact, head: Head) -> Artifact:
    """The artifact `teacher-check`, whose info is a Check: of a teacher's SCORES of the test set and the PICKS that are
    the set's labels. The accuracy is printed when it is measured."""

    def build(draft: Draft) -> Built:
        check = measure(*best_classes(scores, truth), len(truth.info["classes"]))
        say(f"{_kind(head)} teacher: {check.sentence}")
        return Built([], asdict(check))

    return root.make("teacher-check", {"scores": scores.digest, "truth": truth.digest}, build)


def problem_of(checked: Artifact, names: Sequence[str], head: Head) -> str:
    """`Check.problem` of an artifact of `check_teacher`."""
    return Check(**{field.name: checked.info[field.name] for field in fields(Check)}).problem(names, head)


def _kind(head: Head) -> str:
    return "zero-shot" if head.zero_shot else "given"
