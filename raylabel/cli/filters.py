"""What the filters of a trained network see: the samples of a corpus that excite each most (Caron et al. 2018).

- raylabel filters runs/round-0a1b2c3d4e5f photos --layers layer3                    a folder of images
- raylabel filters runs/round-0a1b2c3d4e5f s3://bucket/crawl --layers conv1 conv5    a large corpus

The result is a page in the root: the filters of the first convolution, and for filters of the layers a picture from
gradient ascent and the nine samples with the largest mean output. The same command resumes what was stopped.
"""

from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

import tyro

from raylabel.cli.exit import readable
from raylabel.cli.launch import check_arguments, command_line, connected
from raylabel.cli.main import with_commands
from raylabel.cli.output import guard_output
from raylabel.cli.predict import Predicted
from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.store.artifact import identity_of
from raylabel.store.names import FILTERS
from raylabel.store.uses import RecordedRoot


@dataclass(frozen=True, kw_only=True)
class FiltersOptions:
    """A network, a corpus, and the layers."""

    network: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NETWORK")]
    """Folder of a trained network, local or s3://, gs://."""
    corpus: Predicted
    layers: tuple[str, ...]
    """Names of layers, such as layer3: their outputs are averaged over positions."""
    filters: int = 10
    """Filters of each layer that are shown, evenly spaced. All are ranked."""
    steps: int = 200
    """Steps of gradient ascent for the picture of a filter; 0: no such pictures."""
    batch: Annotated[int, tyro.conf.arg(aliases=("--label.batch",))] = 256
    """Samples per forward pass."""
    precision: Annotated[
        Literal["auto", "bf16", "fp32"],
        tyro.conf.arg(metavar="{auto,bf16,fp32}", aliases=("--label.precision",)),
    ] = "auto"
    """Arithmetic of the forward pass."""
    root: str = ""
    """Folder of the results, if it is not that of the network."""
    reject_limit: Annotated[float, tyro.conf.arg(aliases=("--label.reject-limit",))] = 0.05
    """Share of samples that may be unreadable before the command stops, 0 to 1."""
    retry_rejects: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Read the samples again that an earlier call rejected, for example after a storage failure."""
    resources: Resources = field(default_factory=Resources)


def main() -> None:
    guard_output()
    with readable():
        check_arguments()
        options = tyro.cli(FiltersOptions, description=with_commands(__doc__ or ""))
        # Imported now, because PyTorch takes seconds: --help and a wrong option need not wait for it.
        from raylabel.experiments.filters import write_filters
        from raylabel.experiments.terminal import print_comparison
        from raylabel.labels.teacher import Label
        from raylabel.pipelines.filters import FiltersRun, Wanted
        from raylabel.ship.shipped import find_view, open_shipped

        network, view = open_shipped(options.network), find_view(options.network)
        given: dict[str, Any] = {one.name: getattr(options.corpus, one.name) for one in fields(Corpus)}
        given["kind"] = "video" if view.clip else "image"
        wanted = Wanted(
            network=network,
            view=view,
            corpus=Corpus(**given),
            layers=options.layers,
            filters=options.filters,
            steps=options.steps,
            label=Label(batch=options.batch, precision=options.precision, reject_limit=options.reject_limit),
        )
        wanted.check()  # now, not once Ray has started
        with connected(options.root or network.uri.rpartition("/")[0], options.resources) as root:
            asked = {"network": network.digest, "corpus": identity_of(wanted.corpus), "layers": list(options.layers)}
            asked |= {"filters": options.filters, "steps": options.steps}
            recorded = RecordedRoot.of(root, FILTERS, network.name, asked, command_line())
            page, comparison = write_filters(FiltersRun(recorded, wanted, options.resources, options.retry_rejects))
            recorded.uses.finish(f"{page.name}-{page.digest}")
        print_comparison(comparison, page.uri)
