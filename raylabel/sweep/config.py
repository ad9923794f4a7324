"""The config of a sweep."""

from dataclasses import dataclass
from typing import Literal, get_args

from raylabel.errors import InputError
from raylabel.recipes.space import Search

Scheduler = Literal["fifo", "asha"]


@dataclass(frozen=True, kw_only=True)
class SweepConfig(Search):
    """Which trials run, and how the best one is chosen."""

    scheduler: Scheduler = "fifo"
    """'fifo': every trial runs to its end. 'asha' (Li et al. 2020): of the pre-trained students, only the best third by
    validation accuracy is fine-tuned."""
    soup: bool = False
    """Also average the weights of the chosen student with those of other fine-tuning rates, as long as the validation
    accuracy does not fall."""

    def __post_init__(self):
        self.check()
        if self.scheduler not in get_args(Scheduler):
            raise InputError(f"scheduler is '{self.scheduler}': choose {' or '.join(get_args(Scheduler))}")


STAGES = ("pretrain", "finetune")
SHARED = (
    "name",
    "labeled",
    "unlabeled",
    "test",
    "truth",
    "control",
    "mixed",
)  # fields of a recipe, the same for all trials
