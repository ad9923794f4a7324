"""The order of the items of one lane: a pure function of (seed, epoch, position)."""

import heapq
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from raylabel.rng import LANE_ORDER, rng
from raylabel.training.shares import Share

WINDOW = 4  # groups of EXAMPLES of earlier versions that are held and shuffled together: about 256 images


class Window(NamedTuple):
    """Items that are shuffled together."""

    number: int
    """Index of the window in the epoch."""
    groups: list[int]
    size: int


class Read(NamedTuple):
    """Windows of a lane that are read together. Reads compare by `first`, that is by when they are needed."""

    first: int
    """Position in the stream of the first item that this worker needs from them."""
    lane: int
    epoch: int
    positions: np.ndarray
    """Those of all their items, int64."""
    mine: np.ndarray
    """Which of these are items of this worker: bool."""
    windows: list[Window]
    once: bool
    """Whether these are all the windows of the lane."""


class Lane:
    """The endless sequence of items of one lane. In each epoch its units are in a new order, and so are the items of
    each window."""

    def __init__(self, lane: int, items: Sequence[int], seed: int, units: list[list[int]] | None = None):
        """`items`: of each group. `units`: groups that are read together, each a window; None, in EXAMPLES of earlier
        versions: the windows are groups that the order of the epoch brings together."""
        self.lane, self.seed, self.items, self.units = lane, seed, items, units
        self.size = sum(items)
        if units is None:
            self.largest = sum(heapq.nlargest(WINDOW, items))  # no window has more items
        else:
            self.largest = max(items)
        self.largest_unit = max(sum(items[group] for group in unit) for unit in units) if units else self.largest

    def units_of(self, epoch: int) -> list[list[Window]]:
        """The windows of the epoch, in order, those of a unit together."""
        order = rng(self.seed, LANE_ORDER, epoch, self.lane).permutation(len(self.units or self.items)).tolist()
        if self.units is None:
            # Of nearly equal length. Otherwise the last window could be a single group, of neighbours in the corpus.
            count = -(-len(order) // WINDOW)
            ends = [i * len(order) // count for i in range(count + 1)]
            found = [[order[begin:end]] for begin, end in itertools.pairwise(ends)]
        else:
            found = [[[group] for group in self.units[unit]] for unit in order]
        number = itertools.count()
        return [[Window(next(number), g, sum(self.items[i] for i in g)) for g in unit] for unit in found]

    def reads(self, start: int, share: Share, whole: bool) -> Iterator[Read]:
        """The reads that have items of this worker at or after position `start` of the stream, until the share ends.

        `whole`: read the windows of a unit together, and not one by one.
        """
        lanes = share.lanes
        skipped = -((self.lane - start) // lanes)  # items of the lane before `start`
        epoch, skip = divmod(skipped, self.size)
        at = epoch * self.size  # index in the lane of the first item of the next read
        for number in itertools.count(epoch):
            ordered = self.units_of(number)
            once = sum(map(len, ordered)) == 1 or (whole and len(ordered) == 1)
            for unit in ordered:
                for windows in [unit] if whole else [[window] for window in unit]:
                    size = sum(window.size for window in windows)
                    begin, at = at, at + size
                    if at <= skipped or not size:
                        continue
                    positions = np.arange(begin, at) * lanes + self.lane
                    if positions[max(0, skipped - begin)] >= share.stop:
                        return
                    mine = (positions >= start) & (positions < share.stop)
                    mine[mine] = share.is_mine(positions[mine])
                    if mine.any():
                        yield Read(int(positions[mine][0]), self.lane, number, positions, mine, windows, once)
