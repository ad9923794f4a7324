"""The config of a sweep."""

from dataclasses import dataclass
from typing import Literal, get_args

from raylabel.errors import InputError

Scheduler = Literal["fifo", "asha"]


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Which trials run, and how the best one is chosen."""

    space: tuple[str, ...] = ()
    """Fields of the recipe and their values: 'select.k=[184,368]' 'finetune.schedule.lr=log_uniform(1e-4,1e-2)'
    'student.arch=choice(resnet8x1,resnet8x2)'. If all are lists, every combination is a
    trial."""
    samples: int = 0
    """Number of trials; each draws a value for every field at random. 0: every combination of the values."""
    scheduler: Scheduler = "fifo"
    """'fifo': every trial runs to its end. 'asha' (Li et al. 2020): of the pre-trained students, only the best third by
    validation accuracy is fine-tuned."""
    soup: bool = False
    """Also average the weights of the chosen student with those of other fine-tuning rates, as long as the validation
    accuracy does not fall."""
    validation: float = 0.2
    """Share of every class of the labeled set that is held out to choose the best trial; no trial is trained on it."""

    def __post_init__(self):
        if self.samples < 0:
            raise InputError(f"samples is {self.samples}: give a number of trials, or 0 for every combination")
        if self.scheduler not in get_args(Scheduler):
            raise InputError(f"scheduler is '{self.scheduler}': choose {' or '.join(get_args(Scheduler))}")
        if not 0 < self.validation < 1:
            raise InputError(f"validation is {self.validation}: give a share between 0 and 1")


STAGES = ("pretrain", "finetune")
