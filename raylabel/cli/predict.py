"""Labels, probabilities and rejects of a corpus by a trained network, as parquet or CSV.

- raylabel predict runs/student-0a1b2c3d4e5f photos --to photos.csv                  a folder of images
- raylabel predict runs/student-0a1b2c3d4e5f s3://bucket/crawl --to s3://bucket/out  a large corpus, in parts
- raylabel predict runs/student-0a1b2c3d4e5f list.csv --to out.parquet --p 1         only the best class

The network is a folder of a root, of a run that is finished. The same command resumes what was stopped.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Literal

import tyro

from raylabel.cli.exit import readable
from raylabel.cli.launch import check_arguments, check_kept, command_line, connected
from raylabel.cli.main import with_commands
from raylabel.cli.output import guard_output
from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.store.artifact import identity_of
from raylabel.store.names import PREDICTION
from raylabel.store.uses import RecordedRoot

Unused = tyro.conf.Suppress[str | None]


@dataclass(frozen=True, kw_only=True)
class Predicted(Corpus):
    """The corpus to predict."""

    uri: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="CORPUS ...")]
    """Local paths or s3://, gs:// URIs: what a recipe's corpus may be, without labels."""
    kind: tyro.conf.Suppress[str] = "image"  # pyright: ignore[reportIncompatibleVariableOverride]  (the network's)
    label: Unused = None
    classes: Unused = None
    group: Unused = None


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """A network, a corpus, and where the predictions go."""

    network: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NETWORK")]
    """Folder of a trained network, local or s3://, gs://."""
    corpus: Predicted
    to: str
    """One file, if it ends in .parquet or .csv: for up to a million samples. Otherwise a folder with many files.
    Rejects and a summary are written beside it, or in the folder."""
    form: Annotated[Literal["parquet", "csv"] | None, tyro.conf.arg(metavar="{parquet,csv}")] = None
    """Form of the files in a folder: parquet, or csv."""
    p: Annotated[int, tyro.conf.arg(aliases=("--label.p",))] = 5
    """Classes per sample, best first, at most all."""
    batch: Annotated[int | None, tyro.conf.arg(metavar="INT", aliases=("--label.batch",))] = None
    """Samples per forward pass, if not as in the network's evaluation. Another number may change the last digits."""
    precision: Annotated[
        Literal["auto", "bf16", "fp32"] | None,
        tyro.conf.arg(metavar="{auto,bf16,fp32}", aliases=("--label.precision",)),
    ] = None
    """Arithmetic of the forward pass, if not as in the network's evaluation."""
    run: str = ""
    """The run whose view and class names are used, if several runs use the network in different ways."""
    root: str = ""
    """Folder of the scores, if it is not that of the network: while a run uses that one, or if it is only readable."""
    reject_limit: Annotated[float, tyro.conf.arg(aliases=("--label.reject-limit",))] = 0.05
    """Share of samples that may be unreadable before the command stops, 0 to 1."""
    retry_rejects: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Read the samples again that an earlier call rejected, for example after a storage failure."""
    resources: Resources = field(default_factory=Resources)


def main() -> None:
    guard_output()
    with readable():
        check_arguments()
        options = tyro.cli(PredictOptions, description=with_commands(__doc__ or ""))
        check_kept(options.to, "to")
        # Imported now, because PyTorch takes seconds: --help and a wrong option need not wait for it.
        from raylabel.ship.output import Output
        from raylabel.ship.predict import predict
        from raylabel.ship.prediction import Prediction
        from raylabel.ship.prediction_terminal import print_prediction
        from raylabel.ship.shipped import find_network

        output = Output.of(options.to, options.form, Prediction)
        shipped = find_network(options.network, options.run)
        label = replace(
            shipped.label,
            p=options.p,
            batch=options.batch or shipped.label.batch,
            precision=options.precision or shipped.label.precision,
            reject_limit=options.reject_limit,
        )
        corpus = Corpus(**{one.name: getattr(options.corpus, one.name) for one in fields(Corpus)})
        with connected(options.root or shipped.root.uri, options.resources) as root:
            asked = {"network": shipped.network.digest, "to": output.uri}
            asked |= {"corpus": identity_of(corpus), "label": identity_of(label)}
            recorded = RecordedRoot.of(root, PREDICTION, shipped.run["run"], asked, command_line())
            found = predict(recorded, shipped, corpus, label, output, options.resources, options.retry_rejects)
            recorded.uses.finish()
        print_prediction(found, output)
