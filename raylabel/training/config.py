"""How a network is trained."""

from dataclasses import dataclass, field
from typing import Literal

from raylabel.errors import InputError
from raylabel.store.artifact import NOT_IDENTITY
from raylabel.training.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Train:
    """How a network is trained. The length is the number of images processed, forward and backward (Yalniz et al. 2019
    §3). With videos, each clip counts as an image.
    """

    images: int
    """Images processed in total, rounded up to whole batches."""
    schedule: Schedule
    """Learning rate over the run."""
    batch: int = 256
    """Images in a global batch, summed over all workers."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay, on every parameter (1e-4 in the paper)."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the forward pass (autocast). auto: bf16 if the hardware supports it; fp32 for clips on a CPU."""
    checkpoint_minutes: float = field(default=5.0, metadata=NOT_IDENTITY)
    """Minutes between checkpoints, which are written while training goes on. A crash costs at most so many minutes of
    training, and the time that it takes to write a checkpoint."""

    def check(self, name: str) -> None:
        """InputError if a field is invalid. `name` is that of this config in the recipe, for example 'pretrain'."""
        for key in ("images", "batch"):
            if (value := getattr(self, key)) < 1:
                raise InputError(f"{name}.{key} is {value}: give at least 1")
        if not self.checkpoint_minutes > 0:
            raise InputError(f"{name}.checkpoint_minutes is {self.checkpoint_minutes}: give a positive number")
        if self.batch < 2:
            raise InputError(f"{name}.batch is {self.batch}: give at least 2, because BatchNorm needs 2 images")
        if not 0 <= self.momentum < 1:
            raise InputError(f"{name}.momentum is {self.momentum}: give a number from 0 to 1, 1 excluded")
        if self.weight_decay < 0:
            raise InputError(f"{name}.weight_decay is {self.weight_decay}: give 0 or a positive number")
        self.schedule.check(f"{name}.schedule")

    @property
    def steps(self) -> int:
        return -(-self.images // self.batch)

    @property
    def processed(self) -> int:
        """Images processed: `images` rounded up to whole batches."""
        return self.steps * self.batch
