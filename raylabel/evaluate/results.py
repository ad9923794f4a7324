"""METRICS: one row per number that an evaluator measured. An evaluator is a function that returns such rows."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import pyarrow as pa

from raylabel.schema import METRICS, check
from raylabel.store.artifact import Artifact, Built, Draft, Root, write_table

# Ids of models.
TEACHER = "teacher"
CONTROL = "control"
"""The student's architecture, trained on the labeled set alone."""
PRETRAINED = "pretrained"
"""The student before it is fine-tuned."""
STUDENT = "student"
MIXED = "mixed"

# Ids of metrics: fractions, except images_to. An evaluator may give others, of any unit.
TOP1 = "top1"
"""Share of samples whose best class is the true one; for a video, by the mean over its clips. Wilson interval."""
TOP5 = "top5"
"""Share of samples with the true class among the best five; no row with fewer than 6 classes. Wilson interval."""
CLIP_TOP1 = "clip_top1"
"""Mean over the videos of the share of their clips whose own best class is the true one; no row for images. Wilson
interval as if the clips of a video were all right or all wrong."""
SUBSET_TOP1 = "subset_top1"
"""Share of samples whose best class among those that occur in the set is the true one. Wilson interval."""
REAL_TOP1 = "real_top1"
"""Share of ImageNet's validation images whose best class is one of their ReaL labels, n the images that have any.
Wilson interval."""
GAIN = "gain_top1"
"""Top-1 of the fine-tuned student minus that of the control, -1 to 1, paired over the same samples; 0.01 is one point.
Interval of Bonett and Price."""
CLEAN_TOP1 = "clean_top1"
"""Top-1 on the test samples that are not in the training data too (selection/leaks.py); no row if none is. Wilson
interval."""
CLEAN_GAIN = "clean_gain_top1"
"""The gain on these samples. Interval of Bonett and Price."""
PRECISION = "pick_precision"
"""Share of picks whose label is the true one, n the picks whose true label is known; no row without a truth table. It
has no interval."""
BORDER = "border_precision"
"""Share right of the last picks of each list, as many as from the first of a list whose true label is known; a pick
whose label is not known counts as wrong. No row if all are known. Wilson interval: its lower end is a bound for the
whole lists, if the first picks of a list are no worse than its last."""

ECE = "ece"
"""Expected calibration error of the probability of the best class, a fraction. It has no interval."""
LOSS = "loss"
"""Mean cross-entropy of the samples that could be read, nats. It has no interval."""
CALIBRATED = "ece_calibrated"
"""The same after temperature scaling on samples that are neither trained on nor tested."""

EARLY_TOP1 = "early_top1"
"""Top-1 after the first tenth of a training that is validated, at the first point then or later. Wilson interval."""
CURVE_AREA = "curve_area"
"""Mean top-1 over a training that is validated: the area under the curve of accuracy against images, divided by the
images between its first point and its last. It has no interval."""
IMAGES_TO = "images_to_"
"""With a percentage behind it, images_to_95: images after which the accuracy of a training was first so high, at a
point of `Train.validate`; no row if it never was. It has no interval."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What was measured: a model on a split of a dataset."""

    model: str
    """Id of the model: teacher | control | pretrained | student, or another that an evaluator uses."""
    seed: int
    """Seed of the training."""
    dataset: str
    """URIs of the corpus, joined by ", "."""
    split: str
    """test | validation | labeled | unlabeled."""


@dataclass(frozen=True, kw_only=True)
class Metric(Subject):
    """A row of METRICS, without its run. ValueError if the value is not within its interval."""

    metric: str
    """Id of the metric: top1, top5, clip_top1, subset_top1, real_top1, gain_top1, clean_top1, clean_gain_top1,
    pick_precision, border_precision, ece, ece_calibrated, curve_area, early_top1,
    loss, images_to_95, or another of an evaluator."""
    value: float
    low: float | None = None
    """Lower end of the 95% interval; None where there is no interval."""
    high: float | None = None
    """Upper end of the 95% interval."""
    n: int
    """Samples that the value is measured on."""

    def __post_init__(self) -> None:
        what = f"{self.metric} of {self.model}"
        if self.low is None or self.high is None:
            if self.low is not self.high:
                raise ValueError(f"{what}: an interval has two ends, got {self.low} and {self.high}")
        # For 0 of n or n of n, the value may differ from the end of its interval by one rounding.
        elif not (self.low - 1e-9 <= self.value <= self.high + 1e-9):
            raise ValueError(f"{what}: {self.value} is not within its interval {self.low} to {self.high}")


def find(rows: Sequence[Metric], **wanted: str | int) -> Metric | None:
    """The row with the wanted fields, as in `find(rows, model="teacher", metric="top1")`; None if there is none.

    ValueError if there are two.
    """
    found = [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]
    if len(found) > 1:
        raise ValueError(f"{len(found)} metrics have {wanted}")
    return found[0] if found else None


def require(rows: Sequence[Metric], **wanted: str | int) -> Metric:
    """Like `find`, but raises ValueError if there is no such row."""
    if (found := find(rows, **wanted)) is None:
        raise ValueError(f"no metric has {wanted}")
    return found


def metrics(root: Root, run: str, rows: Sequence[Metric]) -> Artifact:
    """METRICS of a run."""
    table = pa.Table.from_pylist([{"run": run, **vars(row)} for row in rows], METRICS)

    def build(draft: Draft) -> Built:
        return Built([write_table(draft.uri, "metrics.parquet", check(table, METRICS, "metrics"))], {"rows": len(rows)})

    return root.make("metrics", {"rows": [[run, *astuple(row)] for row in rows]}, build)
