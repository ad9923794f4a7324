"""Exports a trained network, or the picks of a run, as a folder that other programs load.

- raylabel export model runs/student-0a1b2c3d4e5f                          for timm, torchvision, ONNX
- raylabel export picks runs/picks-0a1b2c3d4e5f --format hf --to picks     for datasets, webdataset, annotators
"""

import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from raylabel.cli.exit import readable
from raylabel.cli.launch import check_arguments, check_kept, working
from raylabel.cli.output import guard_output, work_begins
from raylabel.compute.resources import Resources


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Exports a trained network: safetensors, timm, torch.export, ONNX, a model card.

    - raylabel export model runs/student-0a1b2c3d4e5f                    into exports/student-0a1b2c3d4e5f
    - raylabel export model s3://bucket/runs/soup-0a1b2c3d4e5f --to soup

    Each format is compared with the network on samples of the test set. Needs `pip install 'raylabel[export]'`.
    """

    artifact: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ARTIFACT")]
    """Its folder in a root, local or s3://, gs://; its run must be finished."""
    to: str = ""
    """A local folder that does not exist; if not given, exports/NAME with the name of the artifact."""
    run: str = ""
    """Folder of the run whose view and classes it has, if several runs use it in different ways."""


@dataclass(frozen=True, kw_only=True)
class PicksOptions:
    """Exports the picks of a run, each with its class, rank, score and address.

    - raylabel export picks runs/picks-0a1b2c3d4e5f --format hf --to picks            for Hugging Face's datasets
    - raylabel export picks runs/picks-0a1b2c3d4e5f --format webdataset --to s3://bucket/picks
    - raylabel export picks runs/picks-0a1b2c3d4e5f --format csv --to picks           a labeled set for raylabel
    - raylabel export picks runs/picks-0a1b2c3d4e5f --format label-studio --to queue  the last picks of each class

    hf and webdataset have the media. The same command continues what was stopped.
    """

    artifact: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ARTIFACT")]
    """Folder of the PICKS in a root, local or s3://, gs://. Its run need not be finished."""
    format: Literal["hf", "webdataset", "csv", "label-studio"]
    """For which program."""
    to: str
    """A folder that does not exist, local or s3://, gs://."""
    per_class: int = 20
    """Picks of each class for Label Studio: those with the last ranks, unless predictions are given."""
    predictions: str = ""
    """For Label Studio: what `raylabel predict` wrote, as parquet, of the picks that were exported with --format hf.
    The picks are then those whose best class is another one there, the surest first: where teacher and student
    disagree."""
    run: str = ""
    """The run whose classes, corpus and media are used, if several runs use the picks in different ways."""


Options = (
    Annotated[ModelOptions, tyro.conf.subcommand("model", description="A trained network.")]
    | Annotated[PicksOptions, tyro.conf.subcommand("picks", description="The picks of a run.")]
)
KINDS: dict[str, Any] = {"model": ModelOptions, "picks": PicksOptions}


def main() -> None:
    guard_output()
    with readable():
        check_arguments()
        kind = sys.argv[1] if sys.argv[1:] and sys.argv[1] in KINDS else ""
        if kind:  # a subcommand of tyro would have either its whole help in that of the command, or none of its own
            options = tyro.cli(KINDS[kind], args=sys.argv[2:], prog=f"{sys.argv[0]} {kind}")
        else:
            options: Any = tyro.cli(Options, description=__doc__)  # pyright: ignore[reportCallIssue, reportArgumentType]
        if isinstance(options, ModelOptions):
            _export_model(options)
        else:
            _export_picks(options)


def _export_model(options: ModelOptions) -> None:
    work_begins()
    # Imported now, because PyTorch takes seconds: --help need not wait for it.
    from raylabel.ship.export import export_model
    from raylabel.ship.shipped import find_network
    from raylabel.ship.show_export import print_export

    shipped = find_network(options.artifact, options.run)
    to = options.to or f"exports/{shipped.network.name}-{shipped.network.digest}"
    print_export(shipped, export_model(shipped, to))


def _export_picks(options: PicksOptions) -> None:
    check_kept(options.to, "to")
    work_begins()
    from raylabel.ship.hand_over import export_picks
    from raylabel.ship.picked import find_picks
    from raylabel.ship.show_export import print_picks

    picked = find_picks(options.artifact, options.run)
    with working(Resources()):
        found = export_picks(picked, options.format, options.to, options.per_class, options.predictions)
    print_picks(found)
