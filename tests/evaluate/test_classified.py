"""CLASSIFIED and its metrics against counting by hand."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score

from raylabel.evaluate.calibration import calibration_error
from raylabel.evaluate.classified import FILE, best_of, classified, classified_metrics, right_of, unread
from raylabel.evaluate.on_features import log_softmax, with_unread
from raylabel.evaluate.results import CALIBRATED, ECE, SUBSET_TOP1, TOP1, TOP5, Subject, find, require
from raylabel.labels.picks import write_picks
from raylabel.store.artifact import Artifact, Built, Root, write_table

OF = Subject(model="m", seed=0, dataset="d", split="test")


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root.open(str(tmp_path))


def artifact(root: Root, table) -> Artifact:
    return root.make("classified", {}, lambda draft: Built([write_table(draft.uri, FILE, table)], {}))


def picks(root: Root, key, label, classes: int) -> Artifact:
    names = tuple(map(str, range(classes)))
    return root.make("truth", {}, lambda draft: write_picks(draft, np.array(key), np.array(label), names))


def test_ranks_and_shares_are_those_of_scikit_learn(root: Root):
    rng = np.random.default_rng(0)
    log_p, label = log_softmax(rng.normal(0, 3, (300, 8)).astype(np.float32)), rng.integers(0, 8, 300)
    table = classified(rng.permutation(300), label, log_p, np.arange(8), 2.0)
    found = artifact(root, table)
    rows = classified_metrics(OF, found, 8)
    for metric, k in ((TOP1, 1), (TOP5, 5)):
        row = require(rows, metric=metric)
        assert row.value == pytest.approx(top_k_accuracy_score(label, log_p, k=k)) and row.n == 300
    p = np.exp(log_p.astype(np.float64))
    assert require(rows, metric=ECE).value == pytest.approx(calibration_error(p.max(1), log_p.argmax(1) == label))
    flat = np.sqrt(p) / np.sqrt(p).sum(1, keepdims=True)  # temperature 2
    wanted = calibration_error(flat.max(1), log_p.argmax(1) == label)
    assert require(rows, metric=CALIBRATED).value == pytest.approx(wanted, abs=1e-6)
    order = np.argsort(table.column("key").to_numpy())
    assert np.array_equal(right_of(found), (log_p.argmax(1) == label)[order])


def test_equal_probabilities_rank_by_class_and_no_probability_ranks_last():
    log_p = np.array([[np.log(0.5), np.log(0.5), -np.inf]] * 3, np.float32)
    table = classified(np.arange(3), np.array([0, 1, 2]), log_p, np.arange(3), None)
    assert table.column("rank").to_pylist() == [0, 1, 3]
    assert table.column("calibrated").null_count == 3


def test_a_sample_that_could_not_be_read_counts_as_wrong_but_has_no_confidence(root: Root):
    labels = picks(root, [4, 2, 9, 7], [0, 1, 0, 1], 2)
    log_p = np.log(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])).astype(np.float32)
    table = with_unread([classified(np.array([9, 7, 2]), np.array([0, 1, 1]), log_p, np.arange(2), None)], labels)
    assert table.column("key").to_pylist() == [2, 4, 7, 9]
    assert table.column("best").to_pylist() == [0, -1, 1, 0]
    found = artifact(root, table)
    rows = classified_metrics(OF, found, 2)
    assert (require(rows, metric=TOP1).value, require(rows, metric=TOP1).n) == (0.5, 4)
    assert find(rows, metric=TOP5) is None and find(rows, metric=CALIBRATED) is None
    ece = require(rows, metric=ECE)
    assert ece.n == 3 and ece.value == pytest.approx((0.1 + 0.2 + 0.6) / 3)


def test_a_sample_of_another_set_is_an_error(root: Root):
    labels = picks(root, [1, 2], [0, 1], 2)
    with pytest.raises(AssertionError, match="3 samples were classified"):
        with_unread(
            [classified(np.arange(3), np.zeros(3, int), np.zeros((3, 2), np.float32), np.arange(2), None)], labels
        )


def test_nothing_read(root: Root):
    table = unread(np.array([1, 2]), np.array([0, 1]))
    rows = classified_metrics(OF, artifact(root, table), 2)
    assert (require(rows, metric=TOP1).value, require(rows, metric=ECE).n) == (0, 0)


def test_a_set_with_some_of_the_classes_is_also_tested_among_them(root: Root):
    rng = np.random.default_rng(1)
    log_p, some = log_softmax(rng.normal(0, 3, (200, 9)).astype(np.float32)), np.array([1, 4, 8])
    label = some[rng.integers(0, 3, 200)]
    found = artifact(root, classified(np.arange(200), label, log_p, some, None))
    rows = classified_metrics(OF, found, 9)
    among = require(rows, metric=SUBSET_TOP1)
    assert among.value == (some[log_p[:, some].argmax(1)] == label).mean() and among.n == 200
    assert require(rows, metric=TOP1).value == (log_p.argmax(1) == label).mean() < among.value
    assert best_of(found) == dict(enumerate(log_p.argmax(1).tolist()))
    whole = artifact(
        Root.open(f"{root.uri}/whole"), classified(np.arange(200), label, log_p[:, :9], np.arange(9), None)
    )
    assert find(classified_metrics(OF, whole, 3), metric=SUBSET_TOP1) is None  # all classes occur
