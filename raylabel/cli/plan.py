"""Estimates what a run will cost on this cluster, by a pilot of about a minute: time, device-hours, bytes, memory.

- raylabel plan cifar10 --data DIR          before `raylabel semi-supervised cifar10 --data DIR`
- raylabel plan my.py:my_recipe --json      the same numbers as one JSON object on stdout

What exists under --root counts as done. Progress goes to stderr.
"""

import json
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Annotated

import tyro

from raylabel.cli.launch import Options, R, launched
from raylabel.recipes import Recipe


@dataclass(frozen=True, kw_only=True)
class PlanOptions(Options[R]):
    """A recipe, and where its results will go."""

    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead of the table."""
    device_hour_price: float | None = None
    """Dollars for an hour of one GPU (without GPUs: of one CPU) with its share of the machine. Then the plan says what
    the run will cost, with the requests to S3 at its list price."""


def main() -> None:
    with launched(__doc__ or "", PlanOptions[Recipe]) as (root, options):
        from raylabel.plan.estimate import plan  # imported now, because PyTorch takes seconds
        from raylabel.plan.report import print_plan

        with redirect_stdout(sys.stderr):  # the progress of the stages that the plan runs
            found = plan(root, options.recipe, options.device_hour_price)
        if options.json:
            print(json.dumps(found.to_dict(), indent=2))  # ASCII only: a name may contain control characters
        else:
            print_plan(found)
