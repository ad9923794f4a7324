"""Retries of small reads from S3, which pyarrow's client does not do.

pyarrow gives the AWS SDK a buffer of exactly the bytes that it requests. The body of an error response such as 503 Slow
Down, some 300 bytes, does not fit into a smaller buffer; the SDK reports a failed stream and does not retry. A read of
a parquet footer or of a small JSON file is such a request. (Another client of this SDK had the same fault:
github.com/apache/doris/pull/66557.)
"""

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

OVERFLOWN = "Failed to flush response stream"
LONGEST = 20.0  # seconds between two attempts

T = TypeVar("T")


class RetryingFileSystem(pafs.FileSystemHandler):
    """The handler of a `pyarrow.fs.PyFileSystem`: `inner`, with small reads that are retried."""

    def __init__(
        self, inner: pafs.FileSystem, attempts: int, again: tuple[Callable[..., "RetryingFileSystem"], tuple]
    ) -> None:
        """`again`: the function and arguments that unpickle it; a pickled `inner` would lose its settings."""
        self._inner, self._attempts, self._again = inner, attempts, again

    def __reduce__(self) -> tuple[Callable[..., "RetryingFileSystem"], tuple]:
        return self._again

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RetryingFileSystem) and self._inner == other._inner

    def get_type_name(self) -> str:
        return self._inner.type_name

    def normalize_path(self, path: str) -> str:
        return self._inner.normalize_path(path)

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        return self._inner.get_file_info(paths)

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        return self._inner.get_file_info(selector)

    def create_dir(self, path: str, recursive: bool) -> None:
        self._inner.create_dir(path, recursive=recursive)

    def delete_dir(self, path: str) -> None:
        self._inner.delete_dir(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self._inner.delete_dir_contents(path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError

    def delete_file(self, path: str) -> None:
        self._inner.delete_file(path)

    def move(self, src: str, dest: str) -> None:
        self._inner.move(src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        self._inner.copy_file(src, dest)

    def open_input_stream(self, path: str) -> pa.PythonFile:
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> pa.PythonFile:
        return pa.PythonFile(self.open_ranges(path), mode="r")

    def open_ranges(self, path: str) -> "RetryingFile":
        """The file, for several threads at a time: the reads of a pa.PythonFile wait for each other."""
        return RetryingFile(self._inner, path, self._attempts)

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        return self._inner.open_output_stream(path, metadata=metadata)

    def open_append_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        return self._inner.open_append_stream(path, metadata=metadata)


class RetryingFile:
    """A file with small reads that are retried: the methods that pa.PythonFile calls, `size` and `read_at`."""

    def __init__(self, fs: pafs.FileSystem, path: str, attempts: int) -> None:
        self._fs, self._path, self._attempts = fs, path, attempts
        self._inner = fs.open_input_file(path)
        self._size, self._at = self._inner.size(), 0

    @property
    def closed(self) -> bool:
        return self._inner.closed

    def close(self) -> None:
        self._inner.close()

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = (0, self._at, self._size)[whence] + offset
        return self._at

    def size(self) -> int:
        return self._size

    def read(self, count: int | None = None) -> bytes:
        left = max(0, self._size - self._at)
        data = self.read_at(left if count is None or count < 0 else min(count, left), self._at)
        self._at += len(data)
        return data

    def read_at(self, count: int, offset: int) -> bytes:
        """For any number of threads at a time. FileNotFoundError if the file was deleted after it was opened."""
        return self._retry(lambda: self._inner.read_at(count, offset)) if count else b""

    def _retry(self, read: Callable[[], T]) -> T:
        failure = None
        for attempt in range(1, self._attempts + 1):
            try:
                return read()
            except OSError as error:
                # That the file is gone is an error response too, and does not fit into a small buffer either.
                if self._fs.get_file_info(self._path).type == pafs.FileType.NotFound:
                    raise FileNotFoundError(f"'{self._path}' was deleted while it was read") from error
                if OVERFLOWN not in str(error):
                    raise
                failure = error
            if attempt < self._attempts:
                time.sleep(random.uniform(0, min(LONGEST, 2**attempt / 2)))
        raise OSError(f"the store refused a read of a few bytes {self._attempts} times") from failure
