"""The model of right picks against scipy, simulations and brute force."""

import numpy as np
import pytest
from scipy.optimize import minimize

from raylabel.selection import correctness
from raylabel.selection.correctness import expect, fit_correctness, longest


def pairs(seed: int, classes: int, each: int, spread: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(label, score, right, coefficients [C, 2]): the log-odds of `right` are a line in the score for each class."""
    rng = np.random.default_rng(seed)
    lines = np.stack([rng.normal(-0.5, spread, classes), rng.normal(1, spread / 3, classes)], 1)
    label = np.repeat(np.arange(classes), each)
    score = rng.normal(0, 3, len(label))
    right = rng.random(len(label)) < 1 / (1 + np.exp(-(lines[label, 0] + lines[label, 1] * score)))
    return label, score.astype(np.float32), right, lines


def test_coefficients_are_the_most_likely_ones():
    label, score, right, _ = pairs(0, 4, 60, 0.7)
    model = fit_correctness(label, score, right, 4)
    x, y = (score.astype(float) - model.center) / model.scale, right.astype(float)
    spread = model.own**2 + np.einsum(
        "cii->ci", model.own_covariance + model.link @ model.shared_covariance @ model.link.transpose(0, 2, 1)
    )
    # At the end of EM this is also what it began with.
    variance = (spread.sum(0) + correctness.KNOWN * correctness.VARIANCE) / (4 + correctness.KNOWN)

    def loss(values: np.ndarray) -> float:
        shared, own = values[:2], values[2:].reshape(4, 2)
        eta = shared[0] + own[label, 0] + (shared[1] + own[label, 1]) * x
        prior = ((shared - [0, 1]) ** 2).sum() / (2 * correctness.SCALE**2) + (own**2 / (2 * variance)).sum()
        return float(np.logaddexp(0, eta).sum() - (y * eta).sum() + prior)

    best = minimize(loss, np.zeros(10), method="BFGS", options={"gtol": 1e-6}).x
    np.testing.assert_allclose(best[:2], model.shared, atol=5e-3)
    np.testing.assert_allclose(best[2:].reshape(4, 2), model.own, atol=5e-3)

    # The covariance of all coefficients is the inverse of the matrix of second derivatives, here of differences.
    values, step = np.concatenate([model.shared, model.own.ravel()]), 1e-3
    hessian, unit = np.empty((10, 10)), np.eye(10) * step
    for i in range(10):
        for j in range(10):
            signs = ((1, 1), (1, -1), (-1, 1), (-1, -1))
            hessian[i, j] = sum(a * b * loss(values + a * unit[i] + b * unit[j]) for a, b in signs) / (4 * step**2)
    whole = np.linalg.inv(hessian)
    np.testing.assert_allclose(whole[:2, :2], model.shared_covariance, rtol=0.01, atol=1e-4)
    for c in range(4):
        own = model.own_covariance[c] + model.link[c] @ model.shared_covariance @ model.link[c].T
        rows = slice(2 + 2 * c, 4 + 2 * c)
        np.testing.assert_allclose(whole[rows, rows], own, rtol=0.01, atol=2e-3)
        np.testing.assert_allclose(whole[rows, :2], -model.link[c] @ model.shared_covariance, rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("each, spread", [(50, 0.6), (50, 0.0), (12, 0.6)])
def test_intervals_cover_the_share_that_is_right(each: int, spread: float):
    covered, widths = [], []
    for seed in range(25):
        label, score, right, lines = pairs(seed, 12, each, spread)
        model = fit_correctness(label, score, right, 12)
        rng = np.random.default_rng(1000 + seed)
        for c in range(12):
            own = -np.sort(-rng.normal(0, 3, 400).astype(np.float32))
            is_right = rng.random(400) < 1 / (1 + np.exp(-(lines[c, 0] + lines[c, 1] * own)))
            ranks = np.array([1, 10, 50, 200, 400])
            found = expect(model, c, own, ranks)
            true = np.cumsum(is_right)[ranks - 1] / ranks
            covered.append((found.low <= true + 1e-9) & (true <= found.high + 1e-9))
            widths.append(found.high - found.low)
    least = 0.9 if each == 50 else 0.85  # of few samples, the variances are not well known
    assert np.mean(covered) >= 0.92 and np.mean(covered, axis=0)[-1] >= least, np.mean(covered, axis=0)
    assert np.mean(widths, axis=0)[3] < (0.25 if each == 50 else 0.4)


def test_chunks_do_not_change_what_is_expected(monkeypatch):
    label, score, right, _ = pairs(3, 3, 40, 0.5)
    model = fit_correctness(label, score, right, 3)
    own = -np.sort(-np.random.default_rng(1).normal(0, 3, 100).astype(np.float32))
    ranks = np.array([1, 7, 8, 64, 99, 100])
    whole, lengths = expect(model, 1, own, ranks), [longest(model, 1, own, p) for p in (0.3, 0.7, 0.9, 1.0)]
    draws = model.draws(1)
    x = (own.astype(float) - model.center) / model.scale
    p = 1 / (1 + np.exp(-(draws[:, 0] + x[:, None] * draws[:, 1])))
    np.testing.assert_allclose(whole.precision, [p[:r].mean() for r in ranks], rtol=1e-9)
    expected = [max([r for r in range(1, 101) if p[:r].mean() >= least], default=0) for least in (0.3, 0.7, 0.9, 1.0)]
    assert lengths == expected and lengths[0] > lengths[1] > lengths[2] >= lengths[3]
    monkeypatch.setattr(correctness, "CHUNK", 9)
    again = expect(model, 1, own, ranks)
    for a, b in zip(vars(whole).values(), vars(again).values(), strict=True):
        np.testing.assert_allclose(a, b)
    assert [longest(model, 1, own, p) for p in (0.3, 0.7, 0.9, 1.0)] == lengths


@pytest.mark.parametrize("right", [True, False])
def test_a_teacher_that_is_always_right_or_never(right: bool):
    label = np.repeat(np.arange(2), 30)
    model = fit_correctness(label, np.linspace(0, 9, 60, dtype=np.float32), np.full(60, right), 2)
    found = expect(model, 0, np.array([9, 5, 1], np.float32), np.array([3]))
    assert abs(found.precision[0] - right) < 0.1 and found.low[0] >= 0 and found.high[0] <= 1
    one_score = fit_correctness(label, np.zeros(60, np.float32), np.arange(60) % 2 == 0, 2)
    assert abs(expect(one_score, 0, np.zeros(50, np.float32), np.array([50])).precision[0] - 0.5) < 0.15
