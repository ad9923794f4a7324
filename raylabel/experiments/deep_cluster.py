"""Rounds of clustering and training as a Comparison: the curves of Caron et al. 2018, Figure 2."""

from collections.abc import Iterator

from raylabel.experiments.comparison import Column, Comparison, Curves, Finding, Row, Table, Value, write_comparison
from raylabel.pipelines.deep_cluster import DeepClusterRun, Round
from raylabel.recipes.deep_cluster import DeepCluster
from raylabel.store.artifact import Artifact, identity_of

EXPERIMENT = "deep-cluster"
SHOWN = 24
"""Rounds in the table, at most: the first, the last, and others evenly between them."""


def write_deep_cluster(run: DeepClusterRun) -> tuple[Artifact, Comparison]:
    """(the artifact of the experiment, its results). Builds what is missing first."""
    recipe, rounds = run.recipe, run.rounds
    samples = rounds[-1].clusters.info["samples"]
    comparison = Comparison(
        experiment=EXPERIMENT,
        name=recipe.name,
        headline=_headline(recipe, rounds),
        detail=(
            f"{recipe.model.arch}, {samples:,} samples, {recipe.kmeans.k:,} clusters, "
            f"{recipe.train.processed:,} {recipe.view.inputs} in each round, seed {recipe.seed}; "
            f"the network is {rounds[-1].network.uri}"
        ),
        findings=list(_findings(rounds)),
        tables=[_table(rounds)],
        curves=list(_curves(rounds)),
        warnings=list(_warnings(rounds)),
        settings=identity_of(recipe),
    )
    return write_comparison(run.root, comparison, [*run.shards.values(), *run.artifacts])


def _headline(recipe: DeepCluster, rounds: tuple[Round, ...]) -> str:
    last = [one for one in rounds if one.before]
    if not last:
        return f"{recipe.rounds:,} rounds"
    assert last[-1].before
    return f"after {recipe.rounds:,} rounds the clusters agree with those before by an NMI of {last[-1].before.nmi:.2f}"


def _findings(rounds: tuple[Round, ...]) -> Iterator[Finding]:
    before = [one.before.nmi for one in rounds if one.before]
    if len(before) > 1:
        yield Finding(
            claim="Clusters agree more and more with those of the round before, up to an NMI below 0.8",
            source="yes, in Figure 2b",
            here=f"{before[0]:.2f} in the second round, {before[-1]:.2f} in the last that clustered",
            verdict="one run",
        )
    truth = [one.truth.nmi for one in rounds if one.truth]
    if len(truth) > 1:
        yield Finding(
            claim="Clusters agree more and more with true labels",
            source="yes, in Figure 2a",
            here=f"{truth[0]:.2f} of random weights, {truth[-1]:.2f} in the last round",
            verdict="one run",
        )


def _table(rounds: tuple[Round, ...]) -> Table:
    rows = []
    for one in _shown(rounds):
        truth, before = one.truth and one.truth.nmi, (one.before.nmi, one.before.moved) if one.before else (None, None)
        cells = [
            truth,
            *before,
            one.sizes.min(),
            one.sizes.max(),
            int((one.sizes == 0).sum()) or None,
            one.end["accuracy"],
            one.end["loss"],
        ]
        named = [None if cell is None else Value(value=float(cell)) for cell in cells]
        rows.append(Row(name=f"round {one.number + 1}", cells=named))
    return Table(
        title="Rounds",
        columns=[
            Column(title="NMI, labels", form="fraction"),
            Column(title="NMI, round before", form="fraction"),
            Column(title="moved", form="percent"),
            Column(title="smallest cluster", form="count"),
            Column(title="largest cluster", form="count"),
            Column(title="empty clusters", form="count"),
            Column(title="training accuracy", form="percent"),
            Column(title="training loss", form="nats"),
        ],
        rows=rows,
        note=(
            "NMI: mutual information of clusters and true labels, or of clusters and those of the round before, over "
            "the geometric mean of their entropies; it rises with the number of clusters also by chance. Moved: share "
            "of samples that left most of their former cluster. Accuracy and loss: on the clusters, at the end of the "
            "round's training."
        ),
    ).without_empty_columns()


def _shown(rounds: tuple[Round, ...]) -> list[Round]:
    if len(rounds) <= SHOWN:
        return list(rounds)
    return [rounds[at * (len(rounds) - 1) // (SHOWN - 1)] for at in range(SHOWN)]


def _curves(rounds: tuple[Round, ...]) -> Iterator[Curves]:
    curves = {
        "with true labels": [(1.0 + one.number, one.truth.nmi) for one in rounds if one.truth],
        "with the round before": [(1.0 + one.number, one.before.nmi) for one in rounds if one.before],
    }
    if found := {name: points for name, points in curves.items() if points}:
        yield Curves(title="Normalised mutual information of the clusters, in percent", curves=found, axis="rounds")


def _warnings(rounds: tuple[Round, ...]) -> Iterator[str]:
    for one in rounds:
        if (largest := one.sizes.max() / one.sizes.sum()) > 0.5:
            yield f"round {one.number + 1}: {largest:.0%} of the samples are in a single cluster"
            return
