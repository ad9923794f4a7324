"""What the filters of a network see, as a page: Figures 3 to 5 of Caron et al. 2018."""

import numpy as np

from raylabel.corpus import Shards
from raylabel.experiments.comparison import Column, Comparison, Row, Table, Value, write_comparison
from raylabel.experiments.looks import Look, Looks, png
from raylabel.pipelines.filters import NINE, FiltersRun, Layer
from raylabel.report.previews import read_previews
from raylabel.store.artifact import Artifact, identity_of

EXPERIMENT = "filters"
ASCENT = (
    "First row: a picture from gradient ascent. Below it, from the top, the samples with the largest mean of the "
    "channel over all positions; the number is that mean."
)
SAMPLES = "From the top, the samples with the largest mean of the channel over all positions; the number is that mean."
FIRST = "Each filter is scaled to its own range. If the network takes gradients, it is the filter of the grey picture."


def write_filters(run: FiltersRun) -> tuple[Artifact, Comparison]:
    """(the artifact of the page, its numbers). Builds what is missing first."""
    wanted, layers = run.wanted, run.layers()
    network = f"{wanted.network.name}-{wanted.network.digest}"
    samples = int(Shards(run.shards).samples)
    dead = {layer.name: int((layer.largest <= 0).sum()) for layer in layers}
    comparison = Comparison(
        experiment=EXPERIMENT,
        name=network,
        headline=f"what filters of {', '.join(wanted.layers)} respond to",
        detail=f"{wanted.model.arch}, {samples:,} samples of {', '.join(wanted.corpus.uri)}",
        findings=(),
        tables=[
            Table(
                title="Layers",
                columns=[
                    Column(title="filters", form="count"),
                    Column(title="shown", form="count"),
                    Column(title="never active", form="count"),
                ],
                rows=[
                    Row(
                        name=layer.name,
                        cells=[
                            Value(value=layer.channels),
                            Value(value=len(layer.shown)),
                            Value(value=dead[layer.name]),
                        ],
                    )
                    for layer in layers
                ],
                note="Never active: filters whose mean over positions is not above 0 for any sample.",
            )
        ],
        curves=(),
        warnings=(),
        settings={"network": network, "corpus": identity_of(wanted.corpus), "layers": list(wanted.layers)}
        | {"filters": wanted.filters, "steps": wanted.steps, "view": wanted.view.evaluation_identity},
    )
    inputs = [wanted.network, run.shards, *run.artifacts]
    return write_comparison(run.root, comparison, inputs, lambda: _looks(run, layers))


def _looks(run: FiltersRun, layers: list[Layer]) -> list[Looks]:
    filters = run.first_filters()
    first = Looks(
        title="Filters of the first convolution",
        networks=[],
        looks=[Look(picture=png(one), maps=[], labels=[]) for one in filters],
        side=filters.shape[1],
        first="filter",
        note=FIRST,
    )
    return [first, *(_of_layer(run, layer) for layer in layers)]


def _of_layer(run: FiltersRun, layer: Layer) -> Looks:
    wanted, keys = run.wanted, {channel: layer.best(channel) for channel in layer.shown}
    every = sorted({key for some in keys.values() for key, _ in some})
    previews = read_previews(run.corpus, Shards(run.shards), every, wanted.view.max_jpeg_pixels)
    pictures, nothing = run.exciting_pictures(layer), png(np.full((8, 8, 3), 127, np.uint8))
    shown = list[Look]()
    for number, channel in enumerate(layer.shown):
        best = [previews[key][0] if key in previews else nothing for key, _ in keys[channel]]
        top = png(pictures[number]) if pictures else nothing
        shown.append(Look(picture=top, maps=best, labels=[f"{value:.3g}" for _, value in keys[channel]]))
    return Looks(
        title=f"{layer.name}: filters {', '.join(map(str, layer.shown))}",
        networks=[f"rank {rank + 1}" for rank in range(min(NINE, *(len(some) for some in keys.values())))],
        looks=shown,
        side=wanted.view.tested_size,
        first="gradient ascent" if pictures else "",
        note=ASCENT if pictures else SAMPLES,
    )
