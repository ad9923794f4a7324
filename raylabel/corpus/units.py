"""The fixed units of work in a corpus."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from raylabel.corpus.config import Corpus

UNIT = 1024  # rows of a unit of images
VIDEO = 32  # a unit of videos has so many times fewer rows: ten clips of a video take as long as a hundred images


def unit_rows(corpus: Corpus) -> int:
    """Rows of a unit of the corpus."""
    return UNIT if corpus.kind == "image" else max(1, UNIT // VIDEO)


@dataclass(frozen=True)
class Unit:
    """A unit of work: `rows` rows of `shard` from row `first` on. It depends on the corpus, never on the cluster."""

    shard: int
    first: int
    rows: int
    only: tuple[int, ...] = ()
    """The indices of the `rows` rows, in ascending order, if they are not consecutive; empty otherwise."""


@dataclass(frozen=True, eq=False)
class UnitRange(Sequence[Unit]):
    """Units without `only`, as columns int64 [n]: smaller and faster than a list of them."""

    shard: np.ndarray
    first: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.shard)

    @overload
    def __getitem__(self, index: int) -> Unit: ...
    @overload
    def __getitem__(self, index: "slice | np.ndarray") -> "UnitRange": ...

    def __getitem__(self, index: "int | slice | np.ndarray") -> "Unit | UnitRange":
        shard, first, rows = self.shard[index], self.first[index], self.rows[index]
        return Unit(int(shard), int(first), int(rows)) if isinstance(index, int) else UnitRange(shard, first, rows)

    def __iter__(self) -> Iterator[Unit]:
        return map(Unit, self.shard.tolist(), self.first.tolist(), self.rows.tolist())


class Units:
    """The units of a corpus in key order: each row is in one unit, and no unit spans two shards.

    It is indexed and iterated like a list, but stores only two numbers per shard: each unit is computed when it is
    requested.
    """

    def __init__(self, rows: np.ndarray, size: int) -> None:
        """`rows`: int64 [S], the rows of each shard. A unit has `size` rows; a shard's last unit has the remainder."""
        self._rows, self._size = rows, size
        self._ends = np.cumsum(-(-rows // size))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __iter__(self) -> Iterator[Unit]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Unit:
        """IndexError if `index` is not in 0 .. len - 1."""
        if not 0 <= index < len(self):
            raise IndexError(f"unit {index} of {len(self)}")
        shard = int(np.searchsorted(self._ends, index, side="right"))
        rows = int(self._rows[shard])
        first = (index - int(self._ends[shard]) - -rows // self._size) * self._size
        return Unit(shard, first, min(self._size, rows - first))

    def between(self, first: int, end: int) -> "UnitRange":
        """The units from index `first` up to `end`, or up to the last one."""
        index = np.arange(first, min(end, len(self)))
        shard = np.searchsorted(self._ends, index, side="right")
        rows = self._rows[shard]
        row = (index - self._ends[shard] - -rows // self._size) * self._size
        return UnitRange(shard, row, np.minimum(self._size, rows - row))

    def containing(self, shard: np.ndarray, row: np.ndarray) -> np.ndarray:
        """int64 [n]: the indices of the units that contain rows of shards."""
        return self._ends[shard] - -(-self._rows[shard] // self._size) + row // self._size

    def index(self, shard: int, first: int) -> int:
        """The index of the unit that begins at row `first` of `shard`."""
        return int(self.containing(np.array(shard), np.array(first)))
