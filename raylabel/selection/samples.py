"""The samples of SCORES or PICTURES in memory, with their THUMBNAILS.

Letter: N samples.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raylabel.schema import DIGEST_BYTES, THUMBNAILS
from raylabel.store.artifact import Artifact
from raylabel.store.files import read_file, reading


@dataclass(frozen=True)
class Samples:
    """Samples of a corpus or of sets."""

    NAMES: ClassVar = ("key", "digest", "group")
    """Those that all have."""

    key: np.ndarray
    """int64 [N], ascending within a set"""
    digest: np.ndarray
    """S16 [N]"""
    group: np.ndarray
    """int64 [N], 0 without a source video"""
    thumbnail: Any
    """uint8 [N, side * side * 3]; None: near-duplicates are not searched for."""


def take(samples: Samples, some: Any) -> Samples:
    """Some of the samples, by a slice or a mask."""
    thumbnail = None if samples.thumbnail is None else samples.thumbnail[some]
    return Samples(samples.key[some], samples.digest[some], samples.group[some], thumbnail)


def number_of(name: str) -> int:
    """The part that a file is of."""
    return int(name.rpartition("-")[2].removesuffix(".parquet"))


def read_samples(artifact: Artifact, part: int, near: bool) -> Samples:
    """Those of a part of SCORES or PICTURES."""
    table = read_table(artifact.uri, artifact.name, part, [*Samples.NAMES])
    digest, thumbnail = _fixed(table.column("digest")).view(f"S{DIGEST_BYTES}")[:, 0], None
    if near:
        beside = read_table(artifact.uri, "thumbnails", part, THUMBNAILS.names)
        if not beside.column("key").equals(table.column("key")):
            raise AssertionError(
                f"part {part} of {artifact.uri} has thumbnails of other samples: delete it and run again"
            )
        thumbnail = _fixed(beside.column("thumbnail"))
    key, group = (table.column(name).to_numpy() for name in ("key", "group"))
    return Samples(key, digest, group, thumbnail)


def _fixed(column: pa.ChunkedArray) -> np.ndarray:
    """uint8 [N, width] of binary values of one width."""
    values: Any = column.combine_chunks()
    found = np.frombuffer(values.buffers()[1] or b"", np.uint8).reshape(-1, values.type.byte_width)
    return found[values.offset : values.offset + len(values)]


def read_table(folder: str, name: str, part: int, columns: list[str]) -> pa.Table:
    """Some columns of a part of an artifact."""
    uri = f"{folder}/{name}-{part:06d}.parquet"
    with reading(uri):
        return pq.read_table(pa.BufferReader(read_file(uri)), columns=columns, use_threads=False)
