"""The numbers of a run, declared once: summary.json holds them, the page and the terminal show them and no others.

Nothing here depends on when or where the run was made beyond `hardware` and the measured seconds, which artifacts keep;
so the same run gives the same bytes.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from raylabel.evaluate.results import Accuracy, Gain
from raylabel.selection.leaks import Leaks


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
