"""Which samples are selected: the fields of a selection.

Letters: C classes, K samples kept per class on average.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from raylabel.errors import InputError
from raylabel.store.artifact import ADDED_LATER

MEASURED = ("corpus", "zipf")
"""Values of `counts` that need the number of samples of each class in the corpus."""
TAGGED = "tags"
"""The value of `counts` that needs the tagged samples of each class."""


@dataclass(frozen=True, kw_only=True)
class Select:
    """Which samples are selected for each class."""

    k: int = 16_000
    """K, samples kept per class: its K best candidates. 16,000 is the paper's for 100 M samples; scale it with N."""
    p: int = 10
    """P, classes kept per sample: a sample is a candidate for its P best classes. The paper has 10 of 1,000."""
    rank: Literal["softmax", "logits", "random"] = "softmax"
    """What orders a class's list: 'softmax' (log-odds, which have the same order), 'logits' (the raw output), or
    'random', a random number, as a control of ranking (Yalniz et al. 2019, table 5)."""
    repeat_videos: bool = False
    """Whether a class may list several segments of one source video; otherwise it lists only the best of them."""
    counts: str = field(default="", metadata=ADDED_LATER)
    """How many samples each class has, C * K in all. Empty: K each, as the paper recommends. 'corpus': in proportion to
    the samples of the corpus whose best class it is. 'zipf': 1/r of the largest, with the classes ordered by these
    numbers, r from 1. 'tags': in proportion to the samples that have a tag of the class, of the recipe's `tags`. Or a
    CSV file with the columns `class` and `count`, to which they are in proportion (the paper's
    unbalanced lists, table 5: the counts of hashtags)."""
    minimum: float | None = field(default=None, metadata=ADDED_LATER)
    """Least log-odds of a pick, or with rank 'logits' its least logit: 0 is a probability of 0.5. None: no limit."""
    precision: float | None = field(default=None, metadata=ADDED_LATER)
    """Least expected precision of each class's list, above 0 and up to 1: the list is the longest one that has it, of
    at most K picks. The audit expects it from labeled samples that the teacher has not learned from: see
    selection/audit.py. None: lists are not shortened."""
    fill: bool = field(default=False, metadata=ADDED_LATER)
    """Whether the list of a class with too few candidates is filled by repeating it, from its first sample on."""
    allow_empty: bool = field(default=False, metadata=ADDED_LATER)
    """Continue if a class has no candidate, with a warning. Otherwise that is an error."""
    seed: int = field(default=0, metadata=ADDED_LATER)
    """Seed of rank 'random'."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InputError(f"select.k is {self.k}: keep at least 1 sample per class")
        if self.p < 1:
            raise InputError(f"select.p is {self.p}: keep at least 1 class per sample")
        if self.rank not in ("softmax", "logits", "random"):
            raise InputError(f"select.rank is '{self.rank}': choose 'softmax', 'logits' or 'random'")
        if self.minimum is not None and not np.isfinite(self.minimum):
            raise InputError(f"select.minimum is {self.minimum}: give a number")
        if self.precision is not None and not 0 < self.precision <= 1:
            raise InputError(f"select.precision is {self.precision}: give a share above 0 and up to 1")
        if self.precision is not None and (self.fill or self.rank == "random"):
            other = "select.fill is set" if self.fill else "select.rank is 'random'"
            raise InputError(f"select.precision is {self.precision}, but {other}: unset one of them")
        if self.counts not in ("", TAGGED, *MEASURED) and not self.counts.lower().endswith(".csv"):
            raise InputError(f"select.counts is '{self.counts}': choose 'corpus', 'zipf', 'tags', or give a .csv file")
        if not 0 <= self.seed < 1 << 63:
            raise InputError(f"select.seed is {self.seed}: give an integer of 0 or more, below 2^63")
        if self.seed and self.rank != "random":
            raise InputError(f"select.seed is {self.seed}, but select.rank is '{self.rank}': unset one of them")

    @property
    def words(self) -> str:
        """What differs from the lists of the paper, in words; empty if nothing does."""
        found = {
            f"lists of different lengths, K on average ({self.counts})": self.counts,
            f"{self.column.replace('_', '-')} of at least {self.minimum}": self.minimum is not None,
            "short lists filled by repeating them": self.fill,
            f"lists with an expected precision of at least {self.precision}": self.precision is not None,
        }
        return "; ".join(text for text, given in found.items() if given)

    @property
    def column(self) -> Literal["log_odds", "logits"]:
        """The column of SCORES that `minimum` is compared with, and that orders the lists unless this is random."""
        return "logits" if self.rank == "logits" else "log_odds"

    def check_against(self, classes: int, kept: int) -> None:
        """InputError if P is above `classes`, the number of classes, or `kept`, the classes per sample in SCORES."""
        if self.p > classes:
            raise InputError(f"select.p is {self.p} but there are {classes} classes: lower --select.p to {classes}")
        if self.p > kept:
            raise InputError(
                f"select.p is {self.p} but the scores hold the {kept} best classes of each sample: "
                f"lower --select.p to {kept}, or raise --label.p, which scores again"
            )
