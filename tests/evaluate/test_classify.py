"""Accuracy and its intervals against scipy, counting by hand, and simulation."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from raylabel.evaluate.classify import accuracy, hits, metrics, paired_gain, wilson
from raylabel.schema import METRICS, PICKS, SCORES
from raylabel.store.artifact import Artifact, Built, Root, write_table


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(counts):
    low, high = binomtest(*counts).proportion_ci(method="wilson")
    assert wilson(*counts) == pytest.approx((low, high), abs=1e-12)


def test_gain_counts_what_one_gets_right_and_the_other_does_not():
    a = np.array([1, 1, 1, 0, 0, 1, 1, 0], bool)
    b = np.array([1, 0, 0, 0, 1, 1, 0, 0], bool)
    gain = paired_gain(a, b)
    assert (gain.value, gain.n) == (2 / 8, 8)
    assert gain.low < 0 < gain.value < gain.high  # 3 wins, 1 loss: says little
    back = paired_gain(b, a)
    assert (back.value, back.low, back.high) == pytest.approx((-gain.value, -gain.high, -gain.low))
    same = paired_gain(a, a)
    assert same.value == 0 and same.low < 0 < same.high


def test_the_gains_interval_holds_the_truth_as_often_as_it_says():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(2000):  # 70% and 73% right, mostly on the same samples
        both = rng.random(300)
        a, b = both < 0.73, both + rng.normal(0, 0.1, 300) < 0.70
        # P(a) - P(b), by integration over `both` of the normal's distribution function
        inside += (gain := paired_gain(a, b)).low <= TRUE_GAIN <= gain.high
    assert 0.94 <= inside / 2000 <= 0.97


def _true_gain() -> float:
    from scipy.stats import norm

    grid = (np.arange(200_000) + 0.5) / 200_000
    return 0.73 - norm.cdf((0.70 - grid) / 0.1).mean()


TRUE_GAIN = _true_gain()


def scores_of(root: Root, keys: list[int], classes: list[list[int]], clips: list[list[int]] | None = None) -> Artifact:
    n, p = len(keys), len(classes[0])
    columns = [keys, [b"0" * 16] * n, [0] * n, classes, [[0.0] * p] * n, [[0.0] * p] * n, clips or [[]] * n]
    table = pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, SCORES, strict=True)], schema=SCORES)
    return root.make("scores", {}, lambda d: Built([write_table(d.uri, "scores-0.parquet", table)], {"p": p}))


def truth_of(root: Root, labels: dict[int, int]) -> Artifact:
    rows = [{"label": c, "rank": 1, "score": 0.0, "key": key} for key, c in labels.items()]
    table = pa.Table.from_pylist(rows, schema=PICKS)
    return root.make("truth", {}, lambda d: Built([write_table(d.uri, "picks-0.parquet", table)], {}))


def test_each_test_sample_counts_once_and_an_unread_one_is_a_miss(tmp_path):
    root = Root.open(str(tmp_path))
    truth = truth_of(root, {9: 1, 2: 3, 5: 0, 7: 2})  # 7 was not scored
    scores = scores_of(root, [5, 2, 9], [[0, 1, 2], [1, 2, 3], [0, 2, 3]])
    top1, top5, clips = hits(scores, truth)
    assert clips is None
    assert top1.tolist() == [False, True, False, False]  # keys 2, 5, 7, 9
    assert top5.tolist() == [True, True, False, False]
    one = accuracy("m", top1, top5, clips, classes=10)
    assert (one.top1, one.top5, one.n, one.clip_top1) == (0.25, 0.5, 4, None)
    assert accuracy("m", top1, top5, clips, classes=5).top5 is None


def test_each_test_video_counts_once_among_clips_too(tmp_path):
    root = Root.open(str(tmp_path))
    truth = truth_of(root, {9: 1, 2: 3, 5: 0, 7: 2})  # 7 was not scored
    scores = scores_of(root, [5, 2, 9], [[0, 1], [1, 3], [0, 1]], [[0, 0, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    found = hits(scores, truth)
    assert found.top1.tolist() == [False, True, False, False]  # keys 2, 5, 7, 9
    assert found.clips is not None and found.clips.tolist() == [0.0, 0.75, 0.0, 1.0]
    one = accuracy("m", *found, classes=10)
    assert (one.clip_top1, one.n) == (1.75 / 4, 4)
    assert (one.clip_top1_low, one.clip_top1_high) == wilson(1.75, 4)
    table = metrics(root, "run", ("a",), [one], paired_gain(found.top1, found.top1)).table("metrics", METRICS)
    rows = {r["metric"]: (r["value"], r["n"]) for r in table.to_pylist()}
    assert rows["clip_top1"] == (1.75 / 4, 4) and len(rows) == 12
    assert rows["clip_top1_low"][0] < rows["clip_top1"][0] < rows["clip_top1_high"][0]


@pytest.mark.parametrize("alike", [0.05, 0.5, 20.0])  # clips of a video from all but equal to all but independent
def test_the_interval_of_clips_holds_the_truth_at_least_as_often_as_it_says(alike):
    rng, inside = np.random.default_rng(1), 0
    for _ in range(2000):
        chance = rng.beta(0.7 * alike, 0.3 * alike, 60)  # of each of 60 videos that a clip of it is right
        shares = rng.binomial(10, chance) / 10
        one = accuracy("m", shares > 0.5, shares > 0, shares, classes=10)
        assert one.clip_top1_low is not None and one.clip_top1_high is not None
        inside += one.clip_top1_low <= 0.7 <= one.clip_top1_high
    assert inside / 2000 >= 0.94  # of 2,000 trials at 95%, 0.5% is the standard deviation


@pytest.mark.parametrize("keys", [[5, 5, 2], [5, 2, 8]])
def test_scores_of_other_samples_are_refused(tmp_path, keys):
    root = Root.open(str(tmp_path))
    truth = truth_of(root, {9: 1, 2: 3, 5: 0, 7: 2})
    with pytest.raises(AssertionError, match="does not hold the samples"):
        hits(scores_of(root, keys, [[0, 1]] * 3), truth)


def test_metrics_have_a_row_per_number(tmp_path):
    hit = np.array([True] * 7 + [False] * 3)
    one, gain = accuracy("teacher", hit, hit, None, 10), paired_gain(hit, ~hit)
    table = metrics(Root.open(str(tmp_path)), "run", ("a", "b"), [one], gain).table("metrics", METRICS)
    rows = {(r["run"], r["metric"]): r["value"] for r in table.to_pylist()}
    assert rows["run/teacher", "top1"] == 0.7 and rows["run", "gain_value"] == pytest.approx(0.4)
    assert len(rows) == 9 and set(table["n"].to_pylist()) == {10}
