"""Which training worker gets which item of a batch. Which items are in a batch does not depend on the workers.

Letters: L lanes, W workers, B items of a batch.

Item g of the stream is of lane g % L. Lanes and workers are divided into d = gcd(L, W) classes: lane l and worker w are
in the classes l % d and w % d. The items that a batch has of a class are ordered by lane, and cut into one slice for
each of the class's W / d workers, of equal lengths apart from rounding. So no worker has more than ceil(B / W) items of
any batch, whatever W is. If W divides L, a worker has whole lanes, those with l % W == w. Otherwise neighbouring slices
share lanes: (lanes of a worker, summed over the workers) / L is (W + L - d) / L, the least possible with equal slices,
and a few percent more if B is not a multiple of L, because the cuts then move with the batches.
"""

from dataclasses import dataclass
from functools import cached_property
from math import gcd

import numpy as np

CHUNK = 1 << 20  # positions that are looked at together
GOLDEN = 0.618033988749895  # multiples of it modulo 1 are spread evenly


@dataclass(frozen=True, kw_only=True)
class Share:
    """The part of a stream that one worker handles: its part of each batch."""

    lanes: int
    """L."""
    batch: int = 1
    """B."""
    stop: int
    """Items of the stream that are used; the last batch may be smaller than B."""
    rank: int = 0
    """The worker: w."""
    world: int = 1
    """W."""

    @property
    def whole_lanes(self) -> bool:
        """Whether no two workers share a lane."""
        return self.lanes % self.world == 0

    def mine(self, start: int, stop: int) -> np.ndarray:
        """The positions in [start, stop) of this worker's items, ascending, int64."""
        positions = np.arange(start, min(stop, self.stop))
        return positions[self.is_mine(positions)]

    def is_mine(self, positions: np.ndarray) -> np.ndarray:
        """Which of these positions in the stream are of this worker's items: bool. `positions`: int64, below `stop`."""
        if self.world == 1:
            return np.ones(len(positions), bool)
        classes = gcd(self.lanes, self.world)
        own = positions % classes == self.rank % classes
        if self.whole_lanes or not own.any():
            return own
        lanes, workers = self.lanes // classes, self.world // classes  # of this class
        at, batch = positions[own] // classes, positions[own] // self.batch
        batches, inverse = np.unique(batch, return_inverse=True)
        begin = batches * self.batch
        end = np.minimum(begin + self.batch, self.stop)
        # The items of the class are those at `at` in [low, high); item `at` is of lane at % lanes of the class.
        low, high = (-((self.rank % classes - x) // classes) for x in (begin, end))
        lane = self._order[:, None]
        first, last = (-((lane - x) // lanes) for x in (low, high))  # items of each lane before the batch, to its end
        before = np.zeros((lanes, len(batches)), np.int64)
        before[self._order[1:]] = np.cumsum(last - first, axis=0)[:-1]
        first[self._order] = first.copy()
        rank = before[at % lanes, inverse] + at // lanes - first[at % lanes, inverse]
        own[own] = rank * workers // (high - low)[inverse] == self.rank // classes
        return own

    @cached_property
    def _order(self) -> np.ndarray:
        """The lanes of a class in the order in which they are cut. If B is not a multiple of L, the lanes with one item
        more are consecutive; in this order they are spread evenly, so the cuts move little."""
        return np.argsort(np.arange(self.lanes // gcd(self.lanes, self.world)) * GOLDEN % 1, kind="stable")

    @cached_property
    def parts(self) -> dict[int, float]:
        """The lanes that have items of this worker → the part of their items that is its own. Found in the batches
        until their lanes repeat, and in the last one."""
        cycle = min(self.lanes // gcd(self.lanes, self.batch) * self.batch, self.stop)
        last = (self.stop - 1) // self.batch * self.batch
        mine, every = np.zeros((2, self.lanes), np.int64)
        for begin, end in [*((at, min(at + CHUNK, cycle)) for at in range(0, cycle, CHUNK)), (last, self.stop)]:
            positions = np.arange(begin, end)
            mine += np.bincount(self.mine(begin, end) % self.lanes, minlength=self.lanes)
            every += np.bincount(positions % self.lanes, minlength=self.lanes)
        return {int(lane): float(mine[lane] / every[lane]) for lane in np.flatnonzero(mine)}
