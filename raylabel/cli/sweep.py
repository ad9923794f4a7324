"""A sweep over any fields of a recipe (Ray Tune): K, P, learning rates; what trials share is built once.

- raylabel sweep digits --space 'select.k=[25,50,100]' 'select.p=[1,2]'                     every combination
- raylabel sweep digits --space 'finetune.schedule.lr=log_uniform(1e-3,1e-1)' --samples 10  drawn at random
- raylabel sweep digits --space 'select.k=[25,50,100]' --scheduler asha                     only the best continue
- raylabel sweep digits --space 'finetune.schedule.lr=[0.005,0.01]' --soup                  and their average

The best trial is chosen on a part of the labeled set that no trial is trained on. The test set is used once, for it.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

import tyro

from raylabel.cli.launch import RUN_BY, Options, R, launched
from raylabel.cli.main import command
from raylabel.recipes import Recipe
from raylabel.store.artifact import identity_of
from raylabel.sweep.config import SweepConfig


@dataclass(frozen=True, kw_only=True)
class SweepOptions(Options[R]):
    """A recipe, the space of its trials, and where results go."""

    sweep: Annotated[SweepConfig, tyro.conf.arg(name="")] = field(default_factory=SweepConfig)

    @property
    def identity(self) -> tuple[str, dict[str, Any]]:
        return "sweep", {"recipe": identity_of(self.recipe), "sweep": identity_of(self.sweep)}


def recipe_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments that name the recipe: those of a sweep without the fields of SweepConfig and their values."""
    known, kept, skip = {f"{no}{one.name}" for one in fields(SweepConfig) for no in ("--", "--no-")}, [], False
    for argument in arguments:
        if argument.startswith("--"):
            skip = argument.partition("=")[0] in known
        if not skip:
            kept.append(argument)
    return kept if kept and not kept[0].startswith("--") else ["digits", *kept]


def main() -> None:
    with launched(__doc__ or "", SweepOptions[Recipe]) as (root, options):
        from raylabel.sweep.result import print_sweep  # imported now, because PyTorch takes seconds
        from raylabel.sweep.run import sweep

        programs = command("sweep"), command(RUN_BY[Recipe])
        found, folder = sweep(root, options.recipe, options.sweep, recipe_arguments(sys.argv[1:]), programs)
        root.uses.finish(folder.rpartition("/")[2])
        print_sweep(found, folder)
