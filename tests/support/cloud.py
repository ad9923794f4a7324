"""Object stores to measure against: an S3 server with latency that counts requests, and a file system that sleeps.

`Cloud` is a real S3 server (moto) behind a proxy, for correctness, counts and kills. `SlowFiles` reads local files as
an object store would deliver them: a wait for each request, then a limited rate for each stream. It takes no CPU time
from what is measured, so it is for rates. `install` puts it behind `s3://` URIs, also in Ray's workers.
"""

import json
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote

import pyarrow as pa
import pyarrow.fs as pafs
from faulty_store import FaultyStore, refuse

from raylabel.store import files
from raylabel.store.s3_retry import RetryingFileSystem

LATENCY = 0.03  # seconds from a request to its first byte
STREAM = 80e6  # bytes per second of one stream: what one connection to S3 delivers
GETS = 5500  # GETs and HEADs per second and prefix, above which S3 answers 503 Slow Down
SETTINGS = "RAYLABEL_TEST_SLOW_FILES"  # environment variable with the settings of `SlowFiles`, as JSON


class Request(NamedTuple):
    """A request that a store answered."""

    time: float
    """Seconds of the monotonic clock."""
    kind: str
    """GET, HEAD, LIST, PUT, POST or DELETE."""
    key: str
    """bucket/path; of a LIST, the prefix that it lists"""
    bytes: int
    """Bytes of the body: received with a PUT, sent otherwise."""


class Requests(list[Request]):
    """Requests in the order in which they arrived."""

    def of(self, prefix: str = "", *kinds: str) -> "Requests":
        """The requests whose key contains `prefix` and, if kinds are given, that are of one of these kinds."""
        return Requests(r for r in self if prefix in r.key and (not kinds or r.kind in kinds))

    @property
    def bytes(self) -> int:
        return sum(request.bytes for request in self)

    @property
    def kinds(self) -> dict[str, int]:
        """Number of requests of each kind."""
        return dict(Counter(request.kind for request in self))

    def stages(self) -> "dict[str, Requests]":
        """Artifact → the requests up to the one that completed it (its manifest), in the order of completion. What
        follows the last one is under ''. For runs whose stages follow each other."""
        found: dict[str, Requests] = {}
        some = Requests()
        for request in self:
            some.append(request)
            folder, _, name = request.key.rpartition("/")
            if request.kind == "PUT" and name == "manifest.json":
                found[folder.rpartition("/")[2]], some = some, Requests()
        return found | {"": some}


@dataclass
class Limits:
    """What a `Cloud` does to requests. A test may change it at any time."""

    latency: float = LATENCY
    gets: float = GETS


class Cloud(FaultyStore):
    """The S3 server. `requests` has every request that it answered; `refused` counts those with 503 by prefix.

    A prefix is the folder of an object. Real S3 divides prefixes as it sees the load; one folder is its worst case.
    """

    def __init__(self) -> None:
        super().__init__()
        self.limits, self.requests, self.refused = Limits(), Requests(), Counter[str]()
        self._recent: dict[str, deque[float]] = {}
        self._guard = threading.Lock()

    @contextmanager
    def counting(self) -> Iterator[Requests]:
        """The requests that are answered within the block."""
        found, first = Requests(), len(self.requests)
        yield found
        found.extend(self.requests[first:])

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, key = environ["REQUEST_METHOD"], unquote(environ["PATH_INFO"]).lstrip("/")
        if key.startswith("moto-api"):
            return super()._answer(environ, start_response)
        time.sleep(self.limits.latency)
        query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        kind = "LIST" if method == "GET" and ("list-type" in query or "/" not in key) else method
        if kind == "LIST":
            key = "/".join([key, *query.get("prefix", [])])
        if kind in ("GET", "HEAD") and self._too_many(key.rpartition("/")[0]):
            return refuse(environ, start_response, "503 Slow Down")
        sent = int(environ.get("HTTP_X_AMZ_DECODED_CONTENT_LENGTH") or environ.get("CONTENT_LENGTH") or 0)
        body = b"".join(super()._answer(environ, start_response))
        with self._guard:
            self.requests.append(Request(time.monotonic(), kind, key, sent if kind == "PUT" else len(body)))
        return [body]

    def _too_many(self, prefix: str) -> bool:
        now = time.monotonic()
        with self._guard:
            recent = self._recent.setdefault(prefix, deque())
            while recent and recent[0] < now - 1:
                recent.popleft()
            if len(recent) >= self.limits.gets:
                self.refused[prefix] += 1
                return True
            recent.append(now)
            return False


@dataclass(frozen=True)
class SlowFiles:
    """Settings of a file system that reads the local folder `folder`/BUCKET as the bucket BUCKET.

    Opening a file costs a request, as with pyarrow's S3, which asks for the size. Each read of a file is a request;
    several threads may read one open file at a time, as with pyarrow's S3.
    """

    folder: str
    log: str
    """A file to which every request is appended."""
    latency: float = LATENCY
    rate: float = STREAM
    speed: float = 1.0
    """Seconds of the store per real second: 10 makes it wait a tenth of the time."""

    def requests(self) -> Requests:
        """All requests so far, of all processes."""
        found = Requests()
        with open(self.log, encoding="utf-8") as file:
            for line in file:
                moment, kind, count, key = line.rstrip("\n").split(" ", 3)
                found.append(Request(float(moment), kind, key, int(count)))
        return found

    def answer(self, kind: str, key: str, count: int = 0) -> None:
        """Waits as long as the store needs to answer, and notes the request."""
        time.sleep((self.latency + count / self.rate) / self.speed)
        os.write(_log(self.log), f"{time.monotonic()} {kind} {count} {key}\n".encode())


@cache
def _log(path: str) -> int:
    """The open file. Opening it for each request would cost more than the request: many threads take turns."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


class _Store(pafs.PyFileSystem):
    """Its open files are not wrapped in a pa.PythonFile, whose reads wait for each other."""

    def open_input_file(self, path: str) -> Any:
        return self.handler.open_file(path)


class _Handler(pafs.FileSystemHandler):
    def __init__(self, store: SlowFiles) -> None:
        self._store = store
        self._files = pafs.SubTreeFileSystem(store.folder, pafs.LocalFileSystem())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Handler) and self._store == other._store

    def get_type_name(self) -> str:
        return "s3"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: Sequence[str]) -> list[pafs.FileInfo]:
        for path in paths:
            self._store.answer("HEAD", path)
        return self._files.get_file_info(list(paths))

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        found = self._files.get_file_info(selector)
        for _ in range(0, max(1, len(found)), 1000):
            self._store.answer("LIST", selector.base_dir)
        return found

    def create_dir(self, path: str, recursive: bool) -> None:
        self._files.create_dir(path, recursive=recursive)

    def delete_dir(self, path: str) -> None:
        self._store.answer("DELETE", path)
        self._files.delete_dir(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self._store.answer("DELETE", path)
        self._files.delete_dir_contents(path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError  # raylabel never deletes a bucket's contents

    def delete_file(self, path: str) -> None:
        self._store.answer("DELETE", path)
        self._files.delete_file(path)

    def move(self, src: str, dest: str) -> None:
        self._files.move(src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        self._files.copy_file(src, dest)

    def open_input_stream(self, path: str) -> pa.PythonFile:
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> pa.PythonFile:
        return pa.PythonFile(self.open_file(path), mode="r")

    def open_file(self, path: str) -> "_SlowFile":
        self._store.answer("HEAD", path)
        return _SlowFile(self._store, path, self._files.open_input_file(path))

    def open_output_stream(self, path: str, metadata: Any) -> pa.PythonFile:
        self._files.create_dir(os.path.dirname(path), recursive=True)
        return pa.PythonFile(_Upload(self._store, path, self._files.open_output_stream(path)), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        raise NotImplementedError  # objects cannot be appended to


@dataclass
class _SlowFile:
    store: SlowFiles
    key: str
    file: pa.NativeFile
    at: int = 0

    @property
    def closed(self) -> bool:
        return self.file.closed

    def close(self) -> None:
        self.file.close()

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = (0, self.at, self.file.size())[whence] + offset
        return self.at

    def size(self) -> int:
        return self.file.size()

    def read(self, count: int | None = None) -> bytes:
        left = max(0, self.file.size() - self.at)
        data = self.read_at(left if count is None or count < 0 else min(count, left), self.at)
        self.at += len(data)
        return data

    def read_at(self, count: int, offset: int) -> bytes:
        if not count:
            return b""
        data = self.file.read_at(count, offset)
        self.store.answer("GET", self.key, len(data))
        return data


@dataclass
class _Upload:
    store: SlowFiles
    key: str
    file: pa.NativeFile
    count: int = 0
    closed: bool = field(default=False)

    def write(self, data: Any) -> int:
        self.count += self.file.write(data)
        return len(data)

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        if not self.closed:
            self.store.answer("PUT", self.key, self.count)
            self.file.close()
            self.closed = True


def slow_filesystem(store: SlowFiles) -> pafs.PyFileSystem:
    """The store as a pyarrow file system."""
    return pafs.PyFileSystem(_Handler(store))


def install(store: SlowFiles) -> dict[str, Any]:
    """Makes raylabel read `s3://` URIs from the store, in this process and those that it starts. Returns the
    `runtime_env` with which Ray's workers do so too."""
    os.environ[SETTINGS] = json.dumps(asdict(store))
    set_up_worker()
    path = os.pathsep.join([os.path.dirname(os.path.abspath(__file__)), os.environ.get("PYTHONPATH", "")])
    return {
        "worker_process_setup_hook": "cloud.set_up_worker",
        "env_vars": {SETTINGS: os.environ[SETTINGS], "PYTHONPATH": path},
    }


def uninstall() -> None:
    """Undoes `install` in this process."""
    if os.environ.pop(SETTINGS, None):
        files._s3 = _S3
        files._store.cache_clear()


def set_up_worker() -> None:
    """Installs the store of the environment in this process."""
    store = SlowFiles(**json.loads(os.environ[SETTINGS]))
    files._s3 = lambda bucket: RetryingFileSystem(_Store(_Handler(store)), 3, (_reopen, ()))
    files._store.cache_clear()


def _reopen() -> RetryingFileSystem:
    return files._s3("")


_S3 = files._s3
