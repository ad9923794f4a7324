"""Nearest neighbours against scikit-learn."""

from typing import Any

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from raylabel.errors import InputError
from raylabel.evaluate.knn import Knn, knn_classifier


def unit(rng: np.random.Generator, n: int, width: int) -> np.ndarray:
    rows = rng.normal(size=(n, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize("k", [1, 5, 20, 1000])  # the last one: all labeled samples
def test_the_votes_are_those_of_scikit_learn(k):
    rng = np.random.default_rng(k)
    feature, label, asked = unit(rng, 200, 16), rng.integers(0, 4, 200), unit(rng, 50, 16)
    label[label == 3] = 2  # a class of which there is none

    def weights(distance: np.ndarray) -> np.ndarray:  # 1 - cosine
        return np.exp((1 - distance) / 0.07)

    votes: Any = weights  # the stubs know names alone
    known = KNeighborsClassifier(min(k, 200), weights=votes, metric="cosine").fit(feature.astype(np.float64), label)
    p = np.exp(knn_classifier(feature, label, 4, Knn(k=k))(asked))
    assert p[:, :3] == pytest.approx(known.predict_proba(asked.astype(np.float64)), abs=1e-3)
    assert (p[:, 3] == 0).all() and p.sum(1) == pytest.approx(np.ones(50))


def test_a_query_that_is_a_labeled_sample_has_its_label():
    rng = np.random.default_rng(0)
    feature = unit(rng, 30, 8)
    found = knn_classifier(feature, np.arange(30), 30, Knn(k=5, temperature=0.01))(feature)
    assert np.array_equal(found.argmax(1), np.arange(30))


@pytest.mark.parametrize(("config", "field"), [(Knn(k=0), "k is 0"), (Knn(temperature=0), "temperature is 0")])
def test_bad_fields_are_named(config, field):
    with pytest.raises(InputError, match=rf"knn\.{field}"):
        config.check("knn")
