"""The check of a given teacher: with simulated teachers, compared with scipy's assignment, and in a run."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from raylabel.evaluate.given_teacher import Check, _match, measure


def teacher(true: np.ndarray, classes: int, accuracy: float, order: np.ndarray | None = None, seed: int = 0):
    """The best classes by a teacher with this accuracy, whose class `order[c]` is the true class c. Half of its wrong
    classes are similar ones, of the same ten, and the others are a few classes that it prefers."""
    rng, n = np.random.default_rng(seed), len(true)
    similar = np.minimum(true // 10 * 10 + rng.integers(0, 10, n), classes - 1)
    preferred = np.minimum(rng.zipf(1.5, n) - 1, classes - 1)
    wrong = np.where(rng.random(n) < 0.5, similar, preferred)
    best = np.where(rng.random(n) < accuracy, true, wrong)
    return best if order is None else order[best]


def as_text(classes: int) -> np.ndarray:
    """Where each number is if numbers are sorted as text: 0, 1, 10, 11, 2, ..."""
    return np.argsort(np.array(sorted(range(classes), key=str)))


@pytest.mark.parametrize(
    "classes, n, accuracy",
    [(10, 500, 0.9), (10, 200, 0.6), (12, 500, 0.8), (100, 1000, 0.4), (1000, 5000, 0.6), (1000, 2000, 0.7)],
)
@pytest.mark.parametrize("kind", ["text", "reversed", "shifted", "random"])
def test_another_order_of_the_classes_is_found(classes, n, accuracy, kind):
    true = np.arange(n) % classes
    rng = np.random.default_rng(1)
    orders = {
        "text": as_text(classes),
        "reversed": np.arange(classes)[::-1],
        "shifted": (np.arange(classes) + 1) % classes,
        "random": rng.permutation(classes),
    }
    if classes == 10 and kind == "text":
        assert not measure(true, teacher(true, classes, accuracy, orders["text"]), classes).problem("0123456789")
        return
    names = [f"name {c}" for c in range(classes)]
    found = measure(true, teacher(true, classes, accuracy, orders[kind]), classes)
    assert found.other_order and found.reordered / n > accuracy / 2
    text = found.problem(names)
    assert "the likely reason is the order of its classes" in text and "--teacher.unchecked" in text
    for one, other, count, of in found.pairs:
        assert orders[kind][one] == other and f"'name {one}' is taken for 'name {other}' in {count:,} of {of:,}" in text
    assert len(found.pairs) == 3


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "classes, n, accuracy",
    [(1000, 2000, 0.02), (1000, 2000, 0.2), (1000, 50_000, 0.01), (10, 500, 0.3), (3, 60, 0.5), (2, 200, 0.55)],
)
def test_a_poor_teacher_in_the_right_order_is_not_stopped(classes, n, accuracy, seed):
    true = np.random.default_rng(seed).integers(0, classes, n)
    assert measure(true, teacher(true, classes, accuracy, seed=seed), classes).problem([""] * classes) == ""


def test_few_samples_of_many_classes_are_no_evidence_of_another_order():
    # In 500 samples of 1,000 classes, each wrong pair occurs once: some order makes almost all of them right.
    true = np.random.default_rng(0).permutation(1000)[:500]
    best = np.random.default_rng(1).permutation(1000)[:500]
    joint = np.zeros((1000, 1000), int)
    np.add.at(joint, (true, best), 1)
    assert joint[linear_sum_assignment(joint, maximize=True)].sum() > 300
    assert not measure(true, best, 1000).other_order
    # Nothing is right in this order, and two samples in another: chance.
    assert not Check(n=300, right=0, reordered=2, classes=1000, pairs=()).other_order


@pytest.mark.parametrize("classes, n", [(2, 200), (10, 500), (1000, 20_000)])
def test_a_teacher_that_guesses_or_cannot_read_anything_is_stopped(classes, n):
    rng = np.random.default_rng(0)
    true = rng.integers(0, classes, n)
    names = [str(c) for c in range(classes)]
    guess = measure(true, rng.integers(0, classes, n), classes)
    assert not guess.other_order
    if classes > 2:
        text = guess.problem(names)
        assert "guessing one of" in text and "order of its classes, or its view" in text
    unread = measure(true, np.full(n, -1), classes)
    assert (unread.right, unread.reordered, unread.pairs) == (0, 0, ()) and unread.poor
    assert measure(true, true, classes) == Check(n=n, right=n, reordered=n, classes=classes, pairs=())


@settings(max_examples=200)
@given(st.integers(2, 8), st.integers(1, 60), st.integers(0, 10**6))
def test_the_greedy_order_is_one_to_one_and_at_least_half_as_good_as_the_best(classes, n, seed):
    rng = np.random.default_rng(seed)
    true, best = rng.integers(0, classes, n), rng.integers(-1, classes, n)
    joint = np.zeros((classes, classes), int)
    np.add.at(joint, (true[best >= 0], best[best >= 0]), 1)
    found = _match(true, best, classes)
    used = found[found >= 0]
    assert len(np.unique(used)) == len(used) and found[-1] == -1
    right = int((found[best] == true).sum())
    assert right <= joint[linear_sum_assignment(joint, maximize=True)].sum() <= 2 * right
    checked = measure(true, best, classes)
    counted = [(t, b, int(joint[t, b]), int((true == t).sum())) for t, b, *_ in checked.pairs]
    assert list(checked.pairs) == counted and all(t != b for t, b, *_ in counted)
