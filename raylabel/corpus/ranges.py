"""A parquet file or tar whose byte ranges are read ahead, and delivered to the parsers as from an open file."""

import io
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import NamedTuple

import pyarrow.parquet as pq

from raylabel.schema import MAX_BYTES
from raylabel.store.fetch import Block, Plan, Queue
from raylabel.store.files import Ranges, open_ranges

BLOCK = 4 << 20  # bytes of a request: with HELD bytes in flight or held, 32 requests
GAP = 128 << 10  # bytes that are read although they are not needed, to save a request


class Range(NamedTuple):
    """The bytes from `start` up to `end`."""

    start: int
    end: int


class _Piece(Block):
    """A block of a file; `left`: needed bytes of it that were not read yet."""

    def __init__(self, file: "RangeFile", start: int, end: int, needed: int) -> None:
        super().__init__(end - start, partial(file.fetch, start, end))
        self.start, self.end, self.left = start, end, needed


class RangeFile(io.RawIOBase):
    """An open file in an object store, for one reader. Ranges that were planned are read ahead; others when needed.

    A block is held until all of its needed bytes were read, or until `release`. Once all blocks arrived, the file is
    checked, ahead of the reader too.
    """

    def __init__(self, uri: str, queue: Queue, check: Callable[[Ranges], None]) -> None:
        """Opens the file; `check` raises an error if it is not the one that was indexed. FileNotFoundError, OSError."""
        super().__init__()
        self.footer: pq.FileMetaData | None = None
        """That of a parquet file, if it was read before."""
        self.failure: OSError | None = None
        """An error of the storage."""
        self._queue, self._check, self._file = queue, check, open_ranges(uri)
        self._size, self._at = self._file.size(), 0
        self._pieces: list[_Piece] = []
        self._starts: list[int] = []
        self._arrived, self._guard = 0, threading.Lock()
        self._verified: Future[None] | None = None

    def fill(self, plan: Plan, ranges: Iterable[Range], once: bool = True) -> None:
        """Plans to read the ranges, which do not overlap. `once`: whether each byte is read once at most; if not, what
        was read is held until `release`."""
        self._pieces = [
            _Piece(self, start, end, needed if once else MAX_BYTES) for start, end, needed in _pieces(ranges)
        ]
        self._starts = [piece.start for piece in self._pieces]
        plan.fill(self._pieces)

    def size(self) -> int:
        return self._size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = (0, self._at, self._size)[whence] + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes | memoryview:  # pyright: ignore[reportIncompatibleMethodOverride]
        """All bytes that were asked for, up to the end of the file."""
        found = self.view(self._size if size is None or size < 0 else size, self._at)
        self._at += len(found)
        return found

    def read_at(self, count: int, offset: int) -> bytes:
        return bytes(self.view(count, offset))

    def view(self, count: int, offset: int) -> memoryview:
        """`read_at`, without a copy if the bytes are of one block."""
        end, found = min(offset + count, self._size), []
        while offset < end:
            data = self._next(offset, end)
            if not data:
                break  # the file has become shorter
            found.append(data)
            offset += len(data)
        return found[0] if len(found) == 1 else memoryview(b"".join(found))

    def _next(self, at: int, end: int) -> memoryview:
        """Some of the bytes from `at` up to `end`."""
        index = bisect_right(self._starts, at) - 1
        piece = self._pieces[index] if index >= 0 else None
        if piece is None or at >= piece.end or piece.released:
            later = self._starts[index + 1] if index + 1 < len(self._starts) else end
            self._verified = None  # these bytes are read after the check
            return memoryview(self.fetch(at, min(end, later if later > at else end), planned=False))
        data = memoryview(self._queue.take(piece))[at - piece.start : end - piece.start]
        piece.left -= len(data)
        if piece.left <= 0:
            self._queue.release(piece)
        return data

    def release(self, before: int, after: int = 0) -> None:
        """Says that no byte before this one, and from byte `after` on, will be read again."""
        for piece in self._pieces[bisect_left(self._starts, after) : bisect_left(self._starts, before)]:
            if piece.end <= before and not piece.released:
                self._queue.release(piece)

    def fetch(self, start: int, end: int, planned: bool = True) -> bytes:
        try:
            data = self._file.read_at(end - start, start)
        except OSError as error:
            self.failure = error
            raise
        if planned:
            with self._guard:
                self._arrived += 1
                last = self._arrived == len(self._pieces)
            if last:
                self._verified = self._queue.fetcher.submit(self._check, self._file)
        return data

    def check(self) -> None:
        """An error if it is not the file that was indexed, judged after its last byte was read."""
        if self._verified:
            self._verified.result()
        else:
            self._check(self._file)

    def close(self) -> None:
        if not self.closed:
            for piece in self._pieces:
                if not piece.released:
                    self._queue.release(piece)
            self._file.close()
        super().close()


class AheadReader:
    """The methods of a ForwardReader that TarReader calls, for a file that is read ahead."""

    def __init__(self, file: RangeFile) -> None:
        self.file, self.size = file, file.size()
        self.release, self.close = file.release, file.close

    def read(self, at: int, count: int) -> bytes:
        return self.file.read_at(count, at)

    def start(self, at: int, end: int = 0) -> None:
        """Nothing is to be done: the ranges are planned."""


def _pieces(ranges: Iterable[Range]) -> Iterator[tuple[int, int, int]]:
    """(start, end, needed bytes) of the blocks in which the ranges are read, in order."""
    merged: list[list[Range]] = []
    for one in sorted(one for one in ranges if one.end > one.start):
        if merged and one.start - merged[-1][-1].end <= GAP:
            merged[-1].append(one)
        else:
            merged.append([one])
    for some in merged:
        first, last = some[0].start, some[-1].end
        count = -(-(last - first) // BLOCK)
        cuts = [first + (last - first) * i // count for i in range(count + 1)]
        at = 0
        for start, end in zip(cuts, cuts[1:], strict=False):
            while some[at].end <= start:
                at += 1
            needed, index = 0, at
            while index < len(some) and some[index].start < end:
                needed += min(end, some[index].end) - max(start, some[index].start)
                index += 1
            yield start, end, needed


Wanted = tuple[int, int, int]  # (row group, its first row, the index in `rows` after the last of its rows)


def wanted_groups(footer: pq.FileMetaData, rows: Sequence[int]) -> Iterator[Wanted]:
    """The row groups that contain one of the rows."""
    start, at = 0, 0
    for group in range(footer.num_row_groups):
        before, start = start, start + footer.row_group(group).num_rows
        end = bisect_left(rows, start, at)
        if end > at:
            yield group, before, end
            at = end


def parquet_ranges(footer: pq.FileMetaData, rows: Sequence[int], columns: Collection[str]) -> Iterator[Range]:
    """The bytes of the columns in the row groups of these rows; of the last row group, up to about its last row."""
    for number, first, end in wanted_groups(footer, rows):
        group = footer.row_group(number)
        share = min(1.0, (rows[end - 1] + 1 - first) / max(1, group.num_rows))
        for column in map(group.column, range(group.num_columns)):
            if any(f"{column.path_in_schema}.".startswith(f"{name}.") for name in columns):
                start, size = column_range(column)
                yield Range(start, start + (size if share == 1 else min(size, int(size * share) + BLOCK // 4)))


def column_range(column: pq.ColumnChunkMetaData) -> tuple[int, int]:
    """(position, bytes) of a column chunk."""
    start = column.data_page_offset
    if column.has_dictionary_page:
        start = min(start, column.dictionary_page_offset)
    return start, column.total_compressed_size
