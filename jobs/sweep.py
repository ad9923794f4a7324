"""A sweep over fields of a recipe (Ray Tune): K, P, learning rates, whatever it has; what trials share is made once.

- python jobs/sweep.py digits --space 'select.k=[25,50,100]' 'select.p=[1,2]'                     every combination
- python jobs/sweep.py digits --space 'finetune.schedule.lr=log_uniform(1e-3,1e-1)' --samples 10  drawn at random
- python jobs/sweep.py digits --space 'select.k=[25,50,100]' --scheduler asha                     the best go on

The best is chosen by a part of the labeled set that no trial learns from. The test set is asked once, about that one.
"""

from dataclasses import dataclass, field
from typing import Annotated

import tyro
from launch import Options, launched

from raylabel.report.sweep import print_sweep
from raylabel.sweep.config import SweepConfig
from raylabel.sweep.run import sweep


@dataclass(frozen=True, kw_only=True)
class SweepOptions(Options):
    """A recipe, the space of its trials, and where results go."""

    sweep: Annotated[SweepConfig, tyro.conf.arg(name="")] = field(default_factory=SweepConfig)


if __name__ == "__main__":
    with launched(__doc__ or "", SweepOptions) as (root, options):
        told, folder = sweep(root, options.recipe, options.sweep)
        print_sweep(told, folder)
