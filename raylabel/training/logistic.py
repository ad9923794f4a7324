"""A head on frozen features: logistic regression with an L2 penalty, whose strength is chosen by cross-validation.

Letters: N samples, D numbers of a feature, C classes.
"""

import warnings
from dataclasses import dataclass

import numpy as np

from raylabel.compute.watchdog import heartbeat
from raylabel.errors import InputError
from raylabel.training.head import Head

SMALL = 1_000_000_000  # N x D x C up to which scikit-learn fits the head, in minutes; beyond, torch's L-BFGS does
STEPS = 5_000  # of L-BFGS at most


@dataclass(frozen=True)
class Fitted:
    """A fitted head."""

    weight: np.ndarray
    """float32 [C, D]"""
    bias: np.ndarray
    """float32 [C]"""
    strength: float
    accuracies: dict[float, float]
    """Strength → accuracy in cross-validation; empty if there was one strength."""


def fit_logistic(
    features: np.ndarray, labels: np.ndarray, classes: int, config: Head, seed: int, device: str = "cpu"
) -> Fitted:
    """The head of the classes on features float16 [N, D] with labels int64 [N], each in 0 to C - 1. InputError if a
    class has too few samples for cross-validation, or none."""
    counts = np.bincount(labels, minlength=classes)
    if (least := int(counts.min())) < (2 if len(config.strengths) > 1 else 1):
        number = int(counts.argmin())
        raise InputError(
            f"class {number} (counted from 0) has {least} labeled samples, but a head needs at least 1, and 2 to "
            "choose among several strengths: give more labels, or one strength"
        )
    strengths, accuracies = sorted(set(config.strengths)), dict[float, float]()
    if len(strengths) > 1:
        accuracies = cross_validated(features, labels, classes, config, seed, device)
    best = max(strengths, key=lambda one: (accuracies.get(one, 0), -one))
    return Fitted(*_fit(features, labels, classes, best, device), best, accuracies)


def cross_validated(
    features: np.ndarray, labels: np.ndarray, classes: int, config: Head, seed: int, device: str = "cpu"
) -> dict[float, float]:
    """Strength → accuracy of heads on the samples of a fold that were fitted to those of the others. The arguments are
    those of `fit_logistic`. InputError if a class has less than two samples."""
    counts, accuracies = np.bincount(labels, minlength=classes), dict[float, float]()
    if (least := int(counts.min())) < 2:
        raise InputError(
            f"class {counts.argmin()} (counted from 0) has {least} labeled samples, but cross-validation needs at "
            "least 2: give more labels"
        )
    fold = folds_of(labels, min(config.folds, least), seed)
    for strength in sorted(set(config.strengths)):
        right = 0
        for number in range(fold.max() + 1):
            held = fold == number
            weight, bias = _fit(features[~held], labels[~held], classes, strength, device)
            logits = features[held].astype(np.float32) @ weight.T + bias
            right += int((logits.argmax(1) == labels[held]).sum())
        accuracies[strength] = right / len(labels)
    return accuracies


def folds_of(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each sample, int64 [N]: random, and of each class as evenly as possible."""
    from sklearn.model_selection import StratifiedKFold

    fold = np.empty(len(labels), np.int64)
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels[:, None], labels)
    for number, (_, held) in enumerate(splits):
        fold[held] = number
    return fold


def _fit(
    features: np.ndarray, labels: np.ndarray, classes: int, strength: float, device: str
) -> tuple[np.ndarray, np.ndarray]:
    if features.size * classes <= SMALL:
        weight, bias = fit_by_sklearn(features, labels, strength)
    else:
        weight, bias = fit_by_torch(features, labels, classes, strength, device)
    if classes == 2:  # one logit: that of the second class over the first
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight.astype(np.float32), bias.astype(np.float32)


def fit_by_sklearn(features: np.ndarray, labels: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Weight [C, D] and bias [C] by scikit-learn; of two classes those of one logit, [1, D] and [1]."""
    heartbeat()
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            model = LogisticRegression(C=strength, tol=1e-6, max_iter=STEPS).fit(features.astype(np.float64), labels)
        except ConvergenceWarning as error:
            raise _not_converged(strength) from error
    return model.coef_, model.intercept_


def _not_converged(strength: float) -> InputError:
    return InputError(
        f"the head did not converge in {STEPS} steps with a strength of {strength:g}: give smaller strengths"
    )


def fit_by_torch(
    features: np.ndarray, labels: np.ndarray, classes: int, strength: float, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """The same by torch's L-BFGS in float32, with the features in float16 on the device: for large sets."""
    import torch
    import torch.nn.functional as F

    logits = 1 if classes == 2 else classes
    heartbeat()
    x, y = torch.from_numpy(features).to(device), torch.from_numpy(labels).to(device)
    weight = torch.zeros(logits, x.shape[1], device=device, requires_grad=True)
    bias = torch.zeros(logits, device=device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=STEPS,
        max_eval=2 * STEPS,
        tolerance_grad=1e-7,
        tolerance_change=1e-11,
        line_search_fn="strong_wolfe",
    )
    rows = max(1, (1 << 26) // (x.shape[1] + logits))  # that are in float32 at a time

    def closure() -> torch.Tensor:
        heartbeat()
        optimizer.zero_grad()
        total = weight.square().sum() / (2 * strength * len(x))
        total.backward()
        for some, label in zip(x.split(rows), y.split(rows), strict=True):
            z = F.linear(some.float(), weight, bias)
            if logits == 1:
                loss = F.binary_cross_entropy_with_logits(z[:, 0], label.float(), reduction="sum") / len(x)
            else:
                loss = F.cross_entropy(z, label, reduction="sum") / len(x)
            loss.backward()
            total = total + loss.detach()
        return total.detach()

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    done = optimizer.state[weight]
    if done["n_iter"] >= STEPS or done["func_evals"] >= 2 * STEPS:
        raise _not_converged(strength)
    return weight.detach().cpu().numpy(), bias.detach().cpu().numpy()
