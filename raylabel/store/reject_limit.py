"""Stops a run whose input is mostly unreadable: the count of samples and rejects, and the error."""

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
        """Counts more samples, those with rejects among them."""
        self.seen += samples
        self.rejected += sum(reasons.values())
        self.reasons.update(reasons)

    def check(self) -> None:
        """InputError if more than the limit of the samples so far are rejects; not yet if those are few."""
        if self.seen >= min(self.total, ENOUGH) and self.rejected > self._limit * self.seen:
            self._stop()

    def close(self) -> None:
        """InputError if more than the limit of all samples, or all, are rejects. AssertionError if any is missing."""
        if self.seen != self.total:
            raise AssertionError(f"{self.total} samples in, {self.seen} out")
        self.check()
        if self.rejected == self.total:
            self._stop()

    def _stop(self) -> None:
        top = ", ".join(f"{reason} {count:,}" for reason, count in self.reasons.most_common(3))
        raise InputError(
            f"{self.rejected:,} of {self.seen:,} {self._noun} could not be read, with a limit of {self._limit:.0%} "
            f"(top reasons: {top}): fix the corpus, or raise --label.reject-limit"
        )
