"""Files on a local disk or in an object store: written in one atomic step, with errors that name the file.

Requests to an object store that fail or get no answer are retried for a minute or two, with growing pauses.
"""

import errno
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import lru_cache
from typing import Protocol

import pyarrow as pa
import pyarrow.fs as pafs

from raylabel.errors import RESUME, InputError
from raylabel.store.s3_retry import RetryingFileSystem
from raylabel.text import one_line

ATTEMPTS = 10  # of a request to S3: where 5% of requests fail, fewer than one of 1e9 fails this often in a row
CONNECT_SECONDS = 10.0  # to connect to S3; the default of 1 s is too short for a thousand clients that start together
SILENT_SECONDS = 10.0  # without a byte from S3 before a request is retried
CONNECTIONS = 256  # of a client to S3: its default of 25 limits the requests in flight of all threads
GOOGLE_SECONDS = 120  # for which a request to Google's store is retried


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system and the path in it of a local path or an `s3://`, `gs://` URI. InputError for any other URI.

    Nothing after the bucket is decoded, unlike in a standard URI: keys may contain blanks, '#' and '%', as file names
    do.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    bucket, _, key = rest.partition("/")
    fs, base = _store(scheme, bucket)
    return fs, f"{base}/{key}".rstrip("/")


@lru_cache(maxsize=64)
def _store(scheme: str, bucket: str) -> tuple[pafs.FileSystem, str]:
    """One client per bucket and process, and the path of the bucket in it."""
    uri = f"{scheme}://{bucket}"
    if scheme not in ("s3", "gs"):
        hint = "raylabel reads nothing from the web: download it, and " if scheme in ("http", "https", "ftp") else ""
        raise InputError(f"cannot open '{uri}': {hint}give a local path or an s3:// or gs:// URI")
    try:
        if scheme == "gs":
            return pafs.GcsFileSystem(retry_time_limit=timedelta(seconds=GOOGLE_SECONDS)), bucket
        return pafs.PyFileSystem(_s3(bucket)), bucket
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"cannot open '{uri}': {one_line(error)}; give a local path or an s3:// or gs:// URI"
        ) from error


class Ranges(Protocol):
    """A file of which any number of threads read ranges at a time."""

    def size(self) -> int: ...
    def read_at(self, count: int, offset: int) -> bytes: ...
    def close(self) -> None: ...


def open_ranges(uri: str) -> Ranges:
    """Opens a file for `Ranges`. FileNotFoundError if there is none, OSError if the store does not answer."""
    fs, path = filesystem(uri)
    handler = fs.handler if isinstance(fs, pafs.PyFileSystem) else None
    return handler.open_ranges(path) if isinstance(handler, RetryingFileSystem) else fs.open_input_file(path)


def _s3(bucket: str) -> RetryingFileSystem:
    if pa.io_thread_count() < CONNECTIONS:
        pa.set_io_thread_count(CONNECTIONS)  # a client opens as many connections as there were threads when it was made
    found, _ = pafs.FileSystem.from_uri(f"s3://{bucket}/")  # this asks S3 for the region of the bucket
    make, (options,) = found.__reduce__()
    options |= {"connect_timeout": CONNECT_SECONDS, "request_timeout": SILENT_SECONDS}
    options["allow_delayed_open"] = True  # one request for a file of up to 10 MB instead of three
    options["retry_strategy"] = pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS)
    return RetryingFileSystem(make(options), ATTEMPTS, (_s3, (bucket,)))


def is_local(uri: str) -> bool:
    return isinstance(filesystem(uri)[0], pafs.LocalFileSystem)


def write_file(uri: str, data: bytes | memoryview) -> None:
    """Writes a whole file in one atomic step: rename on a local disk, a single put on an object store.

    InputError that names it if that fails. Then no part of it is left, and an earlier file there is unchanged.
    """
    with writing(uri):
        fs, path = filesystem(uri)
        if isinstance(fs, pafs.LocalFileSystem):
            _replace(path, data)
            return
        with fs.open_output_stream(path) as out:  # an object exists once its upload is complete, never in part
            out.write(data)


def _replace(path: str, data: bytes | memoryview) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.remove(temporary)
        raise


def read_file(uri: str) -> bytes:
    """The bytes of a file. FileNotFoundError if there is none, InputError naming it if it cannot be read."""
    fs, path = filesystem(uri)
    try:
        with fs.open_input_file(path) as file:
            return file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(uri, error) from error


def list_files(uri: str) -> list[str]:
    """The names, relative to `uri` and sorted, of all files below it; empty if there is no such folder."""
    fs, path = filesystem(uri)
    with reading(uri):
        found = fs.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
    prefix = len(path.rstrip("/")) + 1
    return sorted(info.path[prefix:] for info in found if info.is_file and not info.path.endswith(".tmp"))


def delete_folder(uri: str) -> None:
    """Deletes a folder and everything in it, if it exists."""
    fs, path = filesystem(uri)
    with writing(uri):
        if fs.get_file_info(path).type != pafs.FileType.NotFound:
            fs.delete_dir(path)


def delete_file(uri: str) -> None:
    """Deletes a file, if it exists."""
    fs, path = filesystem(uri)
    with writing(uri), suppress(FileNotFoundError):
        fs.delete_file(path)


def sweep(uri: str) -> None:
    """Deletes the temporary files of killed writes below a local folder; in an object store there are none."""
    if not is_local(uri):
        return
    with writing(uri):
        for folder, _, names in os.walk(filesystem(uri)[1]):
            for name in names:
                if name.endswith(".tmp"):
                    os.remove(os.path.join(folder, name))


@contextmanager
def reading(uri: str) -> Iterator[None]:
    """For a block that reads a file that should exist and be complete: InputError that names it if it is not."""
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        raise unreadable(uri, error) from error


@contextmanager
def writing(uri: str) -> Iterator[None]:
    """For a block that writes or deletes a file: an OSError becomes an InputError that names the file and the fix."""
    try:
        yield
    except OSError as error:
        fix = {
            errno.ENOSPC: "free space there",
            errno.EDQUOT: "raise the quota or free space there",
            errno.EACCES: "give this user permission to write there",
            errno.EPERM: "give this user permission to write there",
            errno.EROFS: "mount it writable",
        }.get(error.errno or 0, "repair that storage")
        raise InputError(f"cannot write '{uri}': {one_line(error)}; {fix}, then {RESUME}") from error


def unreadable(uri: str, error: BaseException) -> InputError:
    """The error to raise where a file that should exist cannot be read."""
    lost = isinstance(error, (FileNotFoundError, pa.ArrowInvalid, json.JSONDecodeError))
    fix = "restore the file, or delete the folder that it is in" if lost else "repair that storage"
    return InputError(f"cannot read '{uri}': {one_line(error)}; {fix}, then {RESUME}")
