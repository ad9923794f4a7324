"""Axes of plots: the positions of values, and the ticks."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from raylabel.text import compact


@dataclass(frozen=True)
class Axis:
    """Maps values to positions from 0 to 1; has the ticks as (position, text)."""

    low: float
    high: float
    log: bool
    ticks: list[tuple[float, str]]

    def at(self, value: float) -> float:
        """The position of a value, clipped to 0 to 1."""
        if self.log:
            value = math.log10(max(value, 10**self.low))
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)


def linear(low: float, high: float, form: Callable[[float], str]) -> Axis:
    """An axis that starts and ends on multiples of 1, 2 or 5 times a power of ten and covers low to high."""
    span = (high - low) or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(m for m in (1, 2, 5, 10) if m * step >= span / 4 * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    values = [i * step for i in range(first, last + 1)]
    ticks = [(i / (last - first), form(round(v, 12))) for i, v in enumerate(values)]
    return Axis(values[0], values[-1], False, ticks)


def log(low: float, high: float) -> Axis:
    """A logarithmic axis of `low` (> 0) to `high`; ticks at powers of ten, also at 2 and 5 times them if few."""
    first, last = math.log10(low), math.log10(high)
    last = max(last, first + 0.1)
    decades = range(math.floor(first), math.ceil(last) + 1)
    marks = [10.0**d for d in decades]
    if last - first < 2.5:
        marks = [m * 10.0**d for d in decades for m in (1, 2, 5)]
    elif len(marks) > 6:
        marks = marks[:: math.ceil(len(marks) / 6)]
    inside = [(math.log10(m), compact(m)) for m in marks if first - 1e-9 <= math.log10(m) <= last + 1e-9]
    return Axis(first, last, True, [((x - first) / (last - first), text) for x, text in inside])
