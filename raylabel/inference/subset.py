"""The samples of a corpus that are scored, if not all are: those in a table of keys, such as TAGS.

Units and parts are those of the whole corpus, so that the bytes depend on no cluster. The driver knows how many samples
of each unit are scored, 4 bytes a unit; an actor reads the keys of its own units.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import ray

from raylabel.compute.tasks import fetch
from raylabel.corpus import Unit, UnitRange, Units
from raylabel.schema import make_key, split_key
from raylabel.store.artifact import Artifact
from raylabel.store.files import filesystem, reading

READS = 16  # at a time: small ones, which mostly wait


@dataclass(frozen=True, eq=False)
class Subset:
    """Where the keys of the samples are. Plain data, so that Ray can send it."""

    uris: tuple[str, ...]
    """Files whose first column is the key, ascending within a file and from file to file."""
    first: np.ndarray
    """int64 [F]: the first key of each."""
    unit: int
    """Rows of a unit of the corpus."""

    @classmethod
    def of(cls, table: Artifact, unit: int) -> "Subset":
        """The samples in the files of an artifact; of each file the footer is read."""
        uris = [f"{table.uri}/{file.name}" for file in table.files(f"{table.name}-") if file.rows]
        with ThreadPoolExecutor(READS) as pool:
            return cls(tuple(uris), np.fromiter(pool.map(_first_key, uris), np.int64, len(uris)), unit)

    def counts(self, units: Units) -> np.ndarray:
        """int32 [units of the corpus]: how many samples of each are scored. A task for each file."""
        found, of_corpus = np.zeros(len(units), np.int32), ray.put(units)
        for reference in [_count.remote(of_corpus, uri) for uri in self.uris]:
            index, count = fetch(reference)
            found[index] += count  # distinct ones: a file has no unit twice
        return found

    def narrow(self, units: Sequence[Unit]) -> list[Unit]:
        """These units, in key order, with the rows that are scored; they stay as they are if their rows are given."""
        if not len(units) or units[0].only:
            return list(units)
        low, high = (make_key(one.shard, one.first) for one in (units[0], units[-1]))
        keys, narrowed = self._between(low, high + self.unit - 1), []
        for unit in units:
            start = make_key(unit.shard, unit.first)
            some = keys[np.searchsorted(keys, start) : np.searchsorted(keys, start + self.unit)]
            rows = tuple(split_key(key)[1] for key in some.tolist())
            if len(rows) != unit.rows:
                raise AssertionError(f"{unit} has {len(rows)} keys in {self.uris[0].rpartition('/')[0]}")
            narrowed.append(Unit(unit.shard, rows[0], len(rows), rows))
        return narrowed

    def _between(self, low: int, high: int) -> np.ndarray:
        """The keys from `low` to `high`, int64, ascending."""
        begin = max(0, int(np.searchsorted(self.first, low, side="right")) - 1)
        uris = self.uris[begin : int(np.searchsorted(self.first, high, side="right"))]
        found = [np.empty(0, np.int64), *(_keys(uri, low, high) for uri in uris)]
        keys = np.concatenate(found)
        return keys[(keys >= low) & (keys <= high)]


def units_between(units: Units, counts: np.ndarray | None, first: int, end: int) -> UnitRange:
    """The units from index `first` up to `end`; with `counts`, those that have samples to score, and their number."""
    found = units.between(first, end)
    if counts is None:
        return found
    rows = counts[first : first + len(found)].astype(np.int64)
    return UnitRange(found.shard, found.first, rows)[rows > 0]


def _first_key(uri: str) -> int:
    fs, path = filesystem(uri)
    with reading(uri):
        return pq.read_metadata(path, filesystem=fs).row_group(0).column(0).statistics.min


def _keys(uri: str, low: int, high: int) -> np.ndarray:
    """The keys in the row groups of a file that have some from `low` to `high`."""
    fs, path = filesystem(uri)
    with reading(uri), pq.ParquetFile(path, filesystem=fs) as file:
        ranges = [file.metadata.row_group(i).column(0).statistics for i in range(file.num_row_groups)]
        groups = [i for i, one in enumerate(ranges) if one.max >= low and one.min <= high]
        return file.read_row_groups(groups, columns=["key"], use_threads=False)["key"].to_numpy()


@ray.remote(num_cpus=1, max_retries=3)
def _count(units: Units, uri: str) -> tuple[np.ndarray, np.ndarray]:
    """The indices of the units that have keys in a file, and how many."""
    key = _keys(uri, 0, np.iinfo(np.int64).max)
    index, count = np.unique(units.containing(key >> 32, key & 0xFFFFFFFF), return_counts=True)
    return index, count.astype(np.int32)
