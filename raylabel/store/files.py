"""Files on a local disk or in an object store: written whole, in one atomic step; what fails names the file.

An object store that fails or does not answer is asked again, with growing pauses, for a minute or two; then it is an
error.
"""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import lru_cache

import pyarrow as pa
import pyarrow.fs as pafs

from raylabel.errors import InputError
from raylabel.store.s3_retry import RetryingFileSystem

ATTEMPTS = 10  # of a request to S3: of 1e9 requests of which 5% fail, none fails so often
CONNECT_SECONDS = 10.0  # to reach S3; a second, the default, is too short for a thousand clients that start at once
SILENT_SECONDS = 10.0  # in which S3 may send nothing before a request is given up and made again
GOOGLE_SECONDS = 120  # for which a request to Google's store is made again

AGAIN = "and run the same command again: what is committed stays"


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system and the path in it of a local path or an `s3://`, `gs://` URI. InputError for any other URI.

    Unlike a URI proper, what follows the bucket is taken as it stands: keys hold blanks, '#' and '%' as files do.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    bucket, _, key = rest.partition("/")
    fs, base = _store(scheme, bucket)
    return fs, f"{base}/{key}".rstrip("/")


@lru_cache(maxsize=64)
def _store(scheme: str, bucket: str) -> tuple[pafs.FileSystem, str]:
    """One client per bucket and process, and the bucket's path in it."""
    uri = f"{scheme}://{bucket}"
    if scheme not in ("s3", "gs"):
        hint = "nothing is fetched from the web: download it, and " if scheme in ("http", "https", "ftp") else ""
        raise InputError(f"cannot open '{uri}': {hint}give a local path or an s3:// or gs:// URI")
    try:
        if scheme == "gs":
            return pafs.GcsFileSystem(retry_time_limit=timedelta(seconds=GOOGLE_SECONDS)), bucket
        return pafs.PyFileSystem(_s3(bucket)), bucket
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"cannot open '{uri}': {line(error)}; give a local path or an s3:// or gs:// URI") from error


def _s3(bucket: str) -> RetryingFileSystem:
    found, _ = pafs.FileSystem.from_uri(f"s3://{bucket}/")  # which asks where the bucket is
    make, (options,) = found.__reduce__()
    options |= {"connect_timeout": CONNECT_SECONDS, "request_timeout": SILENT_SECONDS}
    options["retry_strategy"] = pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS)
    return RetryingFileSystem(make(options), ATTEMPTS, (_s3, (bucket,)))


def is_local(uri: str) -> bool:
    return isinstance(filesystem(uri)[0], pafs.LocalFileSystem)


def write_file(uri: str, data: bytes | memoryview) -> None:
    """Writes a whole file in one atomic step: rename on a local disk, a single put on an object store.

    InputError naming it if that fails; then nothing is left of it, and what stood there before still stands.
    """
    with writing(uri):
        fs, path = filesystem(uri)
        if isinstance(fs, pafs.LocalFileSystem):
            _replace(path, data)
            return
        with fs.open_output_stream(path) as out:  # an object appears when its upload completes, or not at all
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
    """Deletes a folder with all that is in it, if there is one."""
    fs, path = filesystem(uri)
    with writing(uri):
        if fs.get_file_info(path).type != pafs.FileType.NotFound:
            fs.delete_dir(path)


def sweep(uri: str) -> None:
    """Deletes what writes that were killed left below a local folder; in an object store they leave nothing."""
    if not is_local(uri):
        return
    with writing(uri):
        for folder, _, names in os.walk(filesystem(uri)[1]):
            for name in names:
                if name.endswith(".tmp"):
                    os.remove(os.path.join(folder, name))


@contextmanager
def reading(uri: str) -> Iterator[None]:
    """Around what reads a file that should be there and whole: InputError naming it where it is not."""
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        raise unreadable(uri, error) from error


@contextmanager
def writing(uri: str) -> Iterator[None]:
    """Around what writes or deletes: InputError naming the file, and the mend, where that fails."""
    try:
        yield
    except OSError as error:
        mend = {
            errno.ENOSPC: "free space there",
            errno.EDQUOT: "raise the quota or free space there",
            errno.EACCES: "give this user leave to write there",
            errno.EPERM: "give this user leave to write there",
            errno.EROFS: "mount it writable",
        }.get(error.errno or 0, "mend that storage")
        raise InputError(f"cannot write '{uri}': {line(error)}; {mend} {AGAIN}") from error


def unreadable(uri: str, error: BaseException) -> InputError:
    """What to raise where a file that should be there cannot be read."""
    lost = isinstance(error, (FileNotFoundError, pa.ArrowInvalid))
    mend = "put it back, or delete the folder it stands in, and run again" if lost else f"mend that storage {AGAIN}"
    return InputError(f"cannot read '{uri}': {line(error)}; {mend}")


def line(error: BaseException) -> str:
    """An error's text on one line."""
    return " ".join(str(error).split()) or type(error).__name__
