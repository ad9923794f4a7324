"""What a network reaches on a test set, with 95% intervals, and how two networks compare."""

from dataclasses import dataclass


def _within(low: float, value: float, high: float, what: str) -> None:
    # An interval of 0 of n or n of n may miss its end by one rounding.
    if not (low - 1e-9 <= value <= high + 1e-9):
        raise ValueError(f"{what}: {value} is not within its interval {low} to {high}")


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
