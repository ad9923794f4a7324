"""One self-contained HTML page about a run: no script, no external resource, every number from its Summary.

The page contains text from other sources (class names, reject reasons, paths). So all text is escaped, control
characters are removed, and a Content-Security-Policy forbids the page to load or run anything.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raylabel.evaluate.results import CLIP_TOP1, STUDENT, TOP1, TOP5
from raylabel.report.axes import linear
from raylabel.report.charts import Point, charts_of, in_stage_order, precision_chart, sorted_line, style
from raylabel.report.html import data_uri, leaves, render
from raylabel.report.summary import MODELS, Summary, detail, headline
from raylabel.selection.leaks import KINDS_IN_WORDS

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
class Film:
    """How a video is shown: its first frame and a short clip."""

    seconds: float
    """Length of the video, or of the segment that is the sample."""
    poster: bytes
    """JPEG of the first frame of the clip."""
    clip: bytes
    """MP4 of some seconds from the middle of the video."""


@dataclass(frozen=True)
class Suspect:
    """A labeled sample whose label is likely wrong."""

    address: str
    """Where the sample is."""
    label: str
    """Names of classes."""
    found: str
    """The class that the teacher ranks first."""
    probability: float
    """Of that class."""
    jpeg: bytes


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
    expected: Mapping[str, Sequence[tuple[int, float]]] | None = None,
    suspects: Sequence[Suspect] = (),
) -> str:
    """The page as HTML text; the same arguments give the same text. `expected`: the precision that the audit expects of
    the first picks, by rank, of some classes.

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
        sorted_picks=sorted_line([picks[i] for i in reversed(by_picks)]),
        series=[(name, style(name, i)) for i, name in enumerate(in_stage_order(curves))],
        charts=charts_of(curves, {each.training: each.points for each in summary.validated}, summary.inputs),
        expected=precision_chart(expected) if expected else None,
        suspects=suspects,
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
