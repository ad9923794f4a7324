"""Samples of a corpus and samples of sets → PAIRS, in memory.

A pair is a near-duplicate if the cosine of both descriptors is at least CANDIDATE (features/thumbnails.py), and the
correlation of their edges, once they are aligned, is at least the threshold (features/alignment.py).

Letters: N samples, E samples of the sets, n pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raylabel.features.alignment import similarities
from raylabel.features.search import References
from raylabel.features.thumbnails import descriptors
from raylabel.schema import PAIRS
from raylabel.selection.samples import Samples, take

CANDIDATE = 0.62  # cosine of descriptors: all planted copies that the second test confirms are above it
MOST = 8  # rows of a sample per set and kind: placeholders ("image not available") would make a billion
ALIGNED = 1 << 16  # candidates whose thumbnails are in memory at a time, 0.2 GB
IN_A_SET = ("bytes", "near", "video")
KINDS = (*IN_A_SET, "below")
BELOW = 0.05  # pairs whose similarity is at most so far below the threshold are kept, to choose it by eye


@dataclass(frozen=True)
class Sets:
    """The sets that a corpus is compared with, together."""

    names: tuple[str, ...]
    number: np.ndarray
    """int64 [E]: which set a sample is of."""
    samples: Samples


def pairs_of(samples: Samples, sets: Sets, references: References | None, threshold: float) -> pa.Table:
    """PAIRS of samples. `references`: the descriptors of the sets; None: near-duplicates are not searched for. Pairs of
    the same bytes are not near-duplicates too."""
    theirs, found = sets.samples, list[_Found]()
    for number in range(len(sets.names)):
        first, end = np.searchsorted(sets.number, [number, number + 1]).tolist()
        some = slice(first, end)
        found.append(_equal(samples.digest, theirs.digest[some], first, "bytes", 1.0))
        found.append(
            _equal(samples.group, np.where(theirs.group[some], theirs.group[some], -1), first, "video", np.nan)
        )
    if references is not None:
        found.append(_near(samples, theirs, references, threshold))
    at, other, kind, similarity = (np.concatenate(column) for column in zip(*found, strict=True))
    number = sets.number[other]
    order = _most(at, number, kind, similarity, other)
    at, other, kind, similarity = (column[order] for column in (at, other, kind, similarity))
    columns = [
        pa.array(samples.key[at]),
        pa.array([sets.names[i] for i in sets.number[other]], pa.string()),
        pa.array(theirs.key[other]),
        pa.array([KINDS[i] for i in kind], pa.string()),
        pa.array(similarity, pa.float32(), from_pandas=True),
    ]
    return pa.Table.from_arrays(columns, schema=PAIRS)


def merge(tables: Sequence[pa.Table], names: Sequence[str]) -> pa.Table:
    """PAIRS of the same or of other samples with several parts of the sets, as if these had been compared together."""
    table = pa.concat_tables(tables)
    key, reference, similarity = (table.column(name).to_numpy() for name in ("key", "reference", "similarity"))
    number, kind = (
        np.array([known.index(one) for one in table.column(name).to_pylist()], np.int64)
        for name, known in (("set", names), ("kind", KINDS))
    )
    return table.take(_most(key, number, kind, similarity, reference))


def _most(
    at: np.ndarray, number: np.ndarray, kind: np.ndarray, similarity: np.ndarray, other: np.ndarray
) -> np.ndarray:
    """The order of rows, without those that are beyond MOST."""
    order = np.lexsort((other, -np.nan_to_num(similarity), kind, number, at))
    return order[ranks(at[order], number[order], kind[order]) < MOST]


_Found = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Positions of samples, positions in the sets, indices in KINDS, similarities float32 (NaN: none), each [n]."""


def _equal(mine: np.ndarray, others: np.ndarray, first: int, kind: str, similarity: float) -> _Found:
    """The pairs of equal values; of each sample the first MOST. `first`: the position of the first of the others."""
    order = np.argsort(others, kind="stable")
    low, high = (np.searchsorted(others[order], mine, side) for side in ("left", "right"))
    count = np.minimum(high - low, MOST)
    at = np.repeat(np.arange(len(mine)), count)
    rank = np.arange(len(at)) - np.repeat(np.cumsum(count) - count, count)
    other = first + order[low[at] + rank]
    return at, other, np.full(len(at), KINDS.index(kind)), np.full(len(at), similarity, np.float32)


def _near(samples: Samples, theirs: Samples, references: References, threshold: float) -> _Found:
    """The near-duplicates with other bytes, and the pairs below."""
    found = references.pairs(descriptors(samples.thumbnail))
    at, other = found.at, found.reference
    new = samples.digest[at] != theirs.digest[other]
    at, other = at[new], other[new]
    similarity = np.empty(len(at), np.float32)
    for first in range(0, len(at), ALIGNED):
        some = slice(first, first + ALIGNED)
        similarity[some] = similarities(samples.thumbnail[at[some]], theirs.thumbnail[other[some]])
    keep = similarity >= np.float32(threshold - BELOW)
    kind = np.where(similarity[keep] >= np.float32(threshold), KINDS.index("near"), KINDS.index("below"))
    return at[keep], other[keep], kind, similarity[keep]


def starts(*columns: np.ndarray) -> np.ndarray:
    """bool [n]: whether a row differs from the one before it."""
    new = np.ones(len(columns[0]), bool)
    new[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return new


def ranks(*columns: np.ndarray) -> np.ndarray:
    """int64 [n]: how many rows before a row, one after the other, are equal to it."""
    begin = np.flatnonzero(starts(*columns))
    return np.arange(len(columns[0])) - np.repeat(begin, np.diff(np.append(begin, len(columns[0]))))


def only(sets: Sets, some: np.ndarray) -> Sets:
    """Some of the samples of the sets, by a mask."""
    return Sets(sets.names, sets.number[some], take(sets.samples, some))
