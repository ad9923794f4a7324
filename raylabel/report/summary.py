"""The numbers of a run, declared once: summary.json holds them, the page and the terminal show them and no others.

Nothing here depends on when or where the run was made beyond `hardware` and the measured seconds, which artifacts keep;
so the same run gives the same bytes.
"""

import dataclasses
import unicodedata
from dataclasses import dataclass
from typing import Any

BIDI_CONTROLS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def printable(text: str) -> str:
    """The text on one line, without what could steer a terminal or reorder a page: control characters, bidirectional
    overrides and lone surrogates. Letters of every script stay."""
    kept = []
    for char in text:
        category = unicodedata.category(char)
        if char in "\t\n\r" or category in ("Zl", "Zp"):
            kept.append(" ")
        elif category not in ("Cc", "Cs") and unicodedata.bidirectional(char) not in BIDI_CONTROLS:
            kept.append(char)
    return "".join(kept)


def _within(low: float, value: float, high: float, what: str) -> None:
    # An interval of 0 of n or n of n may miss its end by one rounding.
    if not (low - 1e-9 <= value <= high + 1e-9):
        raise ValueError(f"{what}: {value} is not within its interval {low} to {high}")


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
class Accuracy:
    """One model on the test set. Intervals are 95% Wilson intervals; everything but `n` is a fraction, 0 to 1."""

    model: str
    """teacher | control (the student's architecture trained on the labeled set alone) | student (pretrained) |
    student (fine-tuned)."""
    top1: float
    """Share of test samples whose best class is the true one; of a video, that of the mean over its clips."""
    top1_low: float
    """Lower end of the interval of top1."""
    top1_high: float
    """Upper end of the interval of top1."""
    top5: float | None = None
    """Share of test samples with the true class among the best five; None with fewer than 6 classes."""
    top5_low: float | None = None
    """Lower end of the interval of top5."""
    top5_high: float | None = None
    """Upper end of the interval of top5."""
    clip_top1: float | None = None
    """Mean over the test videos of the share of their clips whose own best class is the true one; None for pictures."""
    clip_top1_low: float | None = None
    """Lower end of the interval of clip_top1: as if each video's clips were right or wrong all together, n samples."""
    clip_top1_high: float | None = None
    """Upper end of the interval of clip_top1."""
    n: int
    """Test samples."""

    def __post_init__(self) -> None:
        _within(self.top1_low, self.top1, self.top1_high, f"top-1 of {self.model}")
        for name, value, low, high in (
            ("top-5", self.top5, self.top5_low, self.top5_high),
            ("clip top-1", self.clip_top1, self.clip_top1_low, self.clip_top1_high),
        ):
            if low is not None and value is not None and high is not None:
                _within(low, value, high, f"{name} of {self.model}")
            elif (value, low, high) != (None, None, None):
                found = (low, value, high)
                raise ValueError(
                    f"{name} of {self.model}: value and interval are given together or not at all, got {found}"
                )


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Top-1 of the fine-tuned student minus that of the control, paired over the same test samples."""

    value: float
    """Difference of two fractions, -1 to 1; 0.01 is one point."""
    low: float
    """Lower end of the 95% interval of `value`."""
    high: float
    """Upper end of the 95% interval of `value`."""
    n: int
    """Test samples."""

    def __post_init__(self) -> None:
        _within(self.low, self.value, self.high, "gain")

    @property
    def headline(self) -> str:
        """What may be said: the difference where the interval leaves zero out, and that there is none where not."""
        if self.low > 0:
            return f"{100 * self.value:+.1f} points"
        if self.high < 0:
            return f"measurable loss: {100 * self.value:+.1f} points"
        return "no measurable gain"

    @property
    def detail(self) -> str:
        """What stands behind the headline."""
        interval = f"95% interval {100 * self.low:+.1f} to {100 * self.high:+.1f}"
        return interval if self.low > 0 or self.high < 0 else f"{100 * self.value:+.1f} points, {interval}"

    @property
    def verdict(self) -> str:
        """One line: "+3.4 points (95% interval +2.6 to +4.2)"."""
        return f"{self.headline} ({self.detail})"


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
class Leaks:
    """What of the test set stands among what was learned from too."""

    known: int
    """Test samples whose source video is known."""
    videos: int
    """Source videos of the test set that are also in the labeled set or in the corpus."""
    labeled: int
    """Labeled samples of these videos."""
    unlabeled: int
    """Scored samples of the corpus of these videos."""
    copies: int
    """Scored samples of the corpus that are a test sample byte for byte."""
    test: int
    """Test samples of these videos, or with such a copy."""
    n: int
    """Test samples."""
    examples: list[str]
    """Names of the first of these videos."""

    @property
    def sentence(self) -> str:
        """What there is to say of it; empty where no source videos are known and nothing is shared."""
        if not self.test:
            none = "no source video of the test set is in the labeled set or in the corpus"
            return none if self.known else ""
        said = []
        if self.videos:
            more = ", ..." if self.videos > len(self.examples) else ""
            said.append(
                f"{self.videos:,} of its source videos ({', '.join(self.examples)}{more}) are also those of "
                f"{self.labeled:,} labeled samples and {self.unlabeled:,} of the corpus"
            )
        if self.copies:
            said.append(f"{self.copies:,} samples of the corpus are the same files")
        return f"{self.test:,} of {self.n:,} test samples leak: {'; '.join(said)}"


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
    accuracies: list[Accuracy]
    """The models on the test set, in the order they were trained."""
    gain: Gain
    """Fine-tuned student minus control."""
    picks: Picks
    """What selection kept."""
    precision: float | None = None
    """Share of picks whose label is the true one, 0 to 1; None without a truth table."""
    precision_n: int | None = None
    """Picks whose true label is known."""
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

    @property
    def inputs(self) -> str:
        """What training counted: 'images', or of videos 'clips'."""
        return "clips" if (self.settings.get("view") or {}).get("clip") else "images"

    @property
    def counted(self) -> str:
        """What the stages counted: 'images', or 'samples', where that is videos in one and clips in another."""
        return "images" if self.inputs == "images" else "samples"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, with the gain's verdict in words beside its numbers."""
        data = dataclasses.asdict(self)
        data["gain"]["verdict"] = self.gain.verdict
        return data
