"""Classifiers on stored FEATURES against scikit-learn, and on SCORES against the logits they come from."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from raylabel.evaluate import on_features
from raylabel.evaluate.calibration import fit_temperature, scaled_confidence
from raylabel.evaluate.cross_validated import CrossValidation, cross_validate_each
from raylabel.evaluate.knn import Knn
from raylabel.evaluate.on_features import OnFeatures, classify_features, log_softmax
from raylabel.evaluate.on_scores import classify_scores
from raylabel.inference.log_odds import top_classes, top_classes_of_clips
from raylabel.labels.picks import write_picks
from raylabel.models.unit import unit_features
from raylabel.schema import CLASSIFIED, SCORES, features_schema
from raylabel.store.artifact import Artifact, Built, Root, write_table
from raylabel.training.head import Head
from raylabel.training.logistic import folds_of

pytestmark = pytest.mark.usefixtures("ray_local")
C, D = 4, 12


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root.open(str(tmp_path))


class Data:
    """Samples of C classes with features of any length, some of which could not be read."""

    def __init__(self, root: Root, name: str, n: int, seed: int, unread: int = 0):
        rng = np.random.default_rng(seed)
        self.key, self.label = rng.permutation(10 * n)[:n], np.arange(n) % C
        x = rng.normal(size=(n, D)) + 1.2 * np.eye(C, D)[self.label]
        x *= rng.uniform(0.5, 2, (n, 1))
        unit, norm = unit_features(torch.from_numpy(x.astype(np.float32)))
        self.unit, self.norm = unit.numpy(), norm.numpy()
        read = np.sort(np.argsort(self.key)[: n - unread])
        order = read[np.argsort(self.key[read])]
        self.read = order
        schema = features_schema(D)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(self.unit[order].ravel()), type=schema.field("feature").type)
        columns = [self.key[order], [b"0" * 16] * len(order), np.zeros(len(order), np.int64), lists, self.norm[order]]
        arrays = [c if isinstance(c, pa.Array) else pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
        table = pa.Table.from_arrays(arrays, schema=schema)
        info = {"p": D, "scored": len(order)}
        self.features = root.make(
            "features", {"of": name}, lambda d: Built([write_table(d.uri, "features-000000.parquet", table)], info)
        )
        names = tuple(map(str, range(C)))
        self.picks = root.make("truth", {"of": name}, lambda d: write_picks(d, self.key, self.label, names))

    @property
    def pair(self) -> tuple[Artifact, Artifact]:
        return self.features, self.picks

    def raw(self, scale: float) -> np.ndarray:
        return self.unit.astype(np.float64) * self.norm[:, None] / scale


def task(train: Data, test: Data, **more) -> OnFeatures:
    given = {"held": None, "seed": 0} | more
    return OnFeatures(features=train.features, labels=train.picks, tested=test.pair, **given)


def confidences(found: Artifact) -> np.ndarray:
    """Of the samples that could be read, in key order."""
    table = found.table("classified-", CLASSIFIED)
    return table.column("confidence").to_numpy()[table.column("best").to_numpy() >= 0]


@pytest.mark.long
@pytest.mark.parametrize("raw", [False, True])
def test_logistic_regression_is_that_of_scikit_learn(root: Root, raw: bool):
    train, test, held = Data(root, "a", 80, 0), Data(root, "b", 61, 1, unread=3), Data(root, "c", 40, 2)
    head = Head(kind="logistic", strengths=(3.0,))
    found = classify_features(root, task(train, test, method=head, raw=raw, held=held.pair))
    scale = float(train.norm.mean())
    x, asked, other = ((one.raw(scale) if raw else one.unit.astype(np.float64)) for one in (train, test, held))
    known = LogisticRegression(C=3.0, tol=1e-6, max_iter=5_000).fit(x, train.label)
    order = test.read
    assert confidences(found) == pytest.approx(known.predict_proba(asked[order]).max(1), abs=1e-4)
    assert found.info["samples"] == 80 and found.info["without"] == 0 and found.info["strength"] == 3
    log_p = known.predict_log_proba(other)
    assert found.info["temperature"] == pytest.approx(fit_temperature(log_p, held.label), rel=0.02)
    table = found.table("classified-", CLASSIFIED)
    assert len(table) == 61 and table.column("best").to_pylist().count(-1) == 3
    assert table.column("calibrated").null_count == 3
    assert table.column("label").to_pylist() == test.label[np.argsort(test.key)].tolist()


@pytest.mark.long
def test_cross_validation_is_that_of_scikit_learn(root: Root):
    data, strengths = Data(root, "a", 120, 0, unread=5), (0.01, 3.0)
    head = Head(kind="logistic", strengths=strengths, folds=4)
    tasks = [CrossValidation(head=head, features=data.features, labels=data.picks, seed=seed) for seed in (0, 7)]
    x, label = data.unit[data.read].astype(np.float64), data.label[data.read]
    for found, seed in zip(cross_validate_each(root, tasks), (0, 7), strict=True):
        split, means = PredefinedSplit(folds_of(label, 4, seed)), {}
        for strength in strengths:
            score = cross_val_score(LogisticRegression(C=strength, tol=1e-6, max_iter=5_000), x, label, cv=split)
            means[strength] = float(np.average(score, weights=np.bincount(folds_of(label, 4, seed))))
        assert found.info["samples"] == 115 and found.info["strength"] == max(means, key=lambda one: means[one])
        assert found.info["accuracy"] == pytest.approx(max(means.values()))


def test_blocks_of_samples_are_classified_as_all_together(root: Root, monkeypatch: pytest.MonkeyPatch):
    train, test = Data(root, "a", 80, 0), Data(root, "b", 61, 1, unread=3)
    whole = task(train, test, method=Head(kind="logistic", strengths=(3.0,)), raw=True)
    found = classify_features(root, whole).table("classified-", CLASSIFIED)
    monkeypatch.setattr(on_features, "BLOCK", 7 * D)
    table, _ = on_features._classify._function(whole)  # pyright: ignore[reportAttributeAccessIssue]
    assert table.drop(["confidence"]) == found.drop(["confidence"])
    assert table.column("confidence").to_numpy() == pytest.approx(found.column("confidence").to_numpy(), abs=1e-6)


def test_raw_and_unit_features_give_different_results(root: Root):
    train, test = Data(root, "a", 80, 0), Data(root, "b", 60, 1)
    head = Head(kind="logistic", strengths=(3.0,))
    unit, raw = (classify_features(root, task(train, test, method=head, raw=raw)) for raw in (False, True))
    assert unit.digest != raw.digest and not np.allclose(confidences(unit), confidences(raw), atol=1e-3)


def test_nearest_neighbours_are_those_of_scikit_learn(root: Root):
    train, test, held = Data(root, "a", 80, 0, unread=5), Data(root, "b", 60, 1), Data(root, "c", 40, 2)
    found = classify_features(root, task(train, test, method=Knn(k=7, temperature=0.5), held=held.pair))

    def weights(distance: np.ndarray) -> np.ndarray:  # 1 - cosine
        return np.exp((1 - distance) / 0.5)

    votes: Any = weights  # the stubs know names alone
    known = KNeighborsClassifier(7, weights=votes, metric="cosine")
    known.fit(train.unit[train.read].astype(np.float64), train.label[train.read])
    wanted = np.asarray(known.predict_proba(test.unit[test.read].astype(np.float64))).max(1)
    assert confidences(found) == pytest.approx(wanted, abs=1e-3)
    assert (found.info["samples"], found.info["without"]) == (75, 5)
    assert found.info["temperature"] is None  # votes have no logits


def test_the_identity_has_what_the_result_depends_on(root: Root):
    train, test, held = Data(root, "a", 80, 0), Data(root, "b", 60, 1), Data(root, "c", 40, 2)
    head = Head(kind="logistic", strengths=(3.0,))
    several = Head(kind="logistic", strengths=(1.0, 3.0))
    tasks = [
        task(train, test, method=head),
        task(train, test, method=head, raw=True),
        task(train, test, method=head, held=held.pair),
        task(train, held, method=head),
        task(held, test, method=head),
        task(train, test, method=several),
        task(train, test, method=several, seed=1),
        task(train, test, method=Knn()),
        task(train, test, method=Knn(k=3)),
    ]
    assert len({str(one.identity) for one in tasks}) == len(tasks)
    # Neither has neighbours that depend on a seed, nor a temperature for what has no logits.
    assert task(train, test, method=Knn(), seed=1, held=held.pair).identity == task(train, test, method=Knn()).identity


def scores_of(root: Root, key: np.ndarray, logits: torch.Tensor) -> Artifact:
    """SCORES with all classes of logits [N, C], or [N, M, C] of clips."""
    found = [x.numpy() for x in (top_classes if logits.ndim == 2 else top_classes_of_clips)(logits, logits.shape[-1])]
    order = np.argsort(key)
    lists = [[row.tolist() for row in one[order]] for one in found[:3]]
    n = len(key)
    columns = [key[order], [b"0" * 16] * n, [0] * n, *lists, [[]] * n]
    table = pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, SCORES, strict=True)], schema=SCORES)
    halves = [("scores-000000.parquet", table[: n // 2]), ("scores-000001.parquet", table[n // 2 :])]
    identity = {"logits": logits.tolist()}
    return root.make("scores", identity, lambda d: Built([write_table(d.uri, *one) for one in halves], {"p": C}))


@pytest.mark.parametrize("clips", [0, 3])
def test_probabilities_from_scores_are_those_of_the_logits(root: Root, clips: int):
    torch.manual_seed(0)
    test, held = Data(root, "a", 60, 0), Data(root, "b", 50, 1)
    shape = (clips, C) if clips else (C,)
    logits, of_held = torch.randn(60, *shape) * 3, torch.randn(50, *shape) * 3
    more = np.concatenate([test.key, [5_000, 6_000]])  # samples that are not among the labels
    tested = scores_of(root, more, torch.cat([logits, torch.randn(2, *shape)]))
    found = classify_scores(root, tested, test.picks, (scores_of(root, held.key, of_held), held.picks))
    p, other = (x.double().softmax(-1).numpy() for x in (logits, of_held))
    p, other = (x.mean(1) if clips else x for x in (p, other))
    order = np.argsort(test.key)
    assert confidences(found) == pytest.approx(p.max(1)[order], abs=1e-5)
    temperature = fit_temperature(np.log(other), held.label)
    assert found.info["temperature"] == pytest.approx(temperature, rel=1e-3)
    calibrated = found.table("classified-", CLASSIFIED).column("calibrated").to_numpy()
    assert calibrated == pytest.approx(scaled_confidence(np.log(p), temperature)[order], abs=1e-4)
    best = found.table("classified-", CLASSIFIED).column("best").to_numpy()
    assert np.array_equal(best, p.argmax(1)[order])


def test_scores_without_all_classes_are_an_error(root: Root):
    test = Data(root, "a", 8, 0)
    found = [x.numpy() for x in top_classes(torch.randn(8, C), 2)]
    columns = [np.sort(test.key), [b"0" * 16] * 8, [0] * 8, *(x.tolist() for x in found), [[]] * 8]
    table = pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, SCORES, strict=True)], schema=SCORES)
    few = root.make("scores", {}, lambda d: Built([write_table(d.uri, "scores-0.parquet", table)], {"p": 2}))
    with pytest.raises(Exception, match="2 classes per sample, expected all 4"):
        classify_scores(root, few, test.picks)


def test_log_softmax_is_that_of_torch():
    x = torch.randn(50, 7) * 30
    assert log_softmax(x.numpy()) == pytest.approx(x.log_softmax(1).numpy(), abs=1e-5)
