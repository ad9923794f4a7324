"""Exports a trained network as a folder that other programs load: safetensors, timm, torch.export, ONNX, a model card.

- raylabel export model runs/student-0a1b2c3d4e5f                    into exports/student-0a1b2c3d4e5f
- raylabel export model s3://bucket/runs/soup-0a1b2c3d4e5f --to soup

Each format is compared with the network on samples of the test set. Needs `pip install 'raylabel[export]'`.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from raylabel.cli.exit import readable
from raylabel.cli.output import guard_output, work_begins


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What is exported, and where to."""

    what: Annotated[tyro.conf.Positional[Literal["model"]], tyro.conf.arg(metavar="model")]
    """A trained network."""
    artifact: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ARTIFACT")]
    """Its folder in a root, local or s3://, gs://; its run must be finished."""
    to: str = ""
    """A local folder that does not exist; if not given, exports/NAME with the name of the artifact."""
    run: str = ""
    """Folder of the run whose view and classes it has, if several runs use it in different ways."""


def main() -> None:
    guard_output()
    with readable():
        options = tyro.cli(ExportOptions, description=__doc__)
        work_begins()
        # Imported now, because PyTorch takes seconds: --help need not wait for it.
        from raylabel.ship.export import export_model
        from raylabel.ship.shipped import find_network
        from raylabel.ship.show_export import print_export

        shipped = find_network(options.artifact, options.run)
        to = options.to or f"exports/{shipped.network.name}-{shipped.network.digest}"
        print_export(shipped, export_model(shipped, to))
