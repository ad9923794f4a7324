"""Reads groups of samples with their labels: from MEDIA and a table of labels, or from EXAMPLES of earlier versions."""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from raylabel.errors import InputError
from raylabel.schema import MEDIA, ROW_GROUPS, SOFT
from raylabel.store.artifact import Artifact
from raylabel.store.files import Ranges, filesystem, open_ranges, reading
from raylabel.training.examples import media_of
from raylabel.training.lanes import Lane
from raylabel.training.layout import units
from raylabel.training.soft import Soft

OPEN = 256  # files that are kept open; a file in an object store is opened with a request for its size
THREADS = 16  # that read labels; they mostly wait


class RowGroup(NamedTuple):
    """Samples of a lane that are stored together. Item i is sample `sample[i]` with the label `label[i]`, or with the
    labels `labels[i]`, if these are given."""

    key: Sequence[int]
    media: Sequence[bytes] | pa.LargeBinaryArray
    sample: np.ndarray
    label: np.ndarray
    soft: Soft | None = None
    """Of each sample, if the EXAMPLES have it."""
    labels: Sequence[np.ndarray] | None = None
    """All labels of each item's sample."""


class _Labels(NamedTuple):
    """Rows of a table of labels."""

    counts: np.ndarray
    """Labels of each sample, int32 [n]."""
    label: np.ndarray
    """All labels, int32."""
    soft: Soft | None

    @classmethod
    def of(cls, table: pa.Table) -> Self:
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        labels = columns.pop("labels")
        counts = labels.value_lengths().to_numpy(zero_copy_only=False).astype(np.int32)
        lists = (columns[name].flatten().to_numpy().reshape(len(table), -1).copy() for name in SOFT.names if columns)
        return cls(counts, labels.flatten().to_numpy().copy(), Soft(*lists) if columns else None)

    @classmethod
    def joined(cls, some: Sequence[Self]) -> Self:
        soft = [one.soft for one in some if one.soft]
        counts, label = (np.concatenate(column) for column in list(zip(*some, strict=True))[:2])
        return cls(counts, label, Soft(*map(np.concatenate, zip(*soft, strict=True))) if soft else None)


class RowGroups(Protocol):
    """The groups of EXAMPLES. Those of a lane are numbered from 0."""

    lanes: int

    def load(self, lanes: Iterable[int], seed: int) -> dict[int, Lane]:
        """These lanes. What is needed for all their groups is read here."""
        ...

    def read(self, lane: int, groups: list[int]) -> list[RowGroup]:
        """These groups, of a lane that was loaded. Thread-safe."""
        ...


def row_groups_of(examples: Artifact, several: bool = False) -> RowGroups:
    """`several`: items are samples that have labels, with all of them, and not pairs of a sample and a label."""
    if "lane_items" not in examples.info:
        return _Stored(examples, several)
    if several:
        raise InputError(f"{examples.uri} is of an earlier version: give another root for loss 'bce'")
    return _Earlier(examples)


class _Stored:
    """MEDIA and a table of labels. RowGroups that follow each other in a file are read with one request."""

    def __init__(self, examples: Artifact, several: bool):
        self._several = several
        self.lanes: int = examples.info["lanes"]
        self._examples, self._media = examples, media_of(examples)
        self._columns = ["labels", *(SOFT.names if examples.info.get("soft") else ())]
        self._labels: dict[int, tuple[np.ndarray, _Labels]] = {}
        self._files: OrderedDict[int, Ranges] = OrderedDict()
        self._lock = threading.Lock()

    def load(self, lanes: Iterable[int], seed: int) -> dict[int, Lane]:
        wanted = sorted(lanes)
        self._names = [file.name for file in self._media.files("media-")]
        table = self._media.table("row_groups", ROW_GROUPS)
        self._of = {name: table.column(name).to_numpy() for name in ROW_GROUPS.names}
        numbers = np.unique(self._of["lane"])  # a lane all of whose samples were rejected has no group
        numbers = np.setdiff1d(numbers, self._examples.info.get("empty_lanes", []))
        first = np.cumsum(self._of["rows"], dtype=np.int64) - self._of["rows"]  # row of the table of labels
        self._groups = {lane: np.flatnonzero(self._of["lane"] == numbers[lane]) for lane in wanted}
        ranges = {}
        for lane, own in self._groups.items():
            ranges[lane] = int(first[own[0]]), int(first[own[-1]] + self._of["rows"][own[-1]])
        found: dict[int, Lane] = {}
        for lane, labels in self._read_labels(ranges).items():
            own = self._groups[lane]
            rows = np.append(0, np.cumsum(self._of["rows"][own]))
            starts = np.append(0, np.cumsum(labels.counts, dtype=np.int64))
            self._labels[lane] = starts, labels
            ends = np.append(0, np.cumsum(labels.counts > 0)) if self._several else starts
            items = np.diff(ends[rows]).tolist()
            found[lane] = Lane(lane, items, seed, units(self._of["file"][own].tolist()))
        return found

    def _read_labels(self, ranges: dict[int, tuple[int, int]]) -> dict[int, _Labels]:
        """Those of each lane, whose rows of the table of labels are given."""
        fs, folder = filesystem(self._examples.uri)
        files = self._examples.files("examples-")
        ends = np.cumsum([file.rows for file in files])

        def read(number: int) -> list[tuple[int, int, _Labels]]:
            """(lane, first row, labels) of the rows of a file that lanes need."""
            low, high = int(ends[number]) - files[number].rows, int(ends[number])
            some = {lane: (max(b, low) - low, min(e, high) - low) for lane, (b, e) in ranges.items()}
            some = {lane: (b, e) for lane, (b, e) in some.items() if b < e}
            if not some:
                return []
            where, path = f"{self._examples.uri}/{files[number].name}", f"{folder}/{files[number].name}"
            found = []
            with reading(where), pq.ParquetFile(path, filesystem=fs, pre_buffer=True) as file:
                rows = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
                stops = list(itertools.accumulate(rows))
                for (begin, end), group_lanes in _by_groups(some, stops):
                    table = file.read_row_groups(list(range(begin, end)), columns=self._columns, use_threads=False)
                    first = stops[begin] - rows[begin]
                    for lane in group_lanes:
                        own = table.slice(some[lane][0] - first, some[lane][1] - some[lane][0])
                        found.append((lane, low + some[lane][0], _Labels.of(own)))
            return found

        with ThreadPoolExecutor(THREADS) as pool:
            pieces = sorted(itertools.chain(*pool.map(read, range(len(files)))), key=lambda piece: piece[:2])
        of_lanes = {lane: list(some) for lane, some in itertools.groupby(pieces, key=lambda piece: piece[0])}
        return {lane: _Labels.joined([piece[2] for piece in some]) for lane, some in of_lanes.items()}

    def read(self, lane: int, groups: list[int]) -> list[RowGroup]:
        numbers = self._groups[lane][groups]
        file, offset, size, rows = (self._of[name][numbers] for name in ("file", "offset", "bytes", "rows"))
        if len(set(file.tolist())) != 1 or (offset[1:] != (offset + size)[:-1]).any():
            return [group for one in groups for group in self.read(lane, [one])]
        where = f"{self._media.uri}/{self._names[file[0]]}"
        with reading(where):
            batches = read_batches(self._open(int(file[0])), int(offset[0]), int(size.sum()), len(groups))
        if [len(batch) for batch in batches] != rows.tolist():
            raise AssertionError(f"{where}: groups have {[len(b) for b in batches]} samples, expected {rows.tolist()}")
        first = np.append(0, np.cumsum(self._of["rows"][self._groups[lane]]))
        starts, labels = self._labels[lane]
        found = []
        for group, batch in zip(groups, batches, strict=True):
            rows = slice(int(first[group]), int(first[group + 1]))
            of = starts[rows.start : rows.stop + 1]
            sample = np.repeat(np.arange(len(batch)), np.diff(of))
            soft = labels.soft and Soft(*(column[rows] for column in labels.soft))
            label = labels.label[of[0] : of[-1]]
            every = None
            if self._several:
                sample = np.flatnonzero(np.diff(of))
                every = [labels.label[of[one] : of[one + 1]] for one in sample]
                label = labels.label[of[sample]]
            found.append(RowGroup(batch.column(0).to_numpy(), batch.column(1), sample, label, soft, every))
        return found

    def _open(self, file: int) -> Ranges:
        with self._lock:
            if file in self._files:
                self._files.move_to_end(file)
            else:
                self._files[file] = open_ranges(f"{self._media.uri}/{self._names[file]}")
                while len(self._files) > OPEN:
                    self._files.popitem(last=False)
            return self._files[file]


def read_batches(file: Ranges, offset: int, size: int, groups: int) -> list[pa.RecordBatch]:
    """MEDIA of groups that follow each other in a file, with one request."""
    stream = pa.BufferReader(file.read_at(size, offset))
    return [pa.ipc.read_record_batch(pa.ipc.read_message(stream), MEDIA) for _ in range(groups)]


def _by_groups(some: dict[int, tuple[int, int]], stops: list[int]) -> list[tuple[tuple[int, int], list[int]]]:
    """The row groups that each lane's rows are in, as (first, end), with the lanes that are in these."""
    found: dict[tuple[int, int], list[int]] = {}
    for lane, (begin, end) in some.items():
        first, last = np.searchsorted(stops, [begin, end - 1], side="right").tolist()
        found.setdefault((first, last + 1), []).append(lane)
    return list(found.items())


class _Earlier:
    """EXAMPLES of earlier versions: the media and the labels in one parquet file, with a row group for each lane."""

    def __init__(self, examples: Artifact):
        self._items: list[list[int]] = examples.info["lane_items"]
        self.lanes = max(map(len, self._items))
        self._examples = examples
        self._names = [file.name for file in examples.files("examples-")]
        self._fs, self._folder = filesystem(examples.uri)

    def load(self, lanes: Iterable[int], seed: int) -> dict[int, Lane]:
        return {lane: Lane(lane, [self._items[file][lane] for file in self._files(lane)], seed) for lane in lanes}

    def _files(self, lane: int) -> list[int]:
        """The files that have the lane: it is the last ones that lack some."""
        return [file for file, items in enumerate(self._items) if lane < len(items)]

    def read(self, lane: int, groups: list[int]) -> list[RowGroup]:
        files = self._files(lane)
        return [self._read(lane, files[group]) for group in groups]

    def _read(self, lane: int, file: int) -> RowGroup:
        where, path = (f"{folder}/{self._names[file]}" for folder in (self._examples.uri, self._folder))
        # pre_buffer: one request reads all columns
        with reading(where), pq.ParquetFile(path, filesystem=self._fs, pre_buffer=True) as parquet:
            table = parquet.read_row_group(lane, use_threads=False)
        key, media, labels = (table.column(name).combine_chunks() for name in ("key", "media", "labels"))
        label = labels.flatten().to_numpy()
        if len(label) != self._items[file][lane]:
            raise AssertionError(f"{where}: lane {lane} has {len(label)} items, expected {self._items[file][lane]}")
        sample = np.repeat(np.arange(len(table)), labels.value_lengths().to_numpy(zero_copy_only=False))
        return RowGroup(key.to_numpy(), media, sample, label)
