"""The results of a transfer: a row for each network and protocol; summary.json, and the table that is printed."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raylabel.evaluate.results import (
    CALIBRATED,
    ECE,
    REAL_TOP1,
    SUBSET_TOP1,
    TOP1,
    TOP5,
    Metric,
    find,
    metrics,
    require,
)
from raylabel.models.init import PENULTIMATE
from raylabel.pipelines.transfer import Outcome, TransferRun
from raylabel.recipes.transfer import Transfer
from raylabel.report.summary import interval
from raylabel.report.terminal import WIDTH
from raylabel.store.artifact import Artifact, Built, Draft, identity_of, write_bytes
from raylabel.store.names import PAGE, SUMMARY
from raylabel.text import encodable, percent, percent_range, percentage, points, slug
from raylabel.transfer.page import SHARES, write_transfer_page

PROTOCOLS = {
    "finetune": "full fine-tuning",
    "probe": "linear probe",
    "logistic_raw": "logistic regression, raw features",
    "logistic": "logistic regression, unit features",
    "scratch": "full training",
}
"""The names of protocols for display; those of `few` and `knn` have a number."""

MORE = {name: field for name, field in SHARES.items() if field != "top5"}
"""Columns that only some tables have → fields of their rows; 80 columns have no room for top-5."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share of the test samples, or the difference of two, as a fraction, with its 95% interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, row: Metric) -> "Share":
        low, high = interval(row)
        return cls(value=row.value, low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one protocol gives with one network."""

    network: str
    arch: str
    protocol: str
    """In words."""
    samples: int
    """Labeled samples that it is fitted to."""
    read: int
    """Test samples that could be read; the others count as wrong."""
    top1: Share
    top5: Share | None
    """None with fewer than 6 classes."""
    subset_top1: Share | None
    """Accuracy among the classes that occur in the test set; None if all do."""
    real_top1: Share | None
    """Accuracy by ReaL labels; None if there are none."""
    ece: float
    """Expected calibration error of the test samples that could be read, a fraction."""
    ece_calibrated: float | None
    """The same after temperature scaling; None if there is none."""
    temperature: float | None
    """Of temperature scaling."""
    strength: float | None
    """Of a logistic regression: the inverse of its L2 penalty, scikit-learn's C."""
    gain: Share | None
    """Top-1 of the first network minus this one, by the same protocol; None of the first one itself."""

    @classmethod
    def of(cls, outcome: Outcome, recipe: Transfer) -> "Row":
        info, rows = outcome.classified.info, outcome.metrics
        ece, calibrated = require(rows, metric=ECE), find(rows, metric=CALIBRATED)
        shares = {name: Share.of(row) for name in (TOP5, SUBSET_TOP1, REAL_TOP1) if (row := find(rows, metric=name))}
        return cls(
            network=outcome.candidate.name,
            arch=outcome.candidate.model.arch,
            protocol=protocol_name(outcome, recipe),
            samples=outcome.samples,
            read=ece.n,
            top1=Share.of(require(rows, metric=TOP1)),
            top5=shares.get(TOP5),
            subset_top1=shares.get(SUBSET_TOP1),
            real_top1=shares.get(REAL_TOP1),
            ece=ece.value,
            ece_calibrated=calibrated.value if calibrated else None,
            temperature=info["temperature"],
            strength=info.get("strength"),
            gain=Share.of(outcome.gain) if outcome.gain else None,
        )


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All rows, in the order of the protocols, and what they are made from."""

    transfer: str
    classes: list[str]
    labeled: int
    """Labeled samples that are trained on."""
    held: int
    """Labeled samples that temperatures are found on."""
    n: int
    """Test samples."""
    rows: list[Row]
    warnings: tuple[str, ...]
    settings: dict[str, Any]
    """The recipe as plain JSON."""
    artifacts: dict[str, str]
    """<name>-<digest> → folder."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return dataclasses.asdict(self)


def protocol_name(outcome: Outcome, recipe: Transfer) -> str:
    """The protocol in words."""
    name = PROTOCOLS.get(outcome.protocol, "")
    if outcome.protocol == "few":
        name = f"logistic regression, {100 * (outcome.share or 0):g}% of labels"
    elif outcome.protocol == "knn":
        name = f"{min(recipe.knn.k, outcome.samples)} nearest neighbours"
    return name if recipe.layers == (PENULTIMATE,) or not outcome.layer else f"{name}, {outcome.layer}"


def write_transfer(run: TransferRun) -> tuple[Artifact, Summary]:
    """(the artifact of the transfer, its numbers). Builds what is missing first. summary.json and report.html contain
    the same numbers."""
    outcomes, recipe = run.outcomes, run.recipe
    labels, held = run.split
    table = metrics(run.root, recipe.name, [*(row for one in outcomes for row in one.metrics), *_gains(outcomes)])
    inputs = (*run.start.shards.values(), run.start.labels, run.start.test_labels)
    artifacts = [*inputs, *run.artifacts, table]
    summary = Summary(
        transfer=recipe.name,
        classes=list(run.start.classes),
        labeled=labels.info["samples"],
        held=held[1].info["samples"] if held else 0,
        n=run.start.test_labels.info["samples"],
        rows=[Row.of(one, recipe) for one in outcomes],
        warnings=run.start.warnings,
        settings=identity_of(recipe),
        artifacts={f"{a.name}-{a.digest}": a.uri.rpartition("/")[2] for a in artifacts},
    )

    def build(draft: Draft) -> Built:
        text = json.dumps(summary.to_dict(), indent=2, ensure_ascii=False)
        page = write_transfer_page(summary.to_dict())
        return Built([write_bytes(draft.uri, SUMMARY, text.encode()), write_bytes(draft.uri, PAGE, page.encode())], {})

    identity = {"settings": summary.settings, "artifacts": summary.artifacts}
    return run.root.make(f"transfer-{slug(recipe.name)}", identity, build), summary


def _gains(outcomes: tuple[Outcome, ...]) -> list[Metric]:
    return [one.gain for one in outcomes if one.gain]


def print_transfer(summary: Summary, folder: str, console: Console | None = None) -> None:
    """Prints the results of a transfer. `folder` contains its report.html. Plain text if not a terminal."""
    console = console or Console()

    def say(text: str, style: str = "") -> None:
        console.print(Text(encodable(text, console), style=style), width=min(console.width, WIDTH))

    say(f"transfer {summary.transfer}: {summary.labeled:,} labels of {len(summary.classes):,} classes", "bold")
    console.print(_table(summary, console), width=min(console.width, WIDTH))
    if any(row.gain for row in summary.rows):
        say(f"{summary.rows[0].network} minus the others, top-1 in points:")
        console.print(_differences(summary, console), width=min(console.width, WIDTH))
    if summary.held:
        say(f"calibrated: temperature scaling on {summary.held:,} samples that nothing is trained on")
    if (read := min(row.read for row in summary.rows)) < summary.n:
        say(f"{summary.n - read:,} of {summary.n:,} test samples could not be read and count as wrong", "bold red")
    for text in summary.warnings:
        say(f"warning: {text}", "bold red")
    for name in (PAGE, SUMMARY):
        console.print(Text(encodable(f"{folder.rstrip('/')}/{name}", console)), soft_wrap=True)


def _table(summary: Summary, console: Console) -> Table:
    some = [(name, field) for name, field in MORE.items() if any(getattr(row, field) for row in summary.rows)]
    table = _empty("network", "labels", "top-1", "95% interval", *(name for name, _ in some), "ECE", "calibrated")
    before = ""
    for row in summary.rows:
        if row.protocol != before:
            table.add_row(Text(encodable(row.protocol, console), style="bold"))
            before = row.protocol
        scaled = "-" if row.ece_calibrated is None else percentage(row.ece_calibrated)
        more = [percent(getattr(row, field).value) for _, field in some]
        top1 = percent(row.top1.value), percent_range(row.top1.low, row.top1.high)
        cells = *top1, *more, percentage(row.ece), scaled
        table.add_row(Text(encodable(f"  {row.network}", console)), f"{row.samples:,}", *cells)
    return table


def _differences(summary: Summary, console: Console) -> Table:
    table = _empty("minus", "points", "95% interval")
    before = ""
    for row in summary.rows:
        if row.gain is None:
            continue
        if row.protocol != before:
            table.add_row(Text(encodable(row.protocol, console), style="bold"))
            before = row.protocol
        ends = f"{points(row.gain.low)} to {points(row.gain.high)}"
        table.add_row(Text(encodable(f"  {row.network}", console)), points(row.gain.value), ends)
    return table


def _empty(first: str, *numbers: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table
