"""Pre-trainings without labels as a Comparison: Table 1 of Caron et al. 2018, a row for each."""

from collections.abc import Iterator

from raylabel.evaluate.results import Metric
from raylabel.experiments.comparison import Column, Comparison, Curves, Finding, Row, Table, Value, write_comparison
from raylabel.pipelines.pretexts import Judged, PretextsRun
from raylabel.recipes.pretexts import LAYERWISE, STARTS, Start
from raylabel.store.artifact import Artifact, identity_of

EXPERIMENT = "pretexts"
NAMES: dict[Start, str] = {
    "none": "random weights",
    "clusters": "clusters",
    "rotation": "rotation",
    "jigsaw": "jigsaw",
    "position": "relative position",
    "surrogate": "surrogate classes",
    "layer_kmeans": "k-means, layer by layer",
    "layer_pca": "components, layer by layer",
    "layer_rbm": "Boltzmann machines, layer by layer",
    "layer_autoencoder": "autoencoders, layer by layer",
    "completion": "completion",
    "denoising": "denoising",
    "true": "true labels",
}


def write_pretexts(run: PretextsRun) -> tuple[Artifact, Comparison]:
    """(the artifact of the experiment, its results). Builds what is missing first."""
    recipe, judged = run.pretexts, run.judged
    own = recipe.clusters
    of: dict[tuple[Start, str], Judged] = {(one.start, one.layer): one for one in judged}
    starts: list[Start] = [one for one in STARTS if one in recipe.starts]
    best = max((one for one in judged if one.start != "true"), key=lambda one: one.top1.value)
    n = judged[0].top1.n
    rows: dict[Start, list[Metric | None]] = {
        start: [of[start, layer].gain for layer in recipe.layers] for start in starts
    }
    by_layer = " but layer by layer" if any(start in LAYERWISE for start in starts) else ""
    gains = Table(
        title="Top-1 minus that of random weights",
        columns=[Column(title=layer, form="points", plotted=True) for layer in recipe.layers],
        rows=[
            Row(name=NAMES[start], cells=[Value.of(gain) if gain else None for gain in row])
            for start, row in rows.items()
            if any(row)
        ],
        note="The same layer, the same test samples.",
    )
    comparison = Comparison(
        experiment=EXPERIMENT,
        name=recipe.name,
        headline=f"the best features without labels are those of {best.layer} after {NAMES[best.start]}: "
        f"{best.top1.value:.1%}",
        detail=f"{own.model.arch}, {recipe.train.processed:,} {own.view.inputs} in each pre-training{by_layer}, "
        f"n = {n:,}, seed {own.seed}",
        findings=list(_findings(of, recipe.layers)),
        tables=[
            Table(
                title="Logistic regression on each layer: top-1",
                columns=[Column(title=layer, form="percent", plotted=True) for layer in recipe.layers],
                rows=[
                    Row(name=NAMES[start], cells=[Value.of(of[start, layer].top1) for layer in recipe.layers])
                    for start in starts
                ],
                note="All layers are frozen. Intervals: of the test samples, for one seed.",
            ),
            *([gains] if gains.rows else []),
            *([_numbers(run)] if recipe.ks else []),
        ],
        curves=[
            Curves(
                title="Top-1 of a logistic regression on each layer, from the first to the last",
                curves={
                    NAMES[start]: [(1.0 + at, of[start, layer].top1.value) for at, layer in enumerate(recipe.layers)]
                    for start in starts
                },
                axis="layers",
            )
        ],
        warnings=run.warnings,
        settings=identity_of(recipe),
    )
    return write_comparison(run.root, comparison, [*run.shards.values(), *run.artifacts])


def _numbers(run: PretextsRun) -> Table:
    rows = [
        Row(
            name=f"k = {one.k:,}",
            cells=[Value(value=value) for value in (*one.accuracies, sum(one.accuracies) / len(one.accuracies))],
        )
        for one in run.tried
    ]
    return Table(
        title="Numbers of clusters: accuracy in cross-validation on the labeled set",
        columns=[Column(title=title, form="percent") for title in (*run.pretexts.layers, "mean")],
        rows=rows,
        note=f"k = {run.chosen.recipe.kmeans.k:,} has the highest mean, and is the one that is tested.",
    )


def _findings(of: dict[tuple[Start, str], Judged], layers: tuple[str, ...]) -> Iterator[Finding]:
    gains = {layer: of["clusters", layer].gain for layer in layers if ("clusters", layer) in of}
    known = {layer: gain for layer, gain in gains.items() if gain}
    if known:
        yield Finding.of_gains(
            claim="Features of clusters are better than random ones",
            source="by 1.3, 12.1, 21.3, 23.5 and 22.0 points behind conv1 to conv5 of AlexNet on ImageNet (Table 1)",
            gains=known,
        )
    if len(known) > 2:
        first, *_, last = known
        most = max(known, key=lambda layer: of["clusters", layer].top1.value)
        yield Finding(
            claim="They are best in the middle of the network, and little better than random ones in its first layer",
            source="yes: conv4 of 5 (Table 1)",
            here=f"{most} has the best ones; {known[first].value:+.1%} in {first}, {known[last].value:+.1%} in {last}",
            verdict="one run",
        )
