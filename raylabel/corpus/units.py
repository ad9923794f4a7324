"""The fixed units of work in a corpus."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Unit:
    """A piece of work that the corpus fixes, never the cluster: `rows` rows of `shard` from row `first` on."""

    shard: int
    first: int
    rows: int
    only: tuple[int, ...] = ()
    """These `rows` rows, in order, where they are not all that follow `first`."""


class Units:
    """The units of a corpus in key order: each row is in one, and none crosses a shard.

    A sequence in all but name: it holds two numbers a shard and works each unit out when it is asked for.
    """

    def __init__(self, rows: np.ndarray, size: int) -> None:
        """`rows`: int64 [S], those of every shard. A unit has `size` of them, the last one of a shard what is left."""
        self._rows, self._size = rows, size
        self._ends = np.cumsum(-(-rows // size))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __iter__(self) -> Iterator[Unit]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Unit:
        """IndexError if it is not in 0 .. len - 1."""
        if not 0 <= index < len(self):
            raise IndexError(f"unit {index} of {len(self)}")
        shard = int(np.searchsorted(self._ends, index, side="right"))
        rows = int(self._rows[shard])
        first = (index - int(self._ends[shard]) - -rows // self._size) * self._size
        return Unit(shard, first, min(self._size, rows - first))

    def index(self, shard: int, first: int) -> int:
        """The index of the unit that begins at row `first` of `shard`."""
        return int(self._ends[shard]) - -(-int(self._rows[shard]) // self._size) + first // self._size
