"""The peak memory of a process of the pilot, and how the pilot samples the corpus."""

import resource
import sys

import numpy as np

from raylabel.corpus import Shards, Unit, Units

DRAWN = 4096  # units of the corpus that a pilot may visit


def peak_memory() -> int:
    """Peak memory of this process, bytes, libraries included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_device_memory() -> int | None:
    """Peak GPU memory that this process has reserved, bytes; None if it has no GPU."""
    import torch

    return torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None


def draw(shards: Shards, size: int) -> list[Unit]:
    """Units of `size` rows, drawn at random from the corpus without replacement, so that its order has no effect."""
    units = Units(shards.rows, size)
    some = np.random.default_rng(0).choice(len(units), min(len(units), DRAWN), replace=False)
    return [units[int(i)] for i in some]


def stretch(shards: Shards, unit: Unit, rows: int, size: int) -> list[Unit]:
    """`rows` rows from the first row of the unit on, or up to the end of its shard, as units of `size` rows."""
    end = min(unit.first + rows, int(shards.rows[unit.shard]))
    return [Unit(unit.shard, first, min(size, end - first)) for first in range(unit.first, end, size)]
