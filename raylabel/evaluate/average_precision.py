"""Average precision of rankings, by the rules of Pascal VOC and of the Oxford and Paris sets of landmarks.

Letters: N samples, C classes, Q queries.
"""

from typing import Literal

import numpy as np

Rule = Literal["area", "eleven"]
"""area: the area under the precision as a function of recall, where the precision at a recall is the highest one at
this or a higher recall (VOC 2010 and later). eleven: the mean of that precision at recalls 0, 0.1, ..., 1 (VOC2007:
Everingham et al. 2010, §4.2)."""


def average_precision(score: np.ndarray, positive: np.ndarray, rule: Rule, ignored: np.ndarray | None = None) -> float:
    """The average precision of samples that are ranked by their scores, highest first; NaN without a positive one.

    `score`: float [N]. `positive`: bool [N]. `ignored`: bool [N], samples that count neither as positive nor as
    negative, such as pictures in which VOC has only difficult objects of the class. Samples of equal score have equal
    rank: recall and precision are those behind the last of them, so that no order is invented.
    """
    recall, precision = _curve(score, positive, ignored)
    if not len(recall):
        return float("nan")
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    if rule == "area":
        return float(np.sum(np.diff(recall, prepend=0) * highest))
    # As fractions of whole numbers: 3 / 10 of 10 positive samples is 0.3, and floating point must not miss it.
    total = int(positive[~ignored].sum() if ignored is not None else positive.sum())
    at = np.searchsorted(np.rint(recall * total) * 10, np.arange(11) * total)
    return float(np.append(highest, 0.0)[at].mean())


def mean_average_precision(
    score: np.ndarray, positive: np.ndarray, rule: Rule, ignored: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """(mean over the classes that have a positive sample, average precision of each class float64 [C], NaN without
    one), of scores [N, C]; the other arguments are [N, C] too."""
    columns = range(score.shape[1])
    each = [
        average_precision(score[:, c], positive[:, c], rule, None if ignored is None else ignored[:, c])
        for c in columns
    ]
    found = np.array(each)
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan"), found


def landmark_precision(positive: np.ndarray, junk: np.ndarray) -> float:
    """The average precision of a ranking by the rule of Oxford5k and Paris6k (Philbin et al. 2007, §5): junk is left
    out, and at each positive sample the area of a trapezoid is added, from the precision at the rank before it. NaN
    without a positive sample.

    `positive` and `junk`: bool [N], in the order of the ranking.
    """
    kept = positive[~junk]
    hits, rank = np.cumsum(kept), np.arange(1, len(kept) + 1)
    if not len(kept) or not hits[-1]:
        return float("nan")
    precision = hits / rank
    before = np.append(1.0, precision[:-1])
    return float(((before + precision)[kept] / 2).sum() / hits[-1])


def _curve(score: np.ndarray, positive: np.ndarray, ignored: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(recall, precision) behind each different score, from the highest on; empty without a positive sample."""
    if ignored is not None:
        score, positive = score[~ignored], positive[~ignored]
    total = int(positive.sum())
    if not total:
        return np.empty(0), np.empty(0)
    order = np.argsort(-score, kind="stable")
    hits, last = np.cumsum(positive[order]), ends_of_equal(score[order])
    return hits[last] / total, hits[last] / (last + 1)


def ends_of_equal(ranked: np.ndarray) -> np.ndarray:
    """The last place of each different score, of scores in descending order; -inf equals itself."""
    return np.flatnonzero(np.append(ranked[1:] != ranked[:-1], np.ones(min(1, len(ranked)), bool)))
