"""A reference to SHARDS that is cheap to send to other processes and reads only the requested rows."""

import itertools
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raylabel.corpus.config import THREADS
from raylabel.schema import SHARDS
from raylabel.store.artifact import Artifact, File
from raylabel.store.files import filesystem, reading


@dataclass(frozen=True)
class Shards:
    """The SHARDS of a corpus: S shards, numbered by their row.

    The table may be larger than memory: it contains the path of every loose file. A pickled copy contains only the
    URI, name and digest of the artifact. What a process reads of the table is cached in that process and shared by all
    copies there.
    """

    artifact: Artifact

    def __reduce__(self) -> tuple[Callable[..., "Shards"], tuple[Artifact]]:
        return Shards, (Artifact(self.artifact.uri, self.artifact.name, self.artifact.digest),)  # without its manifest

    def __len__(self) -> int:
        return _starts(self.artifact)[-1]

    @property
    def rows(self) -> np.ndarray:
        """Samples in each shard, int64 [S], read-only; reads that column alone."""
        return _rows(self.artifact)

    @property
    def samples(self) -> int:
        """Samples in all shards, N."""
        return int(self.rows.sum())

    @property
    def format(self) -> str:
        """parquet, webdataset or files; a corpus has one form."""
        return self.row(0)["format"]

    def row(self, number: int) -> dict[str, Any]:
        """A row of SHARDS; IndexError if there is none. Reads the row group that contains it, about a megabyte."""
        if not 0 <= number < len(self):
            raise IndexError(f"shard {number} of {len(self)}")
        starts = _starts(self.artifact)
        file = bisect_right(starts, number) - 1
        _, groups = _footer(self.artifact, file)
        group = bisect_right(groups, number - starts[file]) - 1
        at = number - starts[file] - groups[group]
        return _group(self.artifact, file, group).slice(at, 1).to_pylist()[0]

    def columns(self, *names: str) -> pa.Table:
        """These columns of all rows, in memory. Only for columns of a few bytes per shard: not for `paths`."""
        files = range(len(_starts(self.artifact)) - 1)
        with ThreadPoolExecutor(THREADS) as pool:
            tables = list(pool.map(lambda file: _read(self.artifact, file, names), files))
        return pa.concat_tables([pa.schema([SHARDS.field(name) for name in names]).empty_table(), *tables])


# An artifact never changes, so its data can be cached for the life of the process.


@lru_cache(maxsize=16)
def _files(artifact: Artifact) -> list[File]:
    return artifact.files("shards")


@lru_cache(maxsize=16)
def _starts(artifact: Artifact) -> list[int]:
    """The number of the first shard in each file, then S."""
    return [0, *itertools.accumulate(file.rows for file in _files(artifact))]


@lru_cache(maxsize=16)
def _rows(artifact: Artifact) -> np.ndarray:
    rows = Shards(artifact).columns("rows").column("rows").to_numpy()
    rows.flags.writeable = False
    return rows


@lru_cache(maxsize=64)
def _footer(artifact: Artifact, file: int) -> tuple[pq.FileMetaData, list[int]]:
    """A file's footer, and the first row of each of its row groups."""
    with _open(artifact, file) as opened:
        footer = opened.metadata
    sizes = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
    return footer, [0, *itertools.accumulate(sizes[:-1])]


@lru_cache(maxsize=8)
def _group(artifact: Artifact, file: int, group: int) -> pa.Table:
    with _open(artifact, file, _footer(artifact, file)[0]) as opened:
        return opened.read_row_group(group)


def _read(artifact: Artifact, file: int, names: Sequence[str]) -> pa.Table:
    with _open(artifact, file) as opened:
        return opened.read(list(names))


@contextmanager
def _open(artifact: Artifact, file: int, footer: pq.FileMetaData | None = None) -> Iterator[pq.ParquetFile]:
    fs, path = filesystem(artifact.uri)
    name = _files(artifact)[file].name
    with reading(f"{artifact.uri}/{name}"), pq.ParquetFile(f"{path}/{name}", filesystem=fs, metadata=footer) as opened:
        yield opened
