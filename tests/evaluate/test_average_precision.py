"""Average precision against cases by hand, against brute force, and against scikit-learn's own rule."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from raylabel.evaluate.average_precision import average_precision, landmark_precision, mean_average_precision


def brute(score: list[float], positive: list[bool], ignored: list[bool]) -> tuple[float, float]:
    """(area, eleven points), one threshold after another."""
    pairs = [(s, p) for s, p, i in zip(score, positive, ignored, strict=True) if not i]
    total = sum(p for _, p in pairs)
    points = []
    for threshold in sorted({s for s, _ in pairs}, reverse=True):
        above = [p for s, p in pairs if s >= threshold]
        points.append((sum(above), sum(above) / len(above)))
    at = [max((p for hits, p in points if 10 * hits >= tenth * total), default=0.0) for tenth in range(11)]
    area, before = 0.0, 0
    for hits, _ in points:
        area += (hits - before) / total * max(p for other, p in points if other >= hits)
        before = hits
    return area, sum(at) / 11


def test_a_ranking_by_hand():
    score, positive = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([True, False, True, False, True])
    # Precision 1 up to a recall of 1/3, 2/3 up to 2/3, 3/5 up to 1.
    assert average_precision(score, positive, "area") == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert average_precision(score, positive, "eleven") == pytest.approx((4 * 1 + 3 * 2 / 3 + 4 * 3 / 5) / 11)
    ignored = np.array([False, True, False, False, False])
    assert average_precision(score, positive, "area", ignored) == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert math.isnan(average_precision(score, np.zeros(5, bool), "area"))


def test_equal_scores_have_equal_ranks():
    positive = np.array([True, False, False, True])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2]):
        assert average_precision(np.zeros(4), positive[order], "area") == 0.5


def test_samples_without_a_score_share_the_last_rank():
    score, positive = np.array([1.0, -np.inf, -np.inf, -np.inf]), np.array([False, True, False, False])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        assert average_precision(score[order], positive[order], "area") == 0.25


cases = st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.7, 0.9]), st.booleans(), st.booleans()), min_size=1)


@given(cases)
def test_it_is_brute_force(rows: list[tuple[float, bool, bool]]):
    score, positive, ignored = (list(column) for column in zip(*rows, strict=True))
    given_ = np.array(score), np.array(positive)
    found = [average_precision(*given_, rule, np.array(ignored)) for rule in ("area", "eleven")]
    if not any(p and not i for p, i in zip(positive, ignored, strict=True)):
        assert all(map(math.isnan, found))
        return
    assert found == pytest.approx(brute(score, positive, ignored))
    # scikit-learn does not interpolate: its value is at most the area.
    kept = ~np.array(ignored)
    assert average_precision_score(given_[1][kept], given_[0][kept]) <= found[0] + 1e-12


def test_tenths_of_the_recall_are_exact():
    """Of 10 positive samples the third is at a recall of 0.3, which is not 3 * 0.1 in floating point."""
    score, positive = np.arange(20, 0, -1.0), np.arange(20) % 2 == 0
    expected = brute(score.tolist(), positive.tolist(), [False] * 20)[1]
    assert average_precision(score, positive, "eleven") == pytest.approx(expected, abs=1e-12)


def test_the_mean_is_over_classes_with_positive_samples():
    score, positive = np.random.default_rng(0).random((30, 3)), np.random.default_rng(1).random((30, 3)) < 0.3
    positive[:, 1] = False
    mean, each = mean_average_precision(score, positive, "area")
    assert np.isnan(each).tolist() == [False, True, False] and mean == pytest.approx((each[0] + each[2]) / 2)
    assert each[2] == average_precision(score[:, 2], positive[:, 2], "area")
    assert math.isnan(mean_average_precision(score, np.zeros((30, 3), bool), "area")[0])


def trapezoids(positive: list[bool], junk: list[bool]) -> float:
    """As the rule is described, rank by rank."""
    total = sum(p and not j for p, j in zip(positive, junk, strict=True))
    recall, precision, area, hits, rank = 0.0, 1.0, 0.0, 0, 0
    for p, j in zip(positive, junk, strict=True):
        if j:
            continue
        hits, rank = hits + p, rank + 1
        area += (hits / total - recall) * (precision + hits / rank) / 2
        recall, precision = hits / total, hits / rank
    return area


def test_landmarks_by_hand():
    none = np.zeros(3, bool)
    assert landmark_precision(np.array([True, False, True]), none) == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)
    assert landmark_precision(np.array([False, True]), np.array([True, False])) == 1
    assert math.isnan(landmark_precision(none, none))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_landmarks_are_brute_force(rows: list[tuple[bool, bool]]):
    positive, junk = (list(column) for column in zip(*rows, strict=True))
    if any(p and not j for p, j in rows):
        assert landmark_precision(np.array(positive), np.array(junk)) == pytest.approx(trapezoids(positive, junk))
