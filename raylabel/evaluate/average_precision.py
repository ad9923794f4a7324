"""Average precision of rankings, by the rules of Pascal VOC and of the Oxford and Paris sets of landmarks.

Letters: N samples, C classes, R resamples, S different scores.
"""

from typing import Literal, get_args

import numpy as np

Rule = Literal["area", "eleven"]
"""area: the area under the precision as a function of recall, where the precision at a recall is the highest one at
this or a higher recall (VOC 2010 and later). eleven: the mean of that precision at recalls 0, 0.1, ..., 1 (VOC2007:
Everingham et al. 2010, §4.2)."""
RULES: tuple[Rule, ...] = get_args(Rule)


def average_precision(score: np.ndarray, positive: np.ndarray, rule: Rule, ignored: np.ndarray | None = None) -> float:
    """The average precision of samples that are ranked by their scores, highest first; NaN without a positive one.

    `score`: float [N]. `positive`: bool [N]. `ignored`: bool [N], samples that count neither as positive nor as
    negative, such as pictures in which VOC has only difficult objects of the class. Samples of equal score have equal
    rank: recall and precision are those behind the last of them, so that no order is invented.
    """
    once, none = np.ones((1, len(score)), np.int64), np.zeros(len(score), bool)
    return float(weighted_precisions(once, score, positive, none if ignored is None else ignored)[rule][0])


def weighted_precisions(
    weight: np.ndarray, score: np.ndarray, positive: np.ndarray, ignored: np.ndarray
) -> dict[Rule, np.ndarray]:
    """Rule → `average_precision` float64 [R] of sets in which the samples occur weight [R, N] times; NaN without a
    positive one."""
    order = np.argsort(-score, kind="stable")
    order = order[~ignored[order]]
    last = _ends_of_equal(score[order])
    drawn = weight[:, order]
    seen, hits = (np.cumsum(one, axis=1)[:, last] for one in (drawn, drawn * positive[order]))  # [R, S]
    total = hits[:, -1:] if len(last) else np.zeros((len(weight), 1), np.int64)
    precision = hits / np.maximum(seen, 1)
    highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    rises = np.diff(hits, prepend=0, axis=1) / np.maximum(total, 1)
    area = (rises * highest).sum(1)
    # In whole numbers: 3 of 10 positive samples are a recall of 0.3, and floating point must not miss it.
    tenths = [np.where(10 * hits >= tenth * total, precision, 0).max(1, initial=0) for tenth in range(11)]
    none = total[:, 0] == 0
    return {"area": np.where(none, np.nan, area), "eleven": np.where(none, np.nan, np.mean(tenths, axis=0))}


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


def _ends_of_equal(ranked: np.ndarray) -> np.ndarray:
    """The last place of each different score, of scores in descending order; -inf equals itself."""
    return np.flatnonzero(np.append(ranked[1:] != ranked[:-1], np.ones(min(1, len(ranked)), bool)))
