"""What a run will cost on this cluster, by a pilot of about a minute: time, device-hours, bytes, memory, and more.

- python jobs/plan.py cifar10 --data DIR          before `python jobs/semi_supervised.py cifar10 --data DIR`
- python jobs/plan.py my.py:my_recipe --json      the same numbers as one JSON object on stdout

What stands under --root already counts as done. Progress goes to stderr.
"""

import json
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Annotated

import tyro

from raylabel.cli.launch import Options, launched
from raylabel.plan.estimate import plan
from raylabel.plan.report import print_plan


@dataclass(frozen=True, kw_only=True)
class PlanOptions(Options):
    """A recipe, and where its results will go."""

    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead of the table."""


if __name__ == "__main__":
    with launched(__doc__ or "", PlanOptions) as (root, options):
        with redirect_stdout(sys.stderr):  # the progress of stages that the plan begins with
            found = plan(root, options.recipe)
        if options.json:
            print(json.dumps(found.to_dict(), indent=2))  # ASCII: a name may hold what steers a terminal
        else:
            print_plan(found)
