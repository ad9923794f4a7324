"""The results of an experiment that compares trainings: tables, curves, and what a source found beside what was found
here; summary.json and report.html."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from raylabel.evaluate.learning_curve import LearningCurve
from raylabel.evaluate.results import Metric
from raylabel.experiments.looks import Looks
from raylabel.experiments.page import write_comparison_page
from raylabel.store.artifact import Artifact, Built, Draft, Root, write_bytes
from raylabel.store.names import PAGE, SUMMARY
from raylabel.text import points, slug

Form = Literal["percent", "points", "epochs", "nats", "count", "fraction"]
Verdict = Literal["agrees", "disagrees", "mixed", "not measurable", "one run"]


@dataclass(frozen=True, kw_only=True)
class Value:
    """A number, and its 95% interval if it has one."""

    value: float
    """A fraction of percents and points."""
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, row: Metric) -> Self:
        return cls(value=row.value, low=row.low, high=row.high)


@dataclass(frozen=True, kw_only=True)
class Column:
    title: str
    form: Form
    plotted: bool = False
    """Whether it is drawn with its interval."""


@dataclass(frozen=True, kw_only=True)
class Row:
    name: str
    cells: Sequence[Value | None]
    """One for each column; None where nothing was measured, or what was asked for was not reached."""


@dataclass(frozen=True, kw_only=True)
class Table:
    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    note: str
    """What the columns are."""

    def without_empty_columns(self) -> "Table":
        used = [i for i in range(len(self.columns)) if any(row.cells[i] for row in self.rows)]
        rows = [dataclasses.replace(row, cells=[row.cells[i] for i in used]) for row in self.rows]
        return dataclasses.replace(self, columns=[self.columns[i] for i in used], rows=rows)


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Accuracies while networks are trained or from layer to layer, or other shares."""

    title: str
    curves: Mapping[str, Sequence[tuple[float, float]]]
    """Name → (epochs, accuracy) of its points."""
    axis: Literal["epochs", "rounds", "layers"] = "epochs"
    """What is counted on the first axis."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A claim of a source."""

    claim: str
    source: str
    """What the source found."""
    here: str
    """What was found here."""
    verdict: Verdict
    """By the intervals of all differences: some are above zero, some below, both, or none is. one run: there is no
    interval."""

    @classmethod
    def of_gains(cls, claim: str, source: str, gains: Mapping[str, Metric]) -> Self:
        """Of a claim that differences are above 0: what each is of → the difference."""
        texts, above, below = list[str](), list[bool](), list[bool]()
        for of, gain in gains.items():
            assert gain.low is not None and gain.high is not None
            texts.append(f"{of}: {points(gain.value)} points ({points(gain.low)} to {points(gain.high)})")
            above.append(gain.low > 0)
            below.append(gain.high < 0)
        mixed = any(above) and any(below)
        verdict: Verdict = (
            "mixed" if mixed else "agrees" if any(above) else "disagrees" if any(below) else "not measurable"
        )
        return cls(claim=claim, source=source, here="; ".join(texts), verdict=verdict)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All results of an experiment, and what they are made from."""

    experiment: str
    """What kind of experiment it is, as the command that runs it."""
    name: str
    headline: str
    detail: str
    findings: Sequence[Finding]
    tables: Sequence[Table]
    curves: Sequence[Curves]
    warnings: Sequence[str]
    settings: dict[str, Any]
    """The recipe as plain JSON."""
    artifacts: dict[str, str] = field(default_factory=dict)
    """<name>-<digest> → folder."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return json.loads(json.dumps(dataclasses.asdict(self), allow_nan=False))


def write_comparison(
    root: Root, comparison: Comparison, inputs: Sequence[Artifact], looks: Callable[[], Sequence[Looks]] = tuple
) -> tuple[Artifact, Comparison]:
    """(the artifact of the experiment, its results with the artifacts that they are made from). summary.json and
    report.html contain the same numbers; `looks` makes the pictures of the page, if the artifact does not exist."""
    artifacts = {f"{a.name}-{a.digest}": a.uri.rpartition("/")[2] for a in inputs}
    comparison = dataclasses.replace(comparison, artifacts=artifacts)
    data = comparison.to_dict()

    def build(draft: Draft) -> Built:
        text = json.dumps(data, indent=2, ensure_ascii=False)
        page = write_comparison_page(data, looks())
        return Built([write_bytes(draft.uri, SUMMARY, text.encode()), write_bytes(draft.uri, PAGE, page.encode())], {})

    identity = {"settings": comparison.settings, "artifacts": artifacts}
    return root.make(f"{comparison.experiment}-{slug(comparison.name)}", identity, build), comparison


def epochs_of(curve: LearningCurve, samples: int) -> list[tuple[float, float]]:
    """(epochs, accuracy) of the points of a training on so many samples."""
    return [(point.images / samples, point.accuracy) for point in curve.points]
