"""Near-duplicates within a set: every picture is kept, or is a copy of one that is kept.

The pictures come in an order of preference. One that has no near-duplicate among those before it that are kept is kept
itself. So nothing is removed because of a picture that is removed too: a chain of pictures, each of which is like the
next, is not one group. And n copies of one picture are compared n times, not n * n times.

Letters: N pictures, n pairs.
"""

from dataclasses import dataclass

import numpy as np

from raylabel.compute.watchdog import heartbeat
from raylabel.features.alignment import similarities
from raylabel.features.search import References
from raylabel.features.thumbnails import descriptors
from raylabel.selection.compare import MOST, ranks, starts

BLOCK = 128  # pictures that are compared at a time, first with those before them and then with each other
CANDIDATE = 0.75  # as in compare.py, but higher: other pictures that are as similar become more as the corpus grows
CONFIRMED = 32  # candidates of a picture that are aligned, the most similar ones: pages of text are all alike


@dataclass(frozen=True)
class Copies:
    """Pairs of a picture and one before it of which it is a copy, ordered by `at`."""

    at: np.ndarray
    """int64 [n]"""
    original: np.ndarray
    """int64 [n], below `at`"""
    similarity: np.ndarray
    """float32 [n]"""


def copies_of(thumbnails: np.ndarray, threshold: float, precision: str) -> Copies:
    """The copies among pictures, uint8 [N, side * side * 3] in order of preference: with each its MOST most similar
    pictures that are kept. `threshold`: the least similarity of a near-duplicate. `precision`: see `References`."""
    feature = descriptors(thumbnails)
    known, kept = References(feature[:0], CANDIDATE, precision), np.empty(0, np.int64)
    pairs = [_NONE]
    for first in range(0, len(feature), BLOCK):
        heartbeat()
        block = np.arange(first, min(first + BLOCK, len(feature)))
        found = _confirmed(thumbnails, feature, block, known, kept, threshold)
        left = np.setdiff1d(block, found[0])
        at, original, similarity = _confirmed(
            thumbnails, feature, left, References(feature[left], CANDIDATE, precision), left, threshold
        )
        keep = keep_of(np.searchsorted(left, at), np.searchsorted(left, original), len(left))
        good = np.isin(at, left[~keep]) & np.isin(original, left[keep])
        pairs += [found, (at[good], original[good], similarity[good])]
        known.add(feature[left[keep]])
        kept = np.concatenate([kept, left[keep]])
    at, original, similarity = (np.concatenate(column) for column in zip(*pairs, strict=True))
    order = np.lexsort((original, -similarity, at))
    order = order[ranks(at[order]) < MOST]
    return Copies(at[order], original[order], similarity[order])


_NONE = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)


def _confirmed(
    thumbnails: np.ndarray,
    feature: np.ndarray,
    mine: np.ndarray,
    others: References,
    places: np.ndarray,
    threshold: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(at, original, similarity) of the near-duplicates of pictures and others before them. `places`: which pictures
    the others are."""
    found = others.pairs(feature[mine])
    at, original = mine[found.at], places[found.reference]
    earlier = original < at
    at, original, cosine = at[earlier], original[earlier], found.similarity[earlier]
    order = np.lexsort((original, -cosine, at))
    order = order[ranks(at[order]) < CONFIRMED]
    at, original = at[order], original[order]
    similarity = similarities(thumbnails[at], thumbnails[original])
    near = similarity >= np.float32(threshold)
    return at[near], original[near], similarity[near]


def keep_of(at: np.ndarray, original: np.ndarray, count: int) -> np.ndarray:
    """bool [count]: which pictures are kept, of pairs of a picture and one of its originals. A picture is removed if
    one of its originals is kept. There must be no circles: in some order, every picture comes after its originals."""
    keep, waiting = np.ones(count, bool), np.zeros(count, bool)
    waiting[at] = True
    order = np.argsort(at, kind="stable")
    at, original = at[order], original[order]
    while len(at):
        begin = np.flatnonzero(starts(at))
        mine = at[begin]
        of_kept = np.logical_or.reduceat(keep[original] & ~waiting[original], begin)
        undecided = np.logical_or.reduceat(waiting[original], begin)
        keep[mine[of_kept]] = False
        waiting[mine[of_kept | ~undecided]] = False
        left = waiting[at]
        at, original = at[left], original[left]
    return keep
