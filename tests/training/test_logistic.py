"""Heads on features, against scikit-learn's own cross-validation."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_score

from raylabel.errors import InputError
from raylabel.training import logistic
from raylabel.training.head import Head
from raylabel.training.logistic import fit_by_sklearn, fit_by_torch, fit_logistic, folds_of


def data(classes: int, samples: int = 240, width: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """float16 features of unit length, and labels of which some are wrong."""
    random = np.random.default_rng(classes)
    labels = np.arange(samples) % classes
    x = random.normal(size=(classes, width))[labels] + 1.5 * random.normal(size=(samples, width))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x.astype(np.float16), labels


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_the_strength_is_that_of_cross_validation(classes: int):
    features, labels = data(classes)
    config = Head(kind="logistic", strengths=(100.0, 0.01, 1.0, 10.0), folds=4)
    found = fit_logistic(features, labels, classes, config, seed=5)
    splits, x = PredefinedSplit(folds_of(labels, 4, 5)), features.astype(np.float64)
    for strength, accuracy in found.accuracies.items():
        scores = cross_val_score(LogisticRegression(C=strength, tol=1e-6, max_iter=5000), x, labels, cv=splits)
        assert accuracy == pytest.approx(scores.mean())
    best = max(found.accuracies.values())
    assert found.strength == min(s for s, a in found.accuracies.items() if a == best)
    assert list(found.accuracies) == [0.01, 1.0, 10.0, 100.0]
    model = LogisticRegression(C=found.strength, tol=1e-6, max_iter=5000).fit(x, labels)
    logits = x @ found.weight.T + found.bias
    assert found.weight.shape == (classes, 24) and found.weight.dtype == found.bias.dtype == np.float32
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.abs(probabilities - model.predict_proba(x)).max() < 1e-4


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("strength", [0.1, 100.0])
def test_torch_and_scikit_learn_agree(classes: int, strength: float, monkeypatch):
    features, labels = data(classes)
    x = features.astype(np.float64)
    (a, b), (c, d) = (
        fit_by_sklearn(features, labels, strength),
        fit_by_torch(features, labels, classes, strength, "cpu"),
    )
    assert np.abs((x @ a.T + b) - (x @ c.T + d)).max() < 0.002 * max(1, np.abs(x @ a.T).max())
    monkeypatch.setattr(logistic, "SMALL", 0)
    monkeypatch.setattr(logistic, "fit_by_sklearn", None)
    found = fit_logistic(features, labels, classes, Head(kind="logistic", strengths=(strength,)), seed=0)
    assert not found.accuracies and found.weight.shape == (classes, 24)


def test_folds_have_all_classes():
    labels = np.repeat(np.arange(3), [20, 9, 4])
    fold = folds_of(labels, 4, 0)
    for number in range(4):
        assert np.bincount(labels[fold == number], minlength=3).tolist() in [[5, 2, 1], [5, 3, 1]]
    assert (fold == folds_of(labels, 4, 0)).all() and (fold != folds_of(labels, 4, 1)).any()


def test_too_few_samples_of_a_class_are_an_error():
    features, labels = data(3)
    labels[labels == 1] = 0
    with pytest.raises(InputError, match=r"class 1 \(counted from 0\) has 0 labeled samples"):
        fit_logistic(features, labels, 3, Head(kind="logistic", strengths=(1.0,)), 0)
    labels[0] = 1
    with pytest.raises(InputError, match="has 1 labeled samples, .* or one strength"):
        fit_logistic(features, labels, 3, Head(kind="logistic"), 0)
    fit_logistic(features, labels, 3, Head(kind="logistic", strengths=(1.0,)), 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("strengths", ()), ("strengths", (0.0,)), ("strengths", (1.0, float("inf"))), ("folds", 1), ("kind", "svm")],
)
def test_invalid_fields_are_errors(field: str, value: object):
    with pytest.raises(InputError, match=f"^teacher.head.{field} is "):
        replace(Head(), **{field: value}).check("teacher.head")  # pyright: ignore[reportArgumentType]


def test_a_head_that_does_not_converge_is_an_error(monkeypatch):
    features, labels = data(3)
    monkeypatch.setattr(logistic, "STEPS", 2)
    for fit in (fit_by_sklearn, lambda x, y, strength: fit_by_torch(x, y, 3, strength, "cpu")):
        with pytest.raises(InputError, match="^the head did not converge in 2 steps with a strength of 100: give"):
            fit(features, labels, 100.0)
