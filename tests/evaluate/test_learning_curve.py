"""Learning curves against scipy's and numpy's integration, and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import trapezoid

from raylabel.evaluate.learning_curve import LearningCurve, Measured
from raylabel.evaluate.results import Subject
from raylabel.training.config import Validate

OF = Subject(model="control", seed=3, dataset="a", split="validation")


def curve(points: dict[int, float], **fields) -> LearningCurve:
    measured = [Measured(images, accuracy) for images, accuracy in points.items()]
    return LearningCurve(points=measured, samples=40, config=Validate(on="validation", **fields))


@given(st.dictionaries(st.integers(1, 10**9), st.floats(0, 1), min_size=2, max_size=30))
def test_the_area_is_that_of_scipy(points: dict[int, float]):
    points = dict(sorted(points.items()))
    x, y = np.array(list(points)), np.array(list(points.values()))
    assert curve(points).area == pytest.approx(trapezoid(y, x) / (x[-1] - x[0]), abs=1e-9)


def test_a_single_point_is_its_own_area():
    assert curve({64: 0.25}).area == 0.25


def test_metrics_have_the_kept_network_and_the_targets_that_were_reached():
    points = {100: 0.5, 200: 0.75, 300: 0.75, 400: 0.7}
    last = {row.metric: row for row in curve(points, targets=(0.5, 0.75, 0.9)).metrics(OF)}
    assert {name: row.value for name, row in last.items()} == {
        "top1": 0.7,
        "curve_area": pytest.approx((0.625 + 0.75 + 0.725) / 3),
        "images_to_50": 100,
        "images_to_75": 200,
    }
    low, high = last["top1"].low, last["top1"].high
    assert low is not None and high is not None and low < 0.7 < high
    assert {row.n for row in last.values()} == {40}
    best = curve(points, keep_best=True)
    assert best.kept == Measured(200, 0.75) and next(best.metrics(OF)).value == 0.75
    assert curve(points, targets=(0.9,)).reached == {0.9: None}


def test_the_early_accuracy_is_that_of_the_first_point_after_a_tenth():
    points = {100 * i: i / 100 for i in range(1, 21)}  # 20 points, as by default
    assert curve(points).early == Measured(200, 0.02)
    assert curve({1: 0.1, 99: 0.2, 101: 0.3, 1_000: 0.4}).early == Measured(101, 0.3)
    assert curve({64: 0.25}).early == Measured(64, 0.25)
