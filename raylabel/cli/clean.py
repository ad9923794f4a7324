"""Deletes what no run needs from a root, after showing it: of dropped runs, of replaced work, of killed processes.

- raylabel clean                                what no run needs
- raylabel clean --drop run-digits-0a1b2c3d4e5f also that run, and all that only it needs
- raylabel clean --drop NAME --yes              without a question

Names of runs are those of `raylabel list`. A run that was stopped counts as a run until it is dropped. Folders that
raylabel did not make are never deleted.
"""

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from raylabel.cli.local import existing_root, parsed
from raylabel.errors import InputError
from raylabel.inventory.clean import clean, plan_cleaning
from raylabel.inventory.contents import read_contents
from raylabel.inventory.show import print_cleaning
from raylabel.store.root_lock import held
from raylabel.text import size


@dataclass(frozen=True, kw_only=True)
class CleanOptions:
    """What is deleted."""

    root: str = "runs"
    """Folder of all results, local or s3://, gs://."""
    drop: tuple[str, ...] = ()
    """Runs or sweeps that are no longer needed, by their names in `raylabel list`."""
    unrecorded: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also delete what is in no record and what no run is known to need. An earlier version of raylabel made it, maybe
    for a run that was stopped."""
    yes: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Delete without a question."""


def main() -> None:
    with parsed(__doc__ or "", CleanOptions) as options:
        root = existing_root(options.root)
        with held(root):
            contents = read_contents(root.uri)
            found = plan_cleaning(contents, options.drop, options.unrecorded)
            print_cleaning(contents, found)
            if not found.folders and not found.left and not found.drops:
                print("nothing to delete")
                return
            if not options.yes and not _confirmed():
                print("nothing was deleted")
                return
            clean(root.uri, found)
            print(f"freed {size(found.bytes)}")


def _confirmed() -> bool:
    if not sys.stdin.isatty():
        raise InputError("nothing was deleted: give --yes to delete without a question")
    print("delete? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
