"""How likely a pick has its true label: a model of held-out samples, and the precision of a list that it expects.

A pair of a sample and one of its classes is right if the class is the true one. The log-odds that a pair is right are
(a + u_c) + (b + v_c) * score for a class c: a calibration of the score as in Platt 1999 for all classes together, from
which each class differs by as much as its held-out samples say. u and v are normal with means of 0; their variances are
estimated by EM, and the coefficients by Newton's method (empirical Bayes with the approximation of Laplace). Of few
classes that differ little, the likeliest variance is 0, and intervals would be too narrow: so the variances have a
prior, a scaled inverse chi-squared distribution (as Chung et al. 2013 keep them from 0 by one of another form).

Letters: C classes, n pairs, R draws.
"""

from dataclasses import dataclass

import numpy as np

DRAWS = 200
"""Of the coefficients, for intervals."""
LEVEL = 0.95  # of an interval
SCALE = 5.0  # standard deviation of a and b, of scores with a standard deviation of 1, before any pair is seen
ROUNDS, STEPS = 50, 100  # of EM and of Newton's method, at most
VARIANCE, KNOWN = 0.5, 2  # of u and v, before any pair is seen, as if so many classes had shown it
CHUNK = 1 << 12  # picks that are computed together


@dataclass(frozen=True)
class Correctness:
    """The fitted model. Scores are used as (score - `center`) / `scale`."""

    center: float
    scale: float
    shared: np.ndarray
    """float64 [2]: a and b"""
    shared_covariance: np.ndarray
    """float64 [2, 2]"""
    own: np.ndarray
    """float64 [C, 2]: u and v"""
    own_covariance: np.ndarray
    """float64 [C, 2, 2], for given a and b"""
    link: np.ndarray
    """float64 [C, 2, 2]: how much a and b change u and v"""

    def probabilities(self, score: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """float64 [n, R]: that pairs with these scores [n] are right, for coefficients [R, 2] of their class."""
        x = (score.astype(np.float64) - self.center) / self.scale
        return 1 / (1 + np.exp(-np.clip(draws[:, 0] + x[:, None] * draws[:, 1], -700, 700)))

    def draws(self, label: int) -> np.ndarray:
        """float64 [R, 2]: intercepts and slopes of a class, from their distribution; the same at each call."""
        shared = _normal(np.random.default_rng(0), self.shared_covariance)  # the same for all classes
        own = _normal(np.random.default_rng([1, label]), self.own_covariance[label]) - shared @ self.link[label].T
        return self.shared + self.own[label] + shared + own


@dataclass(frozen=True)
class Expected:
    """The precision of the first picks of a list, for each of some ranks."""

    precision: np.ndarray
    """float64 [ranks]"""
    low: np.ndarray
    """float64 [ranks]"""
    high: np.ndarray
    """float64 [ranks]"""
    right: np.ndarray
    """float64 [R]: picks of the whole list that are right, in each draw"""


def fit_correctness(label: np.ndarray, score: np.ndarray, right: np.ndarray, classes: int) -> Correctness:
    """The model of n pairs: label int [n] in 0..C-1, score float [n], right bool [n]. They are to be of samples that
    the teacher has not learned from."""
    center, scale = float(score.mean()), float(score.std()) or 1.0
    x, y = (score.astype(np.float64) - center) / scale, right.astype(np.float64)
    shared, own, variance = np.array([0.0, 1.0]), np.zeros((classes, 2)), np.full(2, VARIANCE)
    for _ in range(ROUNDS):
        shared, own, (inverse, link, covariance) = _maximum(label, x, y, classes, variance, shared, own)
        spread = own**2 + np.einsum("cii->ci", inverse + link @ covariance @ link.transpose(0, 2, 1))
        before, variance = variance, (spread.sum(0) + KNOWN * VARIANCE) / (classes + KNOWN)
        if np.abs(variance - before).max() < 1e-3 * before.max():
            break
    return Correctness(center, scale, shared, covariance, own, inverse, link)  # pyright: ignore


def expect(model: Correctness, label: int, score: np.ndarray, ranks: np.ndarray) -> Expected:
    """What the first `ranks` picks of a class are expected to have as precision, with intervals for the share of them
    that is really right. score: of its list [n], best first; ranks: int [ranks], 1..n, ascending."""
    draws = model.draws(label)
    sums, spreads = np.zeros(len(draws)), np.zeros(len(draws))
    mean, variance = np.empty((2, len(ranks), len(draws)))
    for begin in range(0, len(score), CHUNK):
        p = model.probabilities(score[begin : begin + CHUNK], draws)
        total, spread = sums + np.cumsum(p, 0), spreads + np.cumsum(p * (1 - p), 0)
        here = (ranks > begin) & (ranks <= begin + len(p))
        mean[here], variance[here] = total[ranks[here] - begin - 1], spread[ranks[here] - begin - 1]
        sums, spreads = total[-1], spread[-1]
    count, rng = ranks[:, None], np.random.default_rng([2, label])
    found = mean + rng.normal(size=mean.shape) * np.sqrt(variance)
    low, high = np.quantile(np.clip(found, 0, count), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    # A share of so many picks is a multiple of 1 / rank.
    right = sums + rng.normal(size=len(draws)) * np.sqrt(spreads)
    return Expected(mean.mean(1) / ranks, np.floor(low) / ranks, np.ceil(high) / ranks, right)


def longest(model: Correctness, label: int, score: np.ndarray, precision: float) -> int:
    """The length of the longest list, up to n, whose expected precision is at least this. score: of its list [n]."""
    draws, right, found = model.draws(label), 0.0, 0
    for begin in range(0, len(score), CHUNK):
        p = model.probabilities(score[begin : begin + CHUNK], draws).mean(1)
        total = right + np.cumsum(p)
        enough = np.flatnonzero(total >= precision * np.arange(begin + 1, begin + len(p) + 1))
        found, right = (begin + int(enough[-1]) + 1 if len(enough) else found), float(total[-1])
    return found


def _normal(rng: np.random.Generator, covariance: np.ndarray) -> np.ndarray:
    """float64 [R, 2]: normal with a mean of 0."""
    return rng.normal(size=(DRAWS, 2)) @ np.linalg.cholesky(covariance + 1e-12 * np.eye(2)).T


def _maximum(
    label: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    classes: int,
    variance: np.ndarray,
    shared: np.ndarray,
    own: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The most likely coefficients for given variances of u and v, by Newton's method from `shared` and `own` on; and
    (own_covariance, link, shared_covariance) there. The matrix of a class is of 2 x 2, so C may be large."""

    def sums(values: np.ndarray) -> np.ndarray:
        return np.bincount(label, values, classes)

    prior = np.eye(2) / SCALE**2
    for _ in range(STEPS):
        eta = shared[0] + own[label, 0] + (shared[1] + own[label, 1]) * x
        p = 1 / (1 + np.exp(-np.clip(eta, -700, 700)))
        weight, rest = np.maximum(p * (1 - p), 1e-12), y - p
        gradient = np.stack([sums(rest), sums(rest * x)], 1)
        curvature = np.empty((classes, 2, 2))
        curvature[:, 0, 0], curvature[:, 1, 1] = sums(weight), sums(weight * x * x)
        curvature[:, 0, 1] = curvature[:, 1, 0] = sums(weight * x)
        inverse = np.linalg.inv(curvature + np.diag(1 / variance))
        link = inverse @ curvature
        covariance = np.linalg.inv(prior + (curvature - curvature @ link).sum(0))
        of_own = gradient - own / variance
        of_shared = (
            gradient.sum(0) - prior @ (shared - [0, 1]) - np.einsum("cij,cj->i", link.transpose(0, 2, 1), of_own)
        )
        change = covariance @ of_shared
        changes = np.einsum("cij,cj->ci", inverse, of_own - curvature @ change)
        largest = max(np.abs(change).max(), np.abs(changes).max())
        step = 2 / max(2, largest)  # a full step may be too long while the weights are far from those at its end
        shared, own = shared + change * step, own + changes * step
        if largest < 1e-8:
            break
    return shared, own, (inverse, link, covariance)  # pyright: ignore
