"""The plots of a sweep: accuracy against each numeric field, and all fields together as parallel coordinates.

Positions are pixels of an SVG view; y grows downwards.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raylabel.report.axes import Axis, linear, log
from raylabel.sweep.result import Sweep, Trial
from raylabel.text import compact, percent, percent_range, text_of

K, P = "select.k", "select.p"
SERIES = 6
"""Colours in the style of the pages; further series use the same colours, dashed."""
LINES = 2 * SERIES
"""A field with more values than this is not drawn as one line per value."""
TICKS = 8
"""A field with up to this many values has a tick for each, if there is room."""
CATEGORIES = 14
"""The most labels on an axis of words."""
BARS = 40
"""Up to this many trials have their intervals drawn, if no line joins them."""
LETTER = 6.5
"""Width of a letter of a label, pixels."""


@dataclass(frozen=True)
class Mark:
    """A trial in a plot."""

    style: str
    x: float
    y: float
    low: float
    high: float
    """`low` and `high`: y of the ends of its interval."""
    hollow: bool
    """Whether the student was only pre-trained."""
    title: str


@dataclass(frozen=True)
class Plot:
    """Accuracy against one field."""

    WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 440, 250, 46, 14, 10, 40
    field: str
    x_title: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    legend: list[tuple[str, str]]
    """Name and style of each line; empty if there is only one."""
    lines: list[tuple[str, str]]
    """Style and SVG path of each."""
    marks: list[Mark]
    """The best trial at each value, with its interval."""
    dots: list[Mark]
    """All others."""


@dataclass(frozen=True)
class TrialLine:
    """The line of a trial in the parallel coordinates."""

    number: int
    style: str
    path: str
    end: tuple[float, float] | None
    """(x, y) of its accuracy; None if the trial failed."""
    hollow: bool
    title: str


@dataclass(frozen=True)
class Parallel:
    """One vertical axis for each field and for the accuracy, and a line through them for each trial."""

    HEIGHT, TOP, BOTTOM, SIDE = 380, 54, 14, 70
    width: int
    axes: list[tuple[float, str, list[tuple[float, str]]]]
    """x, name, and ticks (y, text)."""
    trials: list[TrialLine]
    """The best trial is last, so that it is drawn on top."""


def swept(sweep: Sweep) -> list[str]:
    """The fields that have more than one value."""
    return [name for name in sweep.best.settings if len(values_of(sweep.trials, name)) > 1]


def values_of(trials: Sequence[Trial], name: str) -> list[Any]:
    """The distinct values of the field: sorted if they are numbers, else in the order of the trials."""
    trials = sorted(trials, key=lambda trial: trial.number)
    values = list(dict.fromkeys(trial.settings[name] for trial in trials))
    return sorted(values) if _numeric(values) else values


def plots(sweep: Sweep) -> list[Plot]:
    """Accuracy against each numeric field that was swept: K, then P, then the others in the order of the space."""
    names = [name for name in swept(sweep) if _numeric(values_of(sweep.trials, name))]
    names.sort(key=lambda name: (K, P).index(name) if name in (K, P) else 2)
    return [_plot(sweep, name, names) for name in names]


def describe(trial: Trial) -> str:
    """The trial in one line, for a tooltip."""
    settings = ", ".join(f"{name} {text_of(value)}" for name, value in trial.settings.items())
    return f"{_outcome(trial)}; {settings}"


def _outcome(trial: Trial) -> str:
    if trial.state == "failed" or trial.accuracy is None or trial.low is None or trial.high is None:
        return f"trial {trial.number}: {trial.state}"
    interval = f"{percent(trial.accuracy)} ({percent_range(trial.low, trial.high)})"
    return f"trial {trial.number}: {interval}" + (", pre-trained only" if trial.state == "stopped" else "")


def _numeric(values: Sequence[Any]) -> bool:
    return all(type(value) in (int, float) for value in values)


def _field_axis(name: str, values: Sequence[float], length: float, upright: bool = False) -> Axis:
    """An axis around the sorted values. Logarithmic for K, for learning rates, and if the largest value is at least 4
    times the smallest."""
    low, high = values[0], values[-1]
    is_log = low > 0 and (name == K or name.endswith(".lr") or high / low >= 4)
    is_log = is_log and math.log10(high) - math.log10(low) > 1e-9  # neighboring floats may have the same logarithm
    base = log(low, high) if is_log else linear(low, high, compact)
    first, last = (math.log10(low), math.log10(high)) if is_log else (low, high)
    pad = 0.06 * (last - first)
    axis = Axis(first - pad, last + pad, is_log, [])
    ticks = [(axis.at(value), _number(value)) for value in values]
    if len(values) > TICKS or not _fit(ticks, length, upright):
        wide, inner = axis.high - axis.low, base.high - base.low
        ticks = [((base.low + at * inner - axis.low) / wide, text) for at, text in base.ticks]
        ticks = [(at, text) for at, text in ticks if 0 <= at <= 1]
        if len(ticks) < 2:
            ticks = [(axis.at(value), _number(value)) for value in (low, high)]
    return Axis(axis.low, axis.high, is_log, ticks)


def _fit(ticks: Sequence[tuple[float, str]], length: float, upright: bool) -> bool:
    """Whether no label overlaps with the next one."""
    need = [15.0 if upright else LETTER * (len(a) + len(b)) / 2 + 6 for (_, a), (_, b) in itertools.pairwise(ticks)]
    room = [length * (b - a) for (a, _), (b, _) in itertools.pairwise(ticks)]
    return all(a <= b for a, b in zip(need, room, strict=True))


def _number(value: float) -> str:
    if type(value) is int:
        return f"{value:,}" if value < 100_000 else compact(value)
    return f"{value:.3g}"


def _accuracy_axis(values: Sequence[float]) -> Axis:
    return linear(100 * min(values), 100 * max(values), "{:g}%".format)


def _plot(sweep: Sweep, name: str, numbers: Sequence[str]) -> Plot:
    trials = [trial for trial in sweep.trials if trial.state != "failed"]
    values = values_of(sweep.trials, name)
    by = {K: P, P: K}.get(name, "")
    groups = values_of(sweep.trials, by) if by in numbers else []
    groups = groups if len(groups) <= LINES else []
    # If most values occur once, a line would join trials that also differ in all other fields.
    joined = 2 * len(values) <= len(sweep.trials) or len(swept(sweep)) == 1
    best: dict[Any, Trial] = {}
    if joined:
        for trial in trials:  # sorted: the first trial of each value is the best
            best.setdefault((trial.settings[by] if groups else None, trial.settings[name]), trial)
    shown = {trial.number for trial in (best.values() if joined else trials if len(trials) <= BARS else ())}
    tall = Plot.HEIGHT - Plot.TOP - Plot.BOTTOM
    wide = Plot.WIDTH - Plot.LEFT - Plot.RIGHT
    x_axis = _field_axis(name, values, wide)
    drawn = [e for t in trials for e in ((t.low, t.high) if t.number in shown else (t.accuracy,)) if e is not None]
    y_axis = _accuracy_axis(drawn)
    positions = [wide * x_axis.at(value) for value in values]
    # Marks of different lines at the same value are shifted sideways, if there is room before the next value.
    aside = min(5.0, 0.6 * min(b - a for a, b in itertools.pairwise(positions)) / max(1, len(groups)))

    def up(share: float) -> float:
        return round(Plot.TOP + tall * (1 - y_axis.at(100 * share)), 1)

    def mark(trial: Trial) -> Mark:
        assert trial.accuracy is not None and trial.low is not None and trial.high is not None
        at = groups.index(trial.settings[by]) if groups else 0
        shift = aside * (at - (len(groups) - 1) / 2) if groups else 0.0
        x = round(Plot.LEFT + wide * x_axis.at(trial.settings[name]) + shift, 1)
        ys = (up(trial.accuracy), up(trial.low), up(trial.high))
        return Mark(_style(at) if groups else "s3", x, *ys, trial.state == "stopped", _outcome(trial))

    lines = []
    for at, group in enumerate(groups or [None]):
        points = [best.get((group, value)) for value in values]
        ends = [mark(trial) for trial in points if trial and trial.state == "finished"]
        path = "".join(f"{'L' if i else 'M'}{one.x:g} {one.y:g}" for i, one in enumerate(ends))
        lines.append((_style(at) if groups else "s3", path))
    return Plot(
        field=name,
        x_title=name + (", logarithmic" if x_axis.log else ""),
        x_ticks=[(round(Plot.LEFT + at * wide, 1), text) for at, text in x_axis.ticks],
        y_ticks=[(round(Plot.TOP + tall * (1 - at), 1), text) for at, text in y_axis.ticks],
        legend=[(f"{by} {_number(group)}", _style(at)) for at, group in enumerate(groups)],
        lines=[line for line in lines if line[1]],
        marks=[mark(trial) for trial in trials if trial.number in shown],
        dots=[mark(trial) for trial in trials if trial.number not in shown],
    )


def _style(at: int) -> str:
    return f"s{at % SERIES}" + (" dashed" if at >= SERIES else "")


def parallel(sweep: Sweep) -> Parallel | None:
    """The parallel coordinates; None if no field has two values."""
    names = swept(sweep)
    if not names:
        return None
    top, tall = Parallel.TOP, Parallel.HEIGHT - Parallel.TOP - Parallel.BOTTOM
    width = max(860, 2 * Parallel.SIDE + 150 * len(names))
    step = (width - 2 * Parallel.SIDE) / len(names)
    xs = [round(Parallel.SIDE + step * i, 1) for i in range(len(names) + 1)]
    known = [one.accuracy for one in sweep.trials if one.state != "failed" and one.accuracy is not None]
    goal = _accuracy_axis(known)
    axes, positions = [], []
    for x, name in zip(xs, names, strict=False):
        values = values_of(sweep.trials, name)
        if _numeric(values):
            axis = _field_axis(name, values, tall, upright=True)
            positions.append({value: axis.at(value) for value in values})
            ticks = axis.ticks
        else:
            positions.append({value: (i + 0.5) / len(values) for i, value in enumerate(values)})
            every = -(-len(values) // CATEGORIES)
            ticks = [(positions[-1][value], _cut(text_of(value), 18)) for value in values[::every]]
        axes.append((x, _cut(name, int(step / LETTER), start=True), ticks))
    axes.append((xs[-1], "validation", goal.ticks))

    def up(at: float) -> float:
        return round(top + tall * (1 - at), 1)

    low, high = min(known), max(known)
    lines = []
    for trial in reversed(sweep.trials):
        points = [(x, up(at[trial.settings[name]])) for x, name, at in zip(xs, names, positions, strict=False)]
        style, end = "failed", None
        if trial.state != "failed" and trial.accuracy is not None:
            end = xs[-1], up(goal.at(100 * trial.accuracy))
            shade = round(6 * (trial.accuracy - low) / (high - low)) if high > low else 6
            style = f"q{shade}" + (" dashed" if trial.state == "stopped" else "")
            points.append(end)
        if trial is sweep.best:
            style += " best"
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
        lines.append(TrialLine(trial.number, style, path, end, trial.state == "stopped", describe(trial)))
    drawn = [(x, name, [(up(at), text) for at, text in ticks]) for x, name, ticks in axes]
    return Parallel(width, drawn, lines)


def _cut(text: str, length: int, start: bool = False) -> str:
    """At most `length` letters; dots mark what is cut off at the start or the end."""
    if len(text) <= length:
        return text
    return "…" + text[1 - length :] if start else text[: length - 1] + "…"
