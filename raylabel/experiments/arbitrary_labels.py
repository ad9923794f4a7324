"""Arbitrary labels as a Comparison: the table of the post, with its controls."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import log

from raylabel.evaluate.results import LOSS, TOP1, Metric, metrics, require
from raylabel.experiments.comparison import Column, Comparison, Finding, Row, Table, Value, write_comparison
from raylabel.pipelines.arbitrary_labels import TRAIN_LOSS, TRAIN_TOP1, ArbitraryLabelsRun, Epoch, Result
from raylabel.recipes.arbitrary_labels import Arm
from raylabel.store.artifact import Artifact, identity_of
from raylabel.text import percent

EXPERIMENT = "arbitrary-labels"
NAMES: dict[Arm, str] = {
    "arbitrary": "arbitrary labels, then the head",
    "true": "true labels, then the head",
    "teacher": "a teacher's labels, then the head",
    "direction": "random directions, then the head",
    "calibrated": "statistics alone, then the head",
    "frozen": "the head alone twice",
    "linear": "no convolutions, true labels twice",
    "whole": "all layers, true labels twice",
}
CLAIMS: tuple[tuple[str, Arm, Arm, str], ...] = (
    (
        "An epoch on arbitrary labels is worth more than one in which the head alone is trained",
        "arbitrary",
        "frozen",
        "validation accuracy 99.1% and 97.4%, one run, no interval",
    ),
    (
        "An epoch on arbitrary labels is worth more than BatchNorm's statistics alone",
        "arbitrary",
        "calibrated",
        "not measured",
    ),
    (
        "An epoch on true labels is worth more than one on arbitrary labels",
        "true",
        "arbitrary",
        "validation accuracy 99.4% and 99.1%, one run, no interval",
    ),
    ("A teacher's labels are worth more than arbitrary ones (question 2)", "teacher", "arbitrary", "asked"),
    ("A correct gradient is worth more than any direction (question 3)", "arbitrary", "direction", "asked"),
)
"""(claim, the arm that is better by it, the other one, what the post found)."""


def write_arbitrary_labels(run: ArbitraryLabelsRun) -> tuple[Artifact, Comparison]:
    """(the artifact of the experiment, its results). Builds what is missing first."""
    recipe, results = run.recipe, run.results
    comparison = Comparison(
        experiment=EXPERIMENT,
        name=recipe.name,
        headline=_headline(results),
        detail=(
            f"{recipe.model.arch}, {run.truth.info['samples']:,} labeled samples of {len(run.classes)} classes, "
            f"{run.test_labels.info['samples']:,} to test on, seed {recipe.seed}"
        ),
        findings=list(_findings(results)),
        tables=[_table(run, last=True), _table(run, last=False)],
        curves=[],
        warnings=run.warnings,
        settings=identity_of(recipe),
    )
    rows = [row for one in results for epoch in one.epochs for row in epoch.metrics]
    rows += [replace(gain, metric=f"{gain.metric}_over_{arm}") for one in results for arm, gain in one.gains.items()]
    inputs = [*run.shards.values(), run.truth, run.test_labels, *run.artifacts]
    return write_comparison(run.root, comparison, [*inputs, metrics(run.root, recipe.name, rows)])


def _headline(results: Sequence[Result]) -> str:
    """The arms that the post compares, and the others if these are not run."""
    shown = [one for one in results if one.arm in ("arbitrary", "frozen")] or results
    tops = [f"{NAMES[one.arm]}: {percent(require(one.last.metrics, metric=TOP1).value)}" for one in shown]
    text = "; ".join(tops)
    return text[:1].upper() + text[1:]


def _findings(results: Sequence[Result]) -> Iterator[Finding]:
    by_arm = {one.arm: one for one in results}
    for claim, better, other, source in CLAIMS:
        if better in by_arm and other in by_arm:
            yield Finding.of_gains(claim, source, {"top-1": _gain(by_arm[better], by_arm[other])})


def _gain(one: Result, other: Result) -> Metric:
    """Top-1 of an arm minus that of another. Each has its gain over those before it."""
    if other.arm in one.gains:
        return one.gains[other.arm]
    gain = other.gains[one.arm]
    assert gain.low is not None and gain.high is not None
    return replace(gain, value=-gain.value, low=-gain.high, high=-gain.low)


def _table(run: ArbitraryLabelsRun, last: bool) -> Table:
    rows, chance = [], log(len(run.classes))
    for one in run.results:
        epoch = one.epochs[-1 if last else 0]
        cells: list[Value | None] = _cells(epoch)
        if last:
            gain = _gain(one, run.results[0]) if one.arm != run.results[0].arm else None
            cells.append(Value.of(gain) if gain else None)
        name = NAMES[one.arm]
        rows.append(Row(name=name if last else name.partition(", then")[0].removesuffix(" twice"), cells=cells))
    more = [Column(title=f"points over {run.results[0].arm}", form="points")] if last else []
    return Table(
        title="After the last epoch" if last else "After the first epoch",
        columns=[
            Column(title="training loss", form="nats"),
            Column(title="training top-1", form="percent"),
            Column(title="test loss", form="nats"),
            Column(title="test top-1", form="percent", plotted=True),
            *more,
        ],
        rows=rows,
        note=(
            f"A network that knows nothing has a loss of {chance:.2f} nats, the logarithm of the number of classes. "
            "Training loss and top-1 are means over the epoch, on its own labels, while the network changes. Test "
            "top-1 has 95% Wilson intervals; differences are paired over the same samples (Bonett and Price 2012)."
        ),
    )


def _cells(epoch: Epoch) -> list[Value | None]:
    wanted = ((TRAIN_LOSS, "labeled"), (TRAIN_TOP1, "labeled"), (LOSS, "test"), (TOP1, "test"))
    return [Value.of(require(epoch.metrics, metric=metric, split=split)) for metric, split in wanted]
