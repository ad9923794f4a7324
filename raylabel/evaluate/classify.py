"""SCORES of a labeled set + its true labels → METRICS: top-1 and top-5 with n and a 95% interval.

Letters: N test samples, M clips of a video.
"""

import math
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from raylabel.evaluate.results import CLIP_TOP1, GAIN, TOP1, TOP5, Metric, Subject
from raylabel.schema import PICKS, SCORES
from raylabel.store.artifact import Artifact

Z = 1.959963984540054  # the normal quantile of a two-sided 95% interval
TOP = 5


def wilson(successes: float, n: int) -> tuple[float, float]:
    """95% score interval of a proportion (Wilson 1927): also accurate for few samples and near 0 and 1."""
    p, z2 = successes / n, Z * Z
    centre, half = p + z2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    low, high = (centre - half) / (1 + z2 / n), (centre + half) / (1 + z2 / n)
    return min(max(0.0, low), p), max(min(1.0, high), p)


def paired_gain(of: Subject, a: np.ndarray, b: np.ndarray, metric: str = GAIN) -> Metric:
    """Top-1 of a minus that of b, bool [N] each, with the adjusted 95% Wald interval of Bonett and Price (2012).

    Paired, because both models are tested on the same samples: samples that both get right or both get wrong carry no
    information about the difference. The interval covers only the sampling of the test set; another training seed would
    change the difference too. `of` is the subject of a.
    """
    n, wins, losses = len(a), int((a & ~b).sum()), int((b & ~a).sum())
    p12, p21 = (wins + 1) / (n + 2), (losses + 1) / (n + 2)
    centre, half = p12 - p21, Z * math.sqrt((p12 + p21 - (p12 - p21) ** 2) / (n + 2))
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    return Metric(**vars(of), metric=metric, value=(wins - losses) / n, low=low, high=high, n=n)


class Hits(NamedTuple):
    """What a model got right, in the order of the test set's keys, each sample once."""

    top1: np.ndarray
    """bool [N]"""
    top5: np.ndarray
    """bool [N]"""
    clips: np.ndarray | None
    """Share of a video's M clips whose own best class is right, float64 [N]; None if the samples are not videos."""


def hits(scores: Artifact, truth: Artifact, part: bool = False) -> Hits:
    """What a model got right. A test sample that could not be read counts as wrong, with all its clips: leaving it out
    would raise the accuracy.

    `part`: the scores may also have other samples, which are left out.
    """
    label, at, scored = _align(scores, truth, part)
    right = _lists(scored, "classes") == label[at][:, None]
    top1, top5 = np.zeros(len(label), bool), np.zeros(len(label), bool)
    top1[at], top5[at] = right[:, 0], right[:, :TOP].any(axis=1)
    right, clips = _lists(scored, "clips") == label[at][:, None], None
    if right.shape[1]:
        clips = np.zeros(len(label))
        clips[at] = right.mean(axis=1)
    return Hits(top1, top5, clips)


def best_classes(scores: Artifact, truth: Artifact) -> tuple[np.ndarray, np.ndarray]:
    """(true class, best class by the model) of each test sample, int64 [N]; the latter is -1 if the sample could not be
    read."""
    label, at, scored = _align(scores, truth, part=False)
    best = np.full(len(label), -1)
    best[at] = _lists(scored, "classes")[:, 0]
    return label.astype(np.int64), best


def share_right(of: Subject, metric: str, right: np.ndarray) -> Metric:
    """The mean of `right`, [N] from 0 to 1, as a metric with its Wilson interval."""
    total, n = float(right.sum()), len(right)
    low, high = wilson(total, n)
    return Metric(**vars(of), metric=metric, value=total / n, low=low, high=high, n=n)


def _align(scores: Artifact, truth: Artifact, part: bool) -> tuple[np.ndarray, np.ndarray, pa.Table]:
    """(label of each sample of `truth` in key order, index in it of each row of SCORES, key and lists of these rows).
    `part`: see `hits`."""
    labels = truth.table("picks", PICKS, ["key", "label"])
    key, label = labels.column("key").to_numpy(), labels.column("label").to_numpy()
    order = np.argsort(key, kind="stable")
    key, label = key[order], label[order]
    scored = scores.table("scores-", SCORES, ["key", "classes", "clips"])
    if part:
        scored = scored.filter(pa.array(np.isin(scored.column("key").to_numpy(), key)))
    at = np.searchsorted(key, scored.column("key").to_numpy())
    if len(np.unique(at)) != len(at) or not np.array_equal(key[at], scored.column("key").to_numpy()):
        raise AssertionError(f"{scores.name} does not hold the samples of {truth.name}, each at most once")
    return label, at, scored


def _lists(table: pa.Table, name: str) -> np.ndarray:
    """A column of lists of one length as an array [rows, length]."""
    column = table.column(name).combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1 if len(column) else 1)  # pyright: ignore


def accuracy(of: Subject, hits: Hits, classes: int) -> list[Metric]:
    """The shares of `Hits` with their intervals; no top-5 if there are at most 5 classes, for then it is 1.

    The share of clips is the mean over videos, each counted once. The M clips of a video are not M independent samples,
    so the interval is that of N samples, as if the clips of a video were all right or all wrong. A mean of shares from
    0 to 1 does not vary more than that, so the interval is not too narrow.
    """
    found = ((TOP1, hits.top1), (TOP5, hits.top5 if classes > TOP else None), (CLIP_TOP1, hits.clips))
    return [share_right(of, metric, right) for metric, right in found if right is not None]
