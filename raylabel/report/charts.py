"""The charts of a page, as paths and positions for a template to draw."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raylabel.evaluate.learning_curve import Measured
from raylabel.report.axes import Axis, linear, log
from raylabel.text import compact

CURVES = ("teacher", "control", "pretrain", "finetune", "mixed")
"""The curves of a run, in the order of its stages; each has the same colour on all pages."""
SERIES = 6
"""Colours in the style of the page; further curves use the same colours, dashed."""
SHARES = Axis(0, 1, False, [(i / 4, f"{25 * i}%") for i in range(5)])


@dataclass(frozen=True)
class Point:
    """One point of a training curve, as logged."""

    images: int
    """Images, or clips of videos, processed (forward and backward) since this model's training began."""
    loss: float
    """Mean training loss since the last point, nats."""
    accuracy: float
    """Share of the images since the last point whose best class was their label, 0 to 1."""
    lr: float
    """Learning rate of the last step."""


def in_stage_order(curves: Mapping[str, Sequence[Any]]) -> list[str]:
    return sorted(curves, key=lambda name: (CURVES.index(name) if name in CURVES else len(CURVES), name))


def style(name: str, position: int) -> str:
    return _series(CURVES.index(name) if name in CURVES else position)


def _series(index: int) -> str:
    return f"s{index % SERIES}" + (" dashed" if index >= SERIES else "")


@dataclass(frozen=True)
class Chart:
    """One panel: pixel coordinates for the template to draw, in a view of WIDTH x HEIGHT."""

    WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 440, 250, 46, 14, 10, 40
    title: str
    x_title: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[tuple[str, str, str]]  # name, style, SVG path
    dots: list[tuple[str, str, float, float]]  # name, style, x, y
    notes: list[str]

    @property
    def series(self) -> list[tuple[str, str]]:
        """(name, style) of each line."""
        return [(name, style) for name, style, _ in self.lines]


def charts_of(
    curves: Mapping[str, Sequence[Point]], validated: Mapping[str, Sequence[Measured]], inputs: str
) -> list[Chart]:
    """`inputs`: what `images` of the points counts, 'images' or 'clips'."""
    if not any(curves.values()):
        return []
    ends = [max(p.images for p in points) for points in curves.values() if points]
    # Pretraining may process 30 times the images of fine-tuning, whose curve would be too short on a linear axis.
    log_x = min(ends) > 0 and max(ends) / min(ends) > 4
    starts = [p.images for points in curves.values() for p in points if p.images > 0]
    x_axis = log(min(starts), max(ends)) if log_x else linear(0, max(ends), compact)
    panels = [("training loss", "loss"), ("training accuracy", "accuracy"), ("learning rate", "lr")]
    charts = [_chart(title, field, curves, x_axis, inputs) for title, field in panels]
    if validated:
        # With the names of all curves, so that a training has the same colour in all charts.
        of_all = {name: validated.get(name, ()) for name in curves}
        charts.insert(2, _chart("accuracy in validation", "accuracy", of_all, x_axis, inputs))
    return charts


def _chart(
    title: str, field: str, curves: Mapping[str, Sequence[Point | Measured]], x_axis: Axis, inputs: str
) -> Chart:
    values = [v for points in curves.values() for p in points if math.isfinite(v := getattr(p, field))]
    if field == "lr" and (above_zero := [v for v in values if v > 0]):
        y_axis = log(min(above_zero), max(above_zero))
    elif field == "accuracy":
        y_axis = SHARES
    else:
        y_axis = linear(min([0.0, *values]), max([0.0, *values]), compact)
    wide, high = Chart.WIDTH - Chart.LEFT - Chart.RIGHT, Chart.HEIGHT - Chart.TOP - Chart.BOTTOM
    lines, dots, notes = [], [], []
    for position, name in enumerate(in_stage_order(curves)):
        # One mean per pixel column, so that a million steps are drawn as fast as a hundred.
        columns: dict[int, list[float]] = {}
        for point in curves[name]:
            columns.setdefault(round(x_axis.at(point.images) * wide), []).append(getattr(point, field))
        path, pen_down = [], False
        for x, column in sorted(columns.items()):
            mean = sum(column) / len(column)
            if math.isfinite(mean):
                y = Chart.TOP + high * (1 - y_axis.at(mean))
                path.append(f"{'L' if pen_down else 'M'}{Chart.LEFT + x} {y:.1f}")
                if len(columns) == 1:
                    dots.append((name, style(name, position), Chart.LEFT + x, round(y, 1)))
            pen_down = math.isfinite(mean)
        lines.append((name, style(name, position), "".join(path)))
        if lost := [p.images for p in curves[name] if not math.isfinite(getattr(p, field))]:
            notes.append(f"{name}: {title} not finite at {min(lost):,} {inputs}")
    x_title = f"{inputs} processed" + (", logarithmic" if x_axis.log else "")
    return Chart(title, x_title, *_ticks(x_axis, y_axis), lines, dots, notes)


def _ticks(x_axis: Axis, y_axis: Axis) -> tuple[list[tuple[float, str]], list[tuple[float, str]]]:
    """Positions and texts of the ticks of both axes."""
    wide, high = Chart.WIDTH - Chart.LEFT - Chart.RIGHT, Chart.HEIGHT - Chart.TOP - Chart.BOTTOM
    x = [(round(Chart.LEFT + at * wide, 1), text) for at, text in x_axis.ticks]
    return x, [(round(Chart.TOP + high * (1 - at), 1), text) for at, text in y_axis.ticks]


def precision_chart(expected: Mapping[str, Sequence[tuple[int, float]]]) -> Chart:
    """The expected precision of the first picks against their number, of some classes: name → (rank, precision)."""
    ranks = [rank for points in expected.values() for rank, _ in points]
    return share_chart("expected precision", expected, "picks of a class, logarithmic", log(min(ranks), max(ranks)))


def share_chart(
    title: str,
    curves: Mapping[str, Sequence[tuple[float, float]]],
    x_title: str,
    x_axis: Axis,
    names: Sequence[str] = (),
) -> Chart:
    """Shares against any quantity: name → (x, share) of its points. `names`: of the curves of several charts, in which
    each has the same colour."""
    wide, high = Chart.WIDTH - Chart.LEFT - Chart.RIGHT, Chart.HEIGHT - Chart.TOP - Chart.BOTTOM
    lines, dots = [], []
    for name, points in curves.items():
        number = list(names or curves).index(name)
        places = [(Chart.LEFT + x_axis.at(x) * wide, Chart.TOP + high * (1 - SHARES.at(share))) for x, share in points]
        path = "".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(places))
        lines.append((name, _series(number), path))
        if len(places) == 1:
            dots.append((name, _series(number), *(round(place, 1) for place in places[0])))
    return Chart(title, x_title, *_ticks(x_axis, SHARES), lines, dots, [])


def sorted_line(picks: list[int], wide: int = 600, high: int = 100) -> str:
    """SVG path of the area under `picks`, largest first, in a view of wide x high."""
    if not picks or not picks[0]:
        return ""
    columns = [picks[x * len(picks) // wide] for x in range(wide)]
    return f"M0 {high}" + "".join(f"L{x} {high * (1 - n / picks[0]):.1f}" for x, n in enumerate(columns)) + f"V{high}Z"
