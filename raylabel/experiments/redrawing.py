"""Random labels that are drawn again as a Comparison: Figure 1 of Pondenkandath et al. 2018."""

from collections.abc import Iterator
from itertools import groupby

from raylabel.evaluate.results import metrics
from raylabel.experiments.comparison import (
    Column,
    Comparison,
    Curves,
    Finding,
    Row,
    Table,
    Value,
    epochs_of,
    write_comparison,
)
from raylabel.pipelines.redrawing import Drawing, RedrawingRun
from raylabel.recipes.redrawing import FRESH, KEPT
from raylabel.store.artifact import Artifact, identity_of

EXPERIMENT = "redrawn-labels"
NAMES = {
    KEPT: "all weights kept",
    FRESH: "new network",
    "head": "new head",
    "norms": "norms kept",
    "trunk": "trunk kept",
    "convolutions": "convolutions kept",
}
FASTER = "Labels that are drawn again are memorized faster than the first ones"
SCALE = "The scale of the weights is enough for that"


def write_redrawing(run: RedrawingRun) -> tuple[Artifact, Comparison]:
    """(the artifact of the experiment, its results). Builds what is missing first."""
    recipe = run.recipe
    findings, samples = list(_findings(run)), run.drawings[0].curve.samples
    unknown = "The first labels were not memorized" if recipe.train.validate.targets else "Labels that are drawn again"
    comparison = Comparison(
        experiment=EXPERIMENT,
        name=recipe.name,
        headline=findings[0].here if findings else unknown,
        detail=f"{recipe.model.arch}, {samples:,} samples, {recipe.classes} random classes, seed {recipe.seed}",
        findings=findings,
        tables=[_table(run)],
        curves=list(_curves(run)),
        warnings=(),
        settings=identity_of(recipe),
    )
    rows = metrics(run.root, recipe.name, list(run.metrics()))
    return write_comparison(run.root, comparison, [*run.shards.values(), *run.artifacts, rows])


def epochs_to(drawing: Drawing, target: float) -> float | None:
    """Passes over the samples until the accuracy first reached a target; None if it never did."""
    images = drawing.curve.reached[target]
    return None if images is None else images / drawing.curve.samples


def _findings(run: RedrawingRun) -> Iterator[Finding]:
    targets = run.recipe.train.validate.targets
    if not targets or (first := epochs_to(run.drawings[0], targets[0])) is None:
        return
    target = f"{100 * targets[0]:g}%"

    def text(of: list[Drawing]) -> str:
        reached = [epochs_to(one, targets[0]) for one in of]
        return ", ".join("not reached" if one is None else f"{one:,.1f}" for one in reached)

    kept = [one for one in run.drawings if one.redraw and one.start == KEPT]
    yield Finding(
        claim=FASTER,
        source="yes, in Figure 1, which has no numbers",
        here=f"{target} after {first:,.1f} epochs of the first labels; then after {text(kept)}",
        verdict="one run",
    )
    scaled = [one for one in run.drawings if one.start == "norms"]
    if scaled:
        at = " and ".join(str(one.redraw) for one in scaled)
        yield Finding(
            claim=SCALE,
            source="not asked; Maennel et al. 2020 find a gain in speed beyond that of the scale",
            here=f"{target} after {text(scaled)} epochs at redraw {at}, from random weights with the trained norms",
            verdict="one run",
        )


def _table(run: RedrawingRun) -> Table:
    targets = run.recipe.train.validate.targets
    rows = []
    for one in run.drawings:
        reached = [epochs_to(one, target) for target in targets]
        cells = [*reached, one.curve.area, one.curve.points[-1].accuracy, one.first_loss]
        rows.append(Row(name=_name(one), cells=[None if cell is None else Value(value=cell) for cell in cells]))
    epochs = run.recipe.train.processed / run.drawings[0].curve.samples
    return Table(
        title="Memorizing each drawing of the labels",
        columns=[
            *(Column(title=f"epochs to {100 * target:g}%", form="epochs") for target in targets),
            Column(title="mean accuracy", form="percent"),
            Column(title="at the end", form="percent"),
            Column(title="loss, first epoch", form="nats"),
        ],
        rows=rows,
        note=(
            f"Accuracy in evaluation mode on the labels that are learned, in {epochs:,.1f} epochs of each drawing; the "
            "mean is the area under the curve. A dash: not reached. Optimizer and learning rate begin anew each time. "
            "Norms kept: random weights, each tensor scaled to the norm of the trained one."
        ),
    )


def _name(one: Drawing) -> str:
    return f"redraw {one.redraw}: {_started(one)}" if one.redraw else "first labels"


def _started(one: Drawing) -> str:
    return NAMES.get(one.start, f"{one.start} kept")


def _curves(run: RedrawingRun) -> Iterator[Curves]:
    kept = [one for one in run.drawings if not one.redraw or one.start == KEPT]
    yield Curves(
        title="Accuracy on what is learned",
        curves={_name(one): epochs_of(one.curve, one.curve.samples) for one in kept},
    )
    for redraw, some in groupby(run.drawings, key=lambda one: one.redraw):
        of = list(some)
        if len(of) > 1:
            curves = {_started(one): epochs_of(one.curve, one.curve.samples) for one in of}
            yield Curves(title=f"Redraw {redraw}, by what is kept", curves=curves)
