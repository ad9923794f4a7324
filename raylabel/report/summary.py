"""The numbers of a run, declared once: summary.json contains them, and the page and the terminal show no others.

Only `hardware` and the measured seconds depend on when and where the run was made, and they are stored in artifacts. So
the same run gives the same bytes.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from raylabel.evaluate.classify import wilson
from raylabel.evaluate.learning_curve import Measured
from raylabel.evaluate.results import (
    CLIP_TOP1,
    CONTROL,
    GAIN,
    MIXED,
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
from raylabel.report.control import ControlUsed
from raylabel.report.head import FittedHead, ZeroShotHead
from raylabel.selection.audit import Audited
from raylabel.selection.leaks import Leaks
from raylabel.text import percent, percent_range, points

MODELS = {
    TEACHER: "teacher",
    CONTROL: "control",
    PRETRAINED: "student (pretrained)",
    STUDENT: "student (fine-tuned)",
    MIXED: "student (mixed)",
}
"""The names of models for display; a model that is not listed is shown with its id."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The number of samples by outcome. ValueError unless samples = scored + rejected + duplicates +
    near_duplicates."""

    samples: int
    """Rows of the corpus that were to be labeled."""
    scored: int
    """Samples with a row in SCORES, without the copies that are counted below."""
    rejected: int
    """Samples with a row in REJECTS."""
    duplicates: int
    """Samples with a row in SCORES that are a byte-identical copy of a sample with a smaller key."""
    near_duplicates: int | None = None
    """Samples with a row in COPIES: near-duplicates of others in the corpus. None: they were not searched for."""
    labeled: int
    """Labeled samples that were trained on."""
    labeled_rejected: int
    """Labeled samples that could not be read: REJECTS of the labeled EXAMPLES."""

    def __post_init__(self) -> None:
        near, total = self.near_duplicates or 0, self.scored + self.rejected + self.duplicates
        if self.samples != total + near:
            raise ValueError(
                f"samples do not add up: {self.samples} in, but {self.scored} scored + {self.rejected} rejected + "
                f"{self.duplicates} duplicates + {near} near-duplicates = {total + near}"
            )


@dataclass(frozen=True, kw_only=True)
class Reject:
    """One reason for which samples were not scored."""

    reason: str
    """As in REJECTS."""
    count: int
    """Samples."""


@dataclass(frozen=True, kw_only=True)
class PassedOver:
    """Files with one extension that were found beside the samples of a corpus when it was indexed, and are none."""

    corpus: str
    """labeled, unlabeled or test."""
    extension: str
    """With its dot; or what the files are instead, for example hidden."""
    count: int
    """Files, members of tars, or folders whose name starts with a dot."""
    examples: list[str]
    """Up to three of them."""


@dataclass(frozen=True, kw_only=True)
class Picks:
    """The result of the selection."""

    total: int
    """Rows of PICKS: pairs of a sample and a label."""
    samples: int
    """Distinct samples among them."""
    k: int
    """Maximum number of pairs per class."""
    p: int
    """Classes per sample that may compete."""
    rank: str
    """The order of the candidates of a class: softmax (by log-odds, which gives the same order), logits or random."""
    policy: str = ""
    """What else decides which of them are selected; empty if nothing does."""
    per_class: list[int]
    """Pairs of each class, in the order of `Summary.classes`."""
    min: int
    """Smallest of per_class."""
    median: float
    """Median of per_class."""
    max: int
    """Largest of per_class."""


@dataclass(frozen=True, kw_only=True)
class Validated:
    """How the accuracy of a network on a labeled set rose while it was trained."""

    training: str
    """teacher, pretrain, finetune or control."""
    split: str
    """validation, or labeled: what was trained on."""
    n: int
    """Samples of the set."""
    points: list[Measured]
    """In the order of the training."""
    kept: int
    """Images of the training after which the network was as it is kept."""
    reached: dict[str, int | None]
    """Accuracy that the recipe asks for, a fraction → images after which it was first measured; None if never."""
    area: float
    """Mean accuracy over the training, a fraction."""

    def sentence(self, inputs: str) -> str:
        """One line. `inputs`: what the images are, 'images' or 'clips'."""
        kept = next(point for point in self.points if point.images == self.kept)
        ends = percent_range(*wilson(round(kept.accuracy * self.n), self.n))
        text = f"{self.training} on {self.split} (n = {self.n:,}): {percent(kept.accuracy)} ({ends})"
        text += f" after {kept.images:,} {inputs}, {percent(self.area)} on average over the training"
        for target, images in self.reached.items():
            text += f", {percent(float(target))} " + (f"after {images:,}" if images is not None else "not reached")
        return text


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The cost of a stage when it was built. A reused stage keeps its numbers."""

    name: str
    """teacher, label, select, ..."""
    seconds: float
    """Wall time of the build that completed."""
    images: int | None = None
    """Images processed; training counts each pass. Of videos: videos, and clips in training. None if images do not
    measure the work."""
    images_per_second: float | None = None
    """images / seconds, over all nodes."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The numbers of a run. ValueError if they contradict each other."""

    run: str
    """Name of the recipe."""
    classes: list[str]
    """Class names, in label order."""
    counts: Counts
    """Samples by outcome."""
    rejects: list[Reject]
    """Rejects by reason, most frequent first; they sum to counts.rejected."""
    passed_over: list[PassedOver] | None = field(default_factory=list)
    """Files that are not samples, by corpus and extension; None if an earlier version indexed a corpus, without
    counting them."""
    metrics: list[Metric]
    """All metrics, in the order in which they are shown; one of them is gain_top1 of the fine-tuned student."""
    test_per_class: list[int]
    """Test samples of each class, in the order of `classes`; the accuracies do not cover a class that has none."""
    control: ControlUsed
    """The control that the gain is over."""
    head: FittedHead | None = None
    """The head of the teacher; None if it is not fitted to the features of a frozen network."""
    zero_shot: ZeroShotHead | None = None
    """The head of the teacher; None if it is not computed from the names of the classes."""
    picks: Picks
    """The result of the selection."""
    audit: Audited | None = None
    """The precision that is expected of the picks; None without labeled samples that tell it."""
    validated: list[Validated] = field(default_factory=list)
    """Trainings that were validated meanwhile."""
    leaks: Leaks | None = None
    """Test samples that are also in the training data; None if this was not checked."""
    warnings: tuple[str, ...] = ()
    """What the user should check in the inputs, one sentence each."""
    stages: list[Stage]
    """The stages, in the order in which they ran."""
    hardware: str
    """The hardware on which the stages were measured."""
    settings: dict[str, Any]
    """The recipe, nested, as plain JSON."""
    artifacts: dict[str, str]
    """Name of each artifact -> name of its folder."""

    def __post_init__(self) -> None:
        if (rejected := sum(r.count for r in self.rejects)) != self.counts.rejected:
            raise ValueError(f"rejects by reason sum to {rejected}, but {self.counts.rejected} samples were rejected")
        if len(self.picks.per_class) != len(self.classes):
            raise ValueError(f"picks of {len(self.picks.per_class)} classes, but there are {len(self.classes)} classes")
        if len(self.test_per_class) != len(self.classes):
            raise ValueError(f"test samples of {len(self.test_per_class)} classes, but there are {len(self.classes)}")
        if (total := sum(self.picks.per_class)) != self.picks.total:
            raise ValueError(f"picks per class sum to {total}, but there are {self.picks.total} picks")
        rows = [(row.model, row.seed, row.dataset, row.split, row.metric) for row in self.metrics]
        if twice := [row for row in rows if rows.count(row) > 1]:
            raise ValueError(f"two metrics have the key {twice[0]}")
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
        """Model → id of the metric → its index in `metrics`, for the table of accuracies: top-1, and if present
        top-5 and clip top-1, on the samples on which the gain is measured."""
        gain, found = self.gain, {}
        for index, row in enumerate(self.metrics):
            same = (row.seed, row.dataset, row.split) == (gain.seed, gain.dataset, gain.split)
            if same and row.low is not None and row.metric in (TOP1, TOP5, CLIP_TOP1):
                found.setdefault(row.model, {})[row.metric] = index
        return {model: indices for model, indices in found.items() if TOP1 in indices}

    @property
    def others(self) -> list[int]:
        """Indices in `metrics` of the metrics that are not in the table of accuracies and have no line of their own."""
        shown = {index for indices in self.accuracies.values() for index in indices.values()}
        own = (self.gain, self.precision)
        curves = {each.split for each in self.validated}
        others = [i for i, row in enumerate(self.metrics) if i not in shown and row not in own]
        return [i for i in others if self.metrics[i].split not in curves]

    @property
    def inputs(self) -> str:
        """What training counts: 'images', or 'clips' of videos."""
        return "clips" if (self.settings.get("view") or {}).get("clip") else "images"

    @property
    def counted(self) -> str:
        """What the stages count: 'images', or 'samples' if some stages count videos and others clips."""
        return "images" if self.inputs == "images" else "samples"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, plus the gain with its verdict in words."""
        gain = self.gain
        values = {"value": gain.value, "low": gain.low, "high": gain.high, "n": gain.n, "verdict": verdict(gain)}
        return dataclasses.asdict(self) | {"gain": values}


def interval(row: Metric) -> tuple[float, float]:
    """The ends of the interval of a row that has one."""
    if row.low is None or row.high is None:
        raise ValueError(f"{row.metric} of {row.model} has no interval")
    return row.low, row.high


def headline(gain: Metric) -> str:
    """The gain in words: the difference if its interval excludes zero, otherwise that there is no measurable gain."""
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
