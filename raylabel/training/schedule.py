"""The learning rate as a function of the images processed: linear warm-up, then equal spans with a drop between them,
half a cosine, or a drop whenever the accuracy stops rising.

Yalniz et al. 2019 (arXiv 1905.00546) measure a run in images, not steps, and divide every run into the same number of
spans, so a run of any length ends at the same learning rate: 13 halvings in pre-training, three divisions by ten in
fine-tuning.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import cos, inf, pi, sqrt
from typing import Literal

from raylabel.errors import InputError
from raylabel.store.artifact import ADDED_LATER


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the learning rate changes over a run. The defaults are those of the paper's pre-training, except for the
    length of the warm-up.

    The paper pre-trains with `Schedule(lr=0.6, warmup_lr=0.1)` at a batch of 1,536, and fine-tunes for 30 epochs with
    `Schedule(lr=0.0015, warmup=0, drops=3, factor=0.1)`.
    """

    lr: float
    """Peak learning rate, reached at the end of the warm-up. `scaled_lr` computes it from the batch size."""

    warmup: float = 0.05
    """Fraction of the run's images over which the rate rises linearly from `warmup_lr` to `lr`: 0 for no warm-up, at
    most 1 / (drops + 1), the first span, or below 1 with a cosine. The paper does not give its length; the default is
    our choice.
    """

    warmup_lr: float | None = None
    """Learning rate of the first step of the warm-up; a tenth of `lr` if not given."""

    decay: Literal["steps", "cosine", "inverse_sqrt", "plateau"] = field(default="steps", metadata=ADDED_LATER)
    """steps: `drops` of the rate, as in the paper. cosine: half a cosine from `lr` after the warm-up to `final_lr` at
    the end of the run (Loshchilov & Hutter 2016, arXiv 1608.03983, equation 5, without restarts). inverse_sqrt:
    lr / sqrt(1 + c t) after t images, with c so that it ends at `final_lr` (the linear probes of DeepCluster's official
    code, Caron et al. 2018: lr / sqrt(1 + lr wd t) after t steps). plateau: a drop when
    the accuracy of `Train.validate` has not risen for more than `patience` points."""

    final_lr: float = field(default=0.0, metadata=ADDED_LATER)
    """Learning rate at which a cosine or inverse_sqrt ends, and below which no plateau takes it."""

    patience: int = field(default=10, metadata=ADDED_LATER)
    """Of a plateau: points of `Train.validate` without a higher accuracy before the one that drops the rate, as in
    torch's ReduceLROnPlateau."""

    drops: int = 13
    """Of steps: number of drops of the rate: the run is divided into drops + 1 equal spans. 0 for a constant rate."""

    factor: float = 0.5
    """Of steps and a plateau: factor by which the rate is multiplied at each drop, between 0 and 1."""

    def check(self, name: str) -> None:
        """InputError if a field is invalid. `name` is its name in the recipe, such as 'pretrain.schedule'."""
        if not 0 < self.lr < inf:
            raise InputError(f"{name}.lr is {self.lr}: give a number above 0")
        if not isinstance(self.drops, int) or self.drops < 0:
            raise InputError(f"{name}.drops is {self.drops}: give 0 or a positive whole number")
        if not 0 < self.factor < 1:
            raise InputError(
                f"{name}.factor is {self.factor}: give a number between 0 and 1; for a constant rate, drops=0"
            )
        if self.patience < 0:
            raise InputError(f"{name}.patience is {self.patience}: give 0 or a positive number of points")
        if self.decay in ("cosine", "inverse_sqrt", "plateau"):
            if not 0 <= self.warmup < 1:
                raise InputError(f"{name}.warmup is {self.warmup}: give a number from 0 to 1, 1 excluded")
            if not 0 <= self.final_lr <= self.lr:
                raise InputError(f"{name}.final_lr is {self.final_lr}: give 0 to lr, which is {self.lr}")
            if self.decay == "inverse_sqrt" and not self.final_lr:
                raise InputError(f"{name}.final_lr is 0, which inverse_sqrt never reaches: give a rate above 0")
        elif not 0 <= self.warmup <= 1 / (self.drops + 1):
            raise InputError(
                f"{name}.warmup is {self.warmup}: give 0 to {1 / (self.drops + 1):.4g}, so that it ends before the "
                f"first of the {self.drops} drops"
            )
        if self.warmup_lr is not None and not 0 <= self.warmup_lr <= self.lr:
            raise InputError(f"{name}.warmup_lr is {self.warmup_lr}: give 0 to lr, which is {self.lr}")


def lr_at(schedule: Schedule, image: int, images: int, accuracies: Sequence[float] = ()) -> float:
    """The learning rate of the step that begins after `image` of the run's `images` images; 0 <= image < images.
    `accuracies`: those of all points before it, on which only a plateau depends."""
    if not 0 <= image < images:
        raise ValueError(f"image is {image}, expected 0 to {images - 1}")
    warmup = schedule.warmup * images
    if image < warmup:
        start = schedule.lr / 10 if schedule.warmup_lr is None else schedule.warmup_lr
        return start + (schedule.lr - start) * (image / warmup)
    if schedule.decay == "cosine":
        done = (image - warmup) / (images - warmup)
        return schedule.final_lr + (schedule.lr - schedule.final_lr) * (1 + cos(pi * done)) / 2
    if schedule.decay == "inverse_sqrt":
        done = (image - warmup) / (images - warmup)
        return schedule.lr / sqrt(1 + ((schedule.lr / schedule.final_lr) ** 2 - 1) * done)
    if schedule.decay == "plateau":
        return max(schedule.final_lr, schedule.lr * schedule.factor ** _drops(accuracies, schedule.patience))
    span = image * (schedule.drops + 1) // images  # integers, so that rounding moves no drop by a step
    return schedule.lr * schedule.factor**span


def _drops(accuracies: Sequence[float], patience: int) -> int:
    """How often more than `patience` points in a row were no higher than the best one before; each drop begins to count
    anew."""
    best, waited, drops = -inf, 0, 0
    for accuracy in accuracies:
        waited = 0 if accuracy > best else waited + 1
        best = max(best, accuracy)
        if waited > patience:
            waited, drops = 0, drops + 1
    return drops


def scaled_lr(batch: int, base: float = 0.1, per: int = 256) -> float:
    """`base` learning rate per `per` images of the batch: the linear scaling rule of Goyal et al. 2017 (1706.02677)."""
    return base * batch / per
