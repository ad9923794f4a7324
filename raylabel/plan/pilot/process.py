"""What a process of the pilot tells of itself, and how the corpus is sampled."""

import resource
import sys

import numpy as np

from raylabel.corpus import Shards, Unit, Units

DRAWN = 4096  # units of the corpus that a pilot may visit


def peak_memory() -> int:
    """The most bytes of memory that this process has held, libraries included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_device_memory() -> int | None:
    """The most bytes of its GPU's memory that this process has reserved; None if it has no GPU."""
    import torch

    return torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None


def draw(shards: Shards, size: int) -> list[Unit]:
    """Units of so many rows of the corpus at random, each at most once: fair whatever order the corpus has."""
    units = Units(shards.rows, size)
    some = np.random.default_rng(0).choice(len(units), min(len(units), DRAWN), replace=False)
    return [units[int(i)] for i in some]


def stretch(shards: Shards, unit: Unit, rows: int, size: int) -> list[Unit]:
    """So many rows of the corpus from the unit's first on, or what its shard has of them, as units of `size` rows."""
    end = min(unit.first + rows, int(shards.rows[unit.shard]))
    return [Unit(unit.shard, first, min(size, end - first)) for first in range(unit.first, end, size)]
