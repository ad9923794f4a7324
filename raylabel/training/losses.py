"""What a training minimises, and what its curve shows as accuracy.

Letters: B batch, C classes, L labels of the sample that has most.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from raylabel.training.config import RESTORING, Train
from raylabel.training.restoration import measure_restored

ABSENT = np.iinfo(np.int32).min
"""In place of the labels that a sample has fewer than another."""

Loss = Callable[[Any, Any, Any], tuple[Any, Any]]
"""From (output of the network, targets, labels) to (loss, right), sums over the samples. Accuracy is right / samples.
"""


def make_loss(config: Train) -> Loss:
    """Cross-entropy, unless the config says otherwise; right: samples whose best class is their label."""
    if config.pretext in RESTORING:
        return lambda output, target, _: measure_restored(output, target)
    if config.loss == "bce":
        return binary_cross_entropy
    from torch.nn import functional

    def cross_entropy(logits: Any, target: Any, label: Any) -> tuple[Any, Any]:
        losses = functional.cross_entropy(logits, target, reduction="sum", label_smoothing=config.label_smoothing)
        return losses, (logits.argmax(1) == label).sum()

    return cross_entropy


def binary_cross_entropy(logits: Any, target: Any, label: Any) -> tuple[Any, Any]:
    """Of logits [B, C] and targets float32 [B, C]: 1, 0, or NaN for a class that is left out. The loss of a sample is
    the sum over its classes, as in DeepCluster's training on VOC07. Right: samples whose best class is one of their
    labels int64 [B, L]."""
    from torch.nn import functional

    counted = ~target.isnan()
    losses = functional.binary_cross_entropy_with_logits(logits.float(), target.nan_to_num(), reduction="none")
    return losses[counted].sum(), (logits.argmax(1, keepdim=True) == label).any(1).sum()


def several_targets(labels: Any, classes: int) -> Any:
    """float32 [B, C] of labels int64 [B, L]: 1 for label c, NaN for -1 - c, which says that class c is neither present
    nor absent, and 0 for all other classes. ABSENT is none."""
    import torch

    given = labels != ABSENT
    of = torch.where(labels < 0, -1 - labels, labels).where(given, classes)  # one column more, for what is none
    value = torch.where(labels < 0, torch.nan, 1.0)
    return value.new_zeros(len(labels), classes + 1).scatter(1, of, value)[:, :classes]


def stack_labels(some: list[Any]) -> np.ndarray:
    """int64 [B] of B labels; or int64 [B, L] of arrays of them, filled up with ABSENT."""
    if not some or not isinstance(some[0], np.ndarray):
        return np.array(some, np.int64)
    found = np.full((len(some), max(len(one) for one in some)), ABSENT, np.int64)
    for row, one in zip(found, some, strict=True):
        row[: len(one)] = one
    return found
