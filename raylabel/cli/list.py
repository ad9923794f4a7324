"""Lists what a root holds: its runs, their artifacts, bytes, and which runs need them.

- raylabel list                                 the folder `runs`
- raylabel list --root s3://bucket/runs
- raylabel list --artifacts                     each artifact: what it is made of, and which runs need it

Nothing is changed. `raylabel clean` deletes what no run needs.
"""

from dataclasses import dataclass
from typing import Annotated

import tyro

from raylabel.cli.local import existing_root, parsed
from raylabel.inventory.contents import read_contents
from raylabel.inventory.show import print_contents


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """What is listed."""

    root: str = "runs"
    """Folder of all results, local or s3://, gs://."""
    artifacts: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """List each artifact, with what it is made of and the runs that need it."""


def main() -> None:
    with parsed(__doc__ or "", ListOptions) as options:
        root = existing_root(options.root)
        print_contents(root.uri, read_contents(root.uri), options.artifacts)
