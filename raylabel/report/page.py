"""One self-contained HTML page about a run: no script, no external resource, every number from its Summary.

The page contains text from other sources (class names, reject reasons, paths). So all text is escaped, control
characters are removed, and a Content-Security-Policy forbids the page to load or run anything.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raylabel.evaluate.learning_curve import Measured
from raylabel.evaluate.results import CLIP_TOP1, STUDENT, TOP1, TOP5
from raylabel.report.axes import Axis, linear, log
from raylabel.report.html import data_uri, leaves, render
from raylabel.report.summary import MODELS, Summary, detail, headline
from raylabel.selection.leaks import KINDS_IN_WORDS
from raylabel.text import compact

CURVES = ("teacher", "control", "pretrain", "finetune", "mixed")
"""The curves of a run, in the order of its stages; each has the same colour on all pages."""
SERIES = 6
"""Colours in the style of the page; further curves use the same colours, dashed."""
NAMED_CLASSES = 60
"""Up to this many classes, each has a bar; more classes are shown as one sorted line."""
SECONDS = 3.0
"""Maximum length of a clip."""
RATE = 15.0
"""Approximate frames per second of a clip: those of the video divided by a whole number."""
CLIP_BYTES = 64 << 10
"""Maximum size of one clip; a larger one is left out. The clips of 185 videos had 1 to 41 kB, 17 kB on average."""
CLIPS_BYTES = 4 << 20
"""Maximum size of all clips of a page, best ranks of each class first. In base64, 3 bytes are 4 characters."""


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


@dataclass(frozen=True)
class Film:
    """How a video is shown: its first frame and a short clip."""

    seconds: float
    """Length of the video, or of the segment that is the sample."""
    poster: bytes
    """JPEG of the first frame of the clip."""
    clip: bytes
    """MP4 of some seconds from the middle of the video."""


@dataclass(frozen=True)
class Picture:
    """One pick, as it is shown on the page."""

    rank: int
    """Rank in its class, from 1."""
    score: float
    """The value that it is ranked by: log-odds or logit of the class."""
    probability: float | None
    """The log-odds as a probability, sigmoid(score); None for a logit, from which no probability follows."""
    key: int
    """Key of the sample."""
    jpeg: bytes
    """Thumbnail of the picture, or filmstrip of the video, without the metadata of the file."""
    film: Film | None = None
    """Set if the sample is a video."""


@dataclass(frozen=True)
class Strip:
    """Picks of one class at ranks 1, 2, 5, 10, ..., K, as in Figure 2 of Yalniz et al. 2019 (arXiv 1905.00546)."""

    label: str
    """Class name."""
    pictures: Sequence[Picture]
    """By rank."""


@dataclass(frozen=True)
class Pair:
    """A sample of the corpus, and one of an evaluation set or of the corpus that is similar to it."""

    similarity: float
    near: bool
    """Whether it is a near-duplicate, or below the threshold."""
    set: str
    """Name of the set; empty: both are of the corpus."""
    jpegs: tuple[bytes, bytes]
    """Thumbnails of both, that of the corpus first."""


@dataclass(frozen=True)
class ShownGroup:
    """A sample that is kept, and its first copies."""

    size: int
    """Samples of the group."""
    name: str
    """Address of the sample that is kept; empty if it is not shown."""
    pictures: Sequence[tuple[bytes, str]]
    """(thumbnail, text in its place) of each, first of the sample that is kept."""

    @property
    def frames(self) -> list[tuple[str, str]]:
        """As the template shows them."""
        return [(data_uri("image/jpeg", jpeg), text) for jpeg, text in self.pictures]


@dataclass(frozen=True)
class Copies:
    """Copies within the corpus."""

    count: int
    """Groups in all."""
    groups: Sequence[ShownGroup]
    """Largest first."""
    pairs: Sequence[Pair]
    """A copy and the sample that is kept, of the near-duplicates that are least similar, by similarity, descending."""


def write_page(
    summary: Summary,
    curves: Mapping[str, Sequence[Point]],
    strips: Sequence[Strip],
    pairs: Sequence[Pair] = (),
    copies: Copies | None = None,
) -> str:
    """The page as HTML text; the same arguments give the same text.

    Each number has its path in summary.json as `data-key` (names and indices joined by dots, escaped as in JSON)
    and its exact JSON as `data-value`.
    """
    # Through JSON and back, so that the page shows what summary.json contains (and neither can contain a NaN).
    data = json.loads(json.dumps(summary.to_dict(), allow_nan=False))
    picks, gain, counts = data["picks"]["per_class"], data["gain"], data["counts"]
    by_picks = sorted(range(len(picks)), key=lambda i: (picks[i], i))
    accuracies, precision = summary.accuracies, summary.precision
    tops = [data["metrics"][found[TOP1]] for found in accuracies.values()]
    return render(
        "report/page.html.j2",
        data,
        headline=headline(summary.gain),
        detail=detail(summary.gain),
        outcome="gain" if gain["low"] > 0 else "loss" if gain["high"] < 0 else "none",
        gain_axis=linear(min(100 * gain["low"], 0), max(100 * gain["high"], 0), lambda x: f"{x:+g}" if x else "0"),
        accuracy_axis=linear(
            100 * min((row["low"] for row in tops), default=0),
            100 * max((row["high"] for row in tops), default=1),
            "{:g}%".format,
        ),
        accuracies=list(accuracies.values()),
        final=accuracies.get(STUDENT),
        with_top5=any(TOP5 in found for found in accuracies.values()),
        with_clips=any(CLIP_TOP1 in found for found in accuracies.values()),
        others=summary.others,
        precision=None if precision is None else summary.metrics.index(precision),
        models=MODELS,
        shares=[(name, counts[name]) for name in ("scored", "rejected", "duplicates", "near_duplicates")],
        named_classes=NAMED_CLASSES,
        fewest=by_picks[:10],
        sorted_picks=_sorted_line([picks[i] for i in reversed(by_picks)]),
        series=[(name, _style(name, i)) for i, name in enumerate(_in_stage_order(curves))],
        charts=_charts(curves, {each.training: each.points for each in summary.validated}, summary.inputs),
        validated=[each.sentence(summary.inputs) for each in summary.validated],
        inputs=summary.inputs,
        counted=summary.counted,
        strips=strips,
        pairs=pairs,
        copies=copies,
        kinds_in_words=KINDS_IN_WORDS,
        films=sum(p.film is not None for s in strips for p in s.pictures),
        playing=_playing(strips),
        seconds=f"{SECONDS:g}",
        rate=f"{RATE:g}",
        clip_bytes=CLIP_BYTES,
        clips_bytes=CLIPS_BYTES,
        kilobytes=lambda n: f"{n >> 10:,} kB",
        probability=_probability,
        settings=list(leaves(data["settings"], ("settings",))),
    )


def _playing(strips: Sequence[Strip]) -> set[tuple[int, int]]:
    """(index of the strip, index in the strip) of the videos whose clip fits into the limits."""
    found, room = set(), CLIPS_BYTES
    films = [(index, i, p.film) for i, s in enumerate(strips) for index, p in enumerate(s.pictures) if p.film]
    for index, i, film in sorted(films, key=lambda one: one[:2]):
        if len(film.clip) <= min(CLIP_BYTES, room):
            room -= len(film.clip)
            found.add((i, index))
    return found


def _probability(p: float) -> str:
    # Four digits are easy to compare; the log-odds beside it distinguish values beyond them.
    return "> 0.9999" if p > 0.99995 else "< 0.0001" if p < 0.00005 else f"{p:.4f}"


def _in_stage_order(curves: Mapping[str, Sequence[Any]]) -> list[str]:
    return sorted(curves, key=lambda name: (CURVES.index(name) if name in CURVES else len(CURVES), name))


def _style(name: str, position: int) -> str:
    index = CURVES.index(name) if name in CURVES else position
    return f"s{index % SERIES}" + (" dashed" if index >= SERIES else "")


@dataclass(frozen=True)
class _Chart:
    """One panel: pixel coordinates for the template to draw, in a view of WIDTH x HEIGHT."""

    WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 440, 250, 46, 14, 10, 40
    title: str
    x_title: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[tuple[str, str, str]]  # name, style, SVG path
    dots: list[tuple[str, str, float, float]]  # name, style, x, y
    notes: list[str]


def _charts(
    curves: Mapping[str, Sequence[Point]], validated: Mapping[str, Sequence[Measured]], inputs: str
) -> list[_Chart]:
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
) -> _Chart:
    values = [v for points in curves.values() for p in points if math.isfinite(v := getattr(p, field))]
    if field == "lr" and (above_zero := [v for v in values if v > 0]):
        y_axis = log(min(above_zero), max(above_zero))
    elif field == "accuracy":
        y_axis = Axis(0, 1, False, [(i / 4, f"{25 * i}%") for i in range(5)])
    else:
        y_axis = linear(min([0.0, *values]), max([0.0, *values]), compact)
    wide, high = _Chart.WIDTH - _Chart.LEFT - _Chart.RIGHT, _Chart.HEIGHT - _Chart.TOP - _Chart.BOTTOM
    lines, dots, notes = [], [], []
    for position, name in enumerate(_in_stage_order(curves)):
        # One mean per pixel column, so that a million steps are drawn as fast as a hundred.
        columns: dict[int, list[float]] = {}
        for point in curves[name]:
            columns.setdefault(round(x_axis.at(point.images) * wide), []).append(getattr(point, field))
        path, pen_down = [], False
        for x, column in sorted(columns.items()):
            mean = sum(column) / len(column)
            if math.isfinite(mean):
                y = _Chart.TOP + high * (1 - y_axis.at(mean))
                path.append(f"{'L' if pen_down else 'M'}{_Chart.LEFT + x} {y:.1f}")
                if len(columns) == 1:
                    dots.append((name, _style(name, position), _Chart.LEFT + x, round(y, 1)))
            pen_down = math.isfinite(mean)
        lines.append((name, _style(name, position), "".join(path)))
        if lost := [p.images for p in curves[name] if not math.isfinite(getattr(p, field))]:
            notes.append(f"{name}: {title} not finite at {min(lost):,} {inputs}")
    return _Chart(
        title,
        f"{inputs} processed" + (", logarithmic" if x_axis.log else ""),
        [(round(_Chart.LEFT + at * wide, 1), text) for at, text in x_axis.ticks],
        [(round(_Chart.TOP + high * (1 - at), 1), text) for at, text in y_axis.ticks],
        lines,
        dots,
        notes,
    )


def _sorted_line(picks: list[int], wide: int = 600, high: int = 100) -> str:
    """SVG path of the area under `picks`, largest first, in a view of wide x high."""
    if not picks or not picks[0]:
        return ""
    columns = [picks[x * len(picks) // wide] for x in range(wide)]
    return f"M0 {high}" + "".join(f"L{x} {high * (1 - n / picks[0]):.1f}" for x, n in enumerate(columns)) + f"V{high}Z"
