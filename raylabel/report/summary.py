"""The numbers of a run, declared once: summary.json holds them, the page and the terminal show them and no others.

Nothing here depends on when or where the run was made beyond `hardware` and the measured seconds, which artifacts keep;
so the same run gives the same bytes.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from raylabel.evaluate.results import (
    CLIP_TOP1,
    CONTROL,
    GAIN,
    PRECISION,
    PRETRAINED,
    STUDENT,
    TEACHER,
    TOP1,
    TOP5,
    Metric,
    find,
    require,
)
from raylabel.selection.leaks import Leaks
from raylabel.text import points

MODELS = {
    TEACHER: "teacher",
    CONTROL: "control",
    PRETRAINED: "student (pretrained)",
    STUDENT: "student (fine-tuned)",
}
"""What the models of a run are called where a person reads it; one that is not here is called by its id."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Where the samples went. Nothing disappears: samples = scored + rejected + duplicates, or ValueError."""

    samples: int
    """Rows of the corpus that were asked for."""
    scored: int
    """Samples with a row in SCORES that are no byte-identical copy of a sample with a smaller key."""
    rejected: int
    """Samples with a row in REJECTS."""
    duplicates: int
    """Samples with a row in SCORES that are a byte-identical copy of a sample with a smaller key."""
    labeled: int
    """Labeled samples that were trained on."""
    labeled_rejected: int
    """Labeled samples that could not be read: REJECTS of the labeled EXAMPLES."""

    def __post_init__(self) -> None:
        if self.samples != self.scored + self.rejected + self.duplicates:
            raise ValueError(
                f"samples do not add up: {self.samples} in, but {self.scored} scored + {self.rejected} rejected + "
                f"{self.duplicates} duplicates = {self.scored + self.rejected + self.duplicates}"
            )


@dataclass(frozen=True, kw_only=True)
class Reject:
    """One reason for which samples were not scored."""

    reason: str
    """As in REJECTS."""
    count: int
    """Samples."""


@dataclass(frozen=True, kw_only=True)
class Picks:
    """What selection kept."""

    total: int
    """Rows of PICKS: pairs of a sample and a label."""
    samples: int
    """Different samples among them."""
    k: int
    """Pairs kept per class at most."""
    p: int
    """Classes per sample that may compete."""
    rank: str
    """What orders a class's candidates: softmax (by log-odds, the same order) or logits."""
    per_class: list[int]
    """Pairs of each class, in the order of `Summary.classes`."""
    min: int
    """Smallest of per_class."""
    median: float
    """Median of per_class."""
    max: int
    """Largest of per_class."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a stage cost when it was built; a reused stage keeps its figures."""

    name: str
    """As in the story: index, teacher, label, select, ..."""
    seconds: float
    """Wall time of the build that completed."""
    images: int | None = None
    """Images processed (training counts each pass), or videos, of which training counts clips; None where that is no
    measure of the work."""
    images_per_second: float | None = None
    """images / the seconds they took, over all machines."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The numbers of a run. ValueError where they contradict each other."""

    run: str
    """Name of the recipe."""
    classes: list[str]
    """Class names, in label order."""
    counts: Counts
    """Where the samples went."""
    rejects: list[Reject]
    """Rejects by reason, most frequent first; they sum to counts.rejected."""
    metrics: list[Metric]
    """All that was measured, in the order in which it is shown; a gain_top1 of the fine-tuned student is among it."""
    picks: Picks
    """What selection kept."""
    leaks: Leaks | None = None
    """What of the test set was there to learn from; None where nobody looked."""
    stages: list[Stage]
    """In the order they ran."""
    hardware: str
    """What the stages were measured on."""
    settings: dict[str, Any]
    """The recipe, nested, as plain JSON."""
    artifacts: dict[str, str]
    """Name of each artifact -> name of its folder."""

    def __post_init__(self) -> None:
        if (rejected := sum(r.count for r in self.rejects)) != self.counts.rejected:
            raise ValueError(f"rejects by reason sum to {rejected}, but {self.counts.rejected} samples were rejected")
        if len(self.picks.per_class) != len(self.classes):
            raise ValueError(f"picks of {len(self.picks.per_class)} classes, but there are {len(self.classes)} classes")
        if (total := sum(self.picks.per_class)) != self.picks.total:
            raise ValueError(f"picks per class sum to {total}, but there are {self.picks.total} picks")
        rows = [(row.model, row.seed, row.dataset, row.split, row.metric) for row in self.metrics]
        if twice := [row for row in rows if rows.count(row) > 1]:
            raise ValueError(f"two metrics are of {twice[0]}")
        require(self.metrics, metric=GAIN, model=STUDENT)

    @property
    def gain(self) -> Metric:
        """Fine-tuned student minus control."""
        return require(self.metrics, metric=GAIN, model=STUDENT)

    @property
    def precision(self) -> Metric | None:
        """Share of picks whose label is the true one; None without a truth table."""
        return find(self.metrics, metric=PRECISION)

    @property
    def accuracies(self) -> dict[str, dict[str, int]]:
        """Model → id of the metric → its place in `metrics`, of what the table of accuracies shows: top-1, top-5 and
        that of clips on the samples that the gain is measured on; the last two may be missing."""
        gain, found = self.gain, {}
        for place, row in enumerate(self.metrics):
            same = (row.seed, row.dataset, row.split) == (gain.seed, gain.dataset, gain.split)
            if same and row.low is not None and row.metric in (TOP1, TOP5, CLIP_TOP1):
                found.setdefault(row.model, {})[row.metric] = place
        return {model: places for model, places in found.items() if TOP1 in places}

    @property
    def others(self) -> list[int]:
        """Places in `metrics` of those that neither the table of accuracies shows nor a line of their own."""
        shown = {place for places in self.accuracies.values() for place in places.values()}
        own = (self.gain, self.precision)
        return [place for place, row in enumerate(self.metrics) if place not in shown and row not in own]

    @property
    def inputs(self) -> str:
        """What training counted: 'images', or of videos 'clips'."""
        return "clips" if (self.settings.get("view") or {}).get("clip") else "images"

    @property
    def counted(self) -> str:
        """What the stages counted: 'images', or 'samples', where that is videos in one and clips in another."""
        return "images" if self.inputs == "images" else "samples"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, with the gain once more, and its verdict in words beside its numbers."""
        gain = self.gain
        told = {"value": gain.value, "low": gain.low, "high": gain.high, "n": gain.n, "verdict": verdict(gain)}
        return dataclasses.asdict(self) | {"gain": told}


def interval(row: Metric) -> tuple[float, float]:
    """The ends of the interval of a row that has one."""
    if row.low is None or row.high is None:
        raise ValueError(f"{row.metric} of {row.model} has no interval")
    return row.low, row.high


def headline(gain: Metric) -> str:
    """What may be said: the difference where the interval leaves zero out, and that there is none where not."""
    low, high = interval(gain)
    if low > 0:
        return f"{points(gain.value)} points"
    if high < 0:
        return f"measurable loss: {points(gain.value)} points"
    return "no measurable gain"


def detail(gain: Metric) -> str:
    """The numbers behind the headline."""
    low, high = interval(gain)
    text = f"95% interval {points(low)} to {points(high)}"
    return text if low > 0 or high < 0 else f"{points(gain.value)} points, {text}"


def verdict(gain: Metric) -> str:
    """One line: "+3.4 points (95% interval +2.6 to +4.2)"."""
    return f"{headline(gain)} ({detail(gain)})"
