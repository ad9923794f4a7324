"""A share of a corpus: the same samples on any cluster and in any order, and a smaller share is part of a larger one.

A sample belongs to the share if a hash of its identity, as a number in [0, 1), is below `corpus.share`. The identity of
a loose file is its path as it is stored in SHARDS, so that all segments of a file belong together; that of a row of a
parquet file or tar is the fingerprint of the file and the row's number. SHARDS count only the rows of the share, and
only these have keys, but fingerprints, bytes and `paths` are those of whole shards.
"""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from raylabel.corpus.lists import split_line
from raylabel.rng import WEYL, finalize, uniform


def of_packed(share: float, fingerprint: str, count: int) -> np.ndarray:
    """Which of the first `count` rows of a parquet file or tar belong to the share; bool [count]."""
    states = np.arange(count, dtype=np.uint64) * np.uint64(WEYL) + _hash(fingerprint)
    return uniform(finalize(states)) < share


def of_files(share: float, uri: str, lines: Sequence[str]) -> np.ndarray:
    """Which loose files belong to the share; bool [len(lines)]. `uri` and `lines` are those of SHARDS."""
    return uniform(np.array([_hash(split_line(uri, line).path) for line in lines], np.uint64)) < share


def of_whole(share: float, shard: Mapping[str, Any], values: list[Any]) -> list[Any]:
    """The values of the rows of the share; `values` has one for each row of the whole shard, or is empty."""
    return values if share == 1 else list(itertools.compress(values, used(share, shard, len(values))))


def used(share: float, shard: Mapping[str, Any], count: int) -> np.ndarray:
    """Which of the first `count` rows of the whole shard belong to the share; bool [count]."""
    if share == 1:
        return np.ones(count, bool)
    if shard["format"] == "files":
        return of_files(share, shard["uri"], shard["paths"][:count])
    return of_packed(share, shard["fingerprint"], count)


def rows_of(share: float, shard: Mapping[str, Any]) -> np.ndarray:
    """Where the rows of the share are in the whole shard: ascending, int64 [rows]. `shard` is its row of SHARDS."""
    if share == 1:
        return np.arange(shard["rows"])
    if shard["format"] == "files":
        return np.flatnonzero(of_files(share, shard["uri"], shard["paths"]))
    return _rows_of_packed(share, shard["fingerprint"], shard["rows"])


@lru_cache(maxsize=8)
def _rows_of_packed(share: float, fingerprint: str, rows: int) -> np.ndarray:
    # SHARDS do not contain the number of rows of the whole file.
    count = int(rows / share) + 1
    while len(found := np.flatnonzero(of_packed(share, fingerprint, count))) < rows:
        count += count // 8 + 1
    return found[:rows]


def _hash(text: str) -> np.uint64:
    return np.frombuffer(hashlib.blake2b(text.encode(), digest_size=8).digest(), "<u8")[0]
