"""The reject limit: a run whose input is mostly unreadable ends in an error."""

import collections
from collections.abc import Mapping

from raylabel.errors import InputError

ENOUGH = 10_000  # samples after which the share of rejects so far is significant


class RejectTally:
    """Counts samples and their rejects, by reason."""

    def __init__(self, total: int, limit: float, noun: str = "samples"):
        """`total`: samples that will be counted; `limit`: share of them that may be rejects, 0 to 1."""
        self.total, self._limit, self._noun = total, limit, noun
        self.seen = self.rejected = 0
        self.reasons: collections.Counter[str] = collections.Counter()

    def add(self, samples: int, reasons: Mapping[str, int]) -> None:
        """Adds `samples` to the count, and those of them that are rejects, by reason."""
        self.seen += samples
        self.rejected += sum(reasons.values())
        self.reasons.update(reasons)

    def check(self) -> None:
        """InputError if more than the limit of the samples so far are rejects; not before ENOUGH samples."""
        if self.seen >= min(self.total, ENOUGH) and self.rejected > self._limit * self.seen:
            self._stop()

    def close(self) -> None:
        """InputError if too many of all samples are rejects, or all are. AssertionError if samples are missing."""
        if self.seen != self.total:
            raise AssertionError(f"{self.total} samples in, {self.seen} out")
        self.check()
        if self.rejected == self.total:
            self._stop()

    def _stop(self) -> None:
        top = ", ".join(f"{reason} {count:,}" for reason, count in self.reasons.most_common(3))
        raise InputError(
            f"{self.rejected:,} of {self.seen:,} {self._noun} could not be read, the limit is {self._limit:.0%} "
            f"(most frequent reasons: {top}): fix the corpus, or raise --label.reject-limit"
        )
