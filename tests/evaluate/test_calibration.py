"""Calibration against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.frozen import FrozenEstimator

from raylabel.evaluate.calibration import BINS, calibration_error, fit_temperature, scaled_confidence


def sample(n: int, classes: int, scale: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(log probabilities [N, C], labels [N]) of a classifier whose logits are `scale` times too large."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, classes))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    label = (p.cumsum(1) > rng.random(n)[:, None]).argmax(1)
    scaled = scale * logits
    return (scaled - np.log(np.exp(scaled).sum(1, keepdims=True))).astype(np.float32), label


def of_sklearn(confidence: np.ndarray, right: np.ndarray) -> float:
    """The same error from scikit-learn's bins, which leave out empty ones and do not count."""
    share, mean = calibration_curve(right, confidence, n_bins=BINS)
    edges = np.linspace(0, 1, BINS + 1)[1:-1]
    counts = np.bincount(np.searchsorted(edges, confidence), minlength=BINS)
    return float((np.abs(share - mean) * counts[counts > 0]).sum() / len(right))


@given(st.integers(0, 1000), st.sampled_from([0.5, 1.0, 3.0]))
def test_the_error_is_that_of_scikit_learns_bins(seed, scale):
    log_p, label = sample(200, 4, scale, seed)
    confidence, right = np.exp(log_p.astype(np.float64)).max(1), log_p.argmax(1) == label
    assert calibration_error(confidence, right) == pytest.approx(of_sklearn(confidence, right), abs=1e-9)


def test_the_error_of_known_cases():
    assert calibration_error(np.array([1.0, 1.0]), np.array([True, True])) == 0
    assert calibration_error(np.array([1.0, 1.0]), np.array([False, False])) == 1
    assert calibration_error(np.array([0.75] * 4), np.array([True, True, True, False])) == 0
    # Two bins whose differences would cancel each other in one.
    assert calibration_error(np.array([0.9, 0.5]), np.array([False, True])) == pytest.approx((0.9 + 0.5) / 2)
    assert calibration_error(np.empty(0), np.empty(0, bool)) == 0
    edge = np.linspace(0, 1, BINS + 1)[3]  # in the bin below it, as in Guo et al. 2017 §2
    beside = np.array([edge, edge + 0.01])
    assert calibration_error(beside, np.array([False, True])) == pytest.approx((edge + 1 - beside[1]) / 2)


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose logits are its input."""

    def fit(self, x, y):
        self.classes_, self.fitted_ = np.unique(y), True
        return self

    def decision_function(self, x):
        return x

    def predict(self, x):
        return self.classes_[x.argmax(1)]


@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0])
def test_the_temperature_is_that_of_scikit_learn(scale):
    log_p, label = sample(500, 3, scale, 7)
    temperature = fit_temperature(log_p, label)
    assert temperature == pytest.approx(scale, rel=0.3)  # of so few samples
    x = log_p.astype(np.float64)
    known = CalibratedClassifierCV(FrozenEstimator(Given().fit(x, label)), method="temperature").fit(x, label)
    assert scaled_confidence(log_p, temperature) == pytest.approx(known.predict_proba(x).max(1), abs=1e-4)


def test_a_class_without_probability_has_none_at_any_temperature():
    log_p = np.array([[0.0, -np.inf], [np.log(0.25), np.log(0.75)]], np.float32)
    assert scaled_confidence(log_p, 3.0)[0] == 1
    assert scaled_confidence(log_p, 1.0)[1] == pytest.approx(0.75)
