"""Accuracy and its intervals against scipy, counting by hand, and simulation."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from raylabel.evaluate.classify import Hits, accuracy, hits, paired_gain, wilson
from raylabel.evaluate.results import Metric, Subject, find, metrics, require
from raylabel.schema import METRICS, PICKS, SCORES
from raylabel.store.artifact import Artifact, Built, Root, write_table

OF = Subject(model="m", seed=3, dataset="a, b", split="test")


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_scipy(counts):
    low, high = binomtest(*counts).proportion_ci(method="wilson")
    assert wilson(*counts) == pytest.approx((low, high), abs=1e-12)


def ends(row: Metric | None) -> tuple[float, float]:
    assert row is not None and row.low is not None and row.high is not None
    return row.low, row.high


def test_gain_counts_samples_that_only_one_model_gets_right():
    a = np.array([1, 1, 1, 0, 0, 1, 1, 0], bool)
    b = np.array([1, 0, 0, 0, 1, 1, 0, 0], bool)
    gain = paired_gain(OF, a, b)
    assert (gain.metric, gain.value, gain.n) == ("gain_top1", 2 / 8, 8)
    low, high = ends(gain)
    assert low < 0 < gain.value < high  # 3 wins, 1 loss: too few to tell
    back = paired_gain(OF, b, a)
    assert (back.value, *ends(back)) == pytest.approx((-gain.value, -high, -low))
    same = paired_gain(OF, a, a)
    assert same.value == 0 and ends(same)[0] < 0 < ends(same)[1]


def test_the_interval_of_the_gain_has_95_percent_coverage():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(2000):  # 70% and 73% right, mostly on the same samples
        both = rng.random(300)
        a, b = both < 0.73, both + rng.normal(0, 0.1, 300) < 0.70
        # TRUE_GAIN is P(a) - P(b): the normal distribution function, integrated over `both`.
        low, high = ends(paired_gain(OF, a, b))
        inside += low <= TRUE_GAIN <= high
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


def test_each_test_sample_counts_once_and_an_unreadable_one_counts_as_wrong(tmp_path):
    root = Root.open(str(tmp_path))
    truth = truth_of(root, {9: 1, 2: 3, 5: 0, 7: 2})  # 7 was not scored
    scores = scores_of(root, [5, 2, 9], [[0, 1, 2], [1, 2, 3], [0, 2, 3]])
    found = hits(scores, truth)
    assert found.clips is None
    assert found.top1.tolist() == [False, True, False, False]  # keys 2, 5, 7, 9
    assert found.top5.tolist() == [True, True, False, False]
    rows = accuracy(OF, found, classes=10)
    assert [(row.metric, row.value, row.n) for row in rows] == [("top1", 0.25, 4), ("top5", 0.5, 4)]
    assert {(row.model, row.seed, row.dataset, row.split) for row in rows} == {("m", 3, "a, b", "test")}
    assert [row.metric for row in accuracy(OF, found, classes=5)] == ["top1"]


def test_each_test_video_counts_once_in_the_accuracy_of_clips(tmp_path):
    root = Root.open(str(tmp_path))
    truth = truth_of(root, {9: 1, 2: 3, 5: 0, 7: 2})  # 7 was not scored
    scores = scores_of(root, [5, 2, 9], [[0, 1], [1, 3], [0, 1]], [[0, 0, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    found = hits(scores, truth)
    assert found.top1.tolist() == [False, True, False, False]  # keys 2, 5, 7, 9
    assert found.clips is not None and found.clips.tolist() == [0.0, 0.75, 0.0, 1.0]
    clips = require(accuracy(OF, found, classes=10), metric="clip_top1")
    assert (clips.value, clips.n) == (1.75 / 4, 4)
    assert ends(clips) == wilson(1.75, 4)


@pytest.mark.parametrize("alike", [0.05, 0.5, 20.0])  # clips of a video are from nearly equal to nearly independent
def test_the_interval_of_the_accuracy_of_clips_has_at_least_95_percent_coverage(alike):
    rng, inside = np.random.default_rng(1), 0
    for _ in range(2000):
        chance = rng.beta(0.7 * alike, 0.3 * alike, 60)  # that a clip is right, for each of 60 videos
        shares = rng.binomial(10, chance) / 10
        low, high = ends(find(accuracy(OF, Hits(shares > 0.5, shares > 0, shares), classes=10), metric="clip_top1"))
        inside += low <= 0.7 <= high
    assert inside / 2000 >= 0.94  # the standard deviation of 2,000 trials at 95% is 0.5%


@pytest.mark.parametrize("keys", [[5, 5, 2], [5, 2, 8]])
def test_scores_of_other_samples_are_an_error(tmp_path, keys):
    root = Root.open(str(tmp_path))
    truth = truth_of(root, {9: 1, 2: 3, 5: 0, 7: 2})
    with pytest.raises(AssertionError, match="does not hold the samples"):
        hits(scores_of(root, keys, [[0, 1]] * 3), truth)


def test_metrics_are_the_rows_with_their_intervals(tmp_path):
    hit = np.array([True] * 7 + [False] * 3)
    rows = accuracy(OF, Hits(hit, hit, None), 10)
    rows += [paired_gain(OF, hit, ~hit), Metric(**vars(OF), metric="loss", value=1.5, n=9)]
    root = Root.open(str(tmp_path))
    table = metrics(root, "run", rows).table("metrics", METRICS)
    where = {"run": "run", "model": "m", "seed": 3, "dataset": "a, b", "split": "test"}
    low, high = binomtest(7, 10).proportion_ci(method="wilson")
    wilsons = {"value": 0.7, "low": pytest.approx(low), "high": pytest.approx(high), "n": 10}
    top1, top5, gain, loss = table.to_pylist()
    assert top1 == where | {"metric": "top1"} | wilsons and top5 == where | {"metric": "top5"} | wilsons
    assert gain["metric"] == "gain_top1" and gain["value"] == 0.4
    assert (gain["low"], gain["high"]) == ends(paired_gain(OF, hit, ~hit))
    assert loss == where | {"metric": "loss", "value": 1.5, "low": None, "high": None, "n": 9}
    # The same rows give the same artifact, other rows another one.
    assert metrics(root, "run", list(rows)).digest == metrics(root, "run", rows).digest
    assert metrics(root, "run", rows[1:]).digest != metrics(root, "run", rows).digest != metrics(root, "", rows).digest


def test_a_row_is_found_by_its_fields():
    rows = [Metric(**{**vars(OF), "model": model}, metric="loss", value=1.0, n=9) for model in ("a", "b")]
    assert find(rows, model="b", metric="loss") is rows[1] is require(rows, model="b")
    assert find(rows, model="c") is None
    with pytest.raises(ValueError, match="no metric has {'model': 'c'}"):
        require(rows, model="c")
    with pytest.raises(ValueError, match="2 metrics have {'metric': 'loss'}"):
        find(rows, metric="loss")


@pytest.mark.parametrize(
    ("low", "high", "match"),
    [
        (0.75, 0.876, "loss of m: 0.9 is not within its interval 0.75 to 0.876"),
        (0.95, 0.99, "loss of m: 0.9 is not within"),
        (0.75, None, "loss of m: an interval has two ends, got 0.75 and None"),
        (None, 0.99, "loss of m: an interval has two ends, got None and 0.99"),
    ],
)
def test_a_value_outside_its_interval_is_an_error(low, high, match):
    with pytest.raises(ValueError, match=match):
        Metric(**vars(OF), metric="loss", value=0.9, low=low, high=high, n=9)
    assert Metric(**vars(OF), metric="loss", value=0.9, low=0.9 + 1e-12, high=0.9, n=9)  # outside by one rounding
