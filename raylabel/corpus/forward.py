"""Reads a file forward with few requests, each byte at most once, from a local disk or an object store."""

import bisect
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import pyarrow as pa
import pyarrow.fs as pafs

from raylabel.compute.watchdog import heartbeat
from raylabel.corpus.config import locate

# In an object store a request takes about as long as 2 MB of data. A jump over less than half of that is read.
BLOCK = 8 << 20  # bytes of a request, at most
FIRST = 1 << 16  # bytes of the first request, and of the first after a jump; each next one is twice as large
JUMP = 1 << 20  # bytes that are not needed, from which on they are skipped
LARGE = 4  # blocks of a member, from which on it is requested when it is wanted, also if most members are
# On a local disk a request takes microseconds, and bytes between two headers are not read.
LOCAL_BLOCK = 1 << 20
LOCAL_FIRST = 1 << 14


class ForwardReader:
    """A file, of which `read` returns any bytes. What was read is held until `release`, and read only once until then.

    The size of requests adapts: small where far bytes are read, as by a reader of headers that skips large members, and
    BLOCK where all is read. In an object store, `streams` requests are in flight then.
    """

    def __init__(self, uri: str, streams: int = 1) -> None:
        """FileNotFoundError if the file does not exist."""
        self._fs, self._path, _ = locate(uri)
        self.local = isinstance(self._fs, pafs.LocalFileSystem)
        self.file: pa.NativeFile = self._fs.open_input_file(self._path)
        self.size: int = self.file.size()
        self._most, self._least = (LOCAL_BLOCK, LOCAL_FIRST) if self.local else (BLOCK, FIRST)
        self._length = self._least
        self._held: list[tuple[int, bytes]] = []  # blocks by position, without overlap
        self._at = 0  # where the last request ended
        self._whole = 0  # the bytes before this one will all be read
        self._end = self.size  # nothing is read ahead from this byte on
        self._ahead: deque[tuple[int, Future[bytes]]] = deque()  # requests of whole blocks: position, bytes
        self._streams = 1 if self.local else streams
        self._threads: ThreadPoolExecutor | None = None
        self._files: deque[pa.NativeFile] = deque([self.file])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._drop_ahead()
        if self._threads:
            self._threads.shutdown()
        for file in {*self._files, self.file}:
            file.close()
        self._held.clear()

    def start(self, at: int, end: int = 0) -> None:
        """Says that reading goes forward from byte `at` on, and that all bytes before `end` will be read, or most of
        them: these are requested in large blocks."""
        self._drop_ahead()
        self._at, self._whole, self._length = at, end, self._least // 2

    def read(self, at: int, count: int) -> bytes:
        """The bytes from `at` on; fewer than `count` at the end of the file."""
        end, found = min(at + count, self.size), []
        while at < end:
            start, data = self._block(at, end)
            found.append(data[at - start : end - start])
            at = start + len(data)
            if not data:
                break  # the file has become shorter
        return found[0] if len(found) == 1 else b"".join(found)

    def edges(self, count: int) -> tuple[bytes, bytes]:
        """The first and the last `count` bytes."""
        first = self.read(0, count)
        start = max(self._at, self.size - count)  # the first request may have read more
        if start < self.size:
            self._hold(start, self._read(start, count))
            self._end = start
        return first, self.read(max(0, self.size - count), count)

    def release(self, before: int, after: int = 0) -> None:
        """Says that no byte before this one, and from byte `after` on, will be read again."""
        if any(start >= after and start + len(data) <= before for start, data in self._held):
            self._pass_held()  # so that what is released is not requested again as a gap between two reads
            self._held = [b for b in self._held if b[0] < after or b[0] + len(b[1]) > before]

    def _block(self, at: int, end: int) -> tuple[int, bytes]:
        """(position, bytes) of a block that contains byte `at`; of one that is requested, if none is held. No bytes if
        the file ends before it."""
        later = self.size
        for start, data in self._held:
            if start <= at < start + len(data):
                return start, data
            if start > at:
                later = start
                break
        while True:
            start, data = self._request(at, end, later)
            heartbeat()
            self._hold(start, data)
            if at < start + len(data) or not data:
                return start, data

    def _hold(self, start: int, data: bytes) -> None:
        bisect.insort(self._held, (start, data), key=lambda block: block[0])

    def _request(self, at: int, end: int, later: int) -> tuple[int, bytes]:
        """As `_block`; the block ends at byte `later` at the latest, where another one that is held begins."""
        while self._ahead and self._ahead[0][0] + self._most <= at:
            self._ahead.popleft()[1].cancel()
        if self._ahead and self._ahead[0][0] <= at:
            start, data = self._ahead[0][0], self._ahead.popleft()[1].result()
        else:
            start, length = self._next(at, end)
            data = self._read(start, min(length, later - start))
        if start >= self._at:
            self._at = start + len(data)
        if self._length == self._most and self._streams > 1 and start + len(data) == self._at:
            self._read_ahead()
        return start, data

    def _next(self, at: int, end: int) -> tuple[int, int]:
        """(position, bytes) of the next request."""
        if at < self._at:  # between blocks that were read
            return at, min(end - at, self._most)
        self._drop_ahead()
        self._pass_held()
        if at < self._whole and at - self._at <= LARGE * self._most:
            return self._at, min(self._whole - self._at, self._most)
        near = not self.local and at - self._at < JUMP
        self._length = min(2 * self._length, self._most) if near and self._at else self._least
        start = self._at if near else at
        return start, max(self._length, min(end - start, self._most))

    def _pass_held(self) -> None:
        """The next request begins after the blocks that are held."""
        for start, data in self._held:
            if start <= self._at < start + len(data):
                self._at = start + len(data)

    def _read_ahead(self) -> None:
        self._threads = self._threads or ThreadPoolExecutor(self._streams, "forward")
        start = self._ahead[-1][0] + self._most if self._ahead else self._at  # all but the last one are whole
        while len(self._ahead) < self._streams - 1 and start < self._end:
            length = min(self._most, self._end - start)
            self._ahead.append((start, self._threads.submit(self._read, start, length)))
            start += length

    def _drop_ahead(self) -> None:
        while self._ahead:
            self._ahead.pop()[1].cancel()

    def _read(self, at: int, count: int) -> bytes:
        # The reads of one open file wait for each other.
        try:
            file = self._files.popleft()
        except IndexError:
            file = self._fs.open_input_file(self._path)
        try:
            return file.read_at(min(count, self.size - at), at)
        finally:
            self._files.append(file)
