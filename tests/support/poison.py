"""Parsers that misbehave as hostile media could make them: the bytes are commands. For the tests of the sandbox."""

import ctypes
import functools
import itertools
import mmap
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raylabel.inference.scorer import RANKED, Found, Kept, Run
from raylabel.media.image_views import eval_pixels
from raylabel.media.rejects import Reject
from raylabel.media.sandbox import child
from raylabel.media.sandbox.memory import PAGE, SIZE
from raylabel.media.sandbox.sandbox import Parser
from raylabel.media.view import View

_parsed: list[None] = []  # one entry for each sample that this process has parsed


def misbehave(data: bytes) -> bytes | None:
    """Executes the command in `data` and returns its result; None if there is no command."""
    command, _, rest = data.partition(b" ")
    _parsed.append(None)
    match command:
        case b"!segfault":
            ctypes.string_at(0)
        case b"!abort":
            os.abort()
        case b"!exit":
            os._exit(3)
        case b"!hang":
            while True:
                time.sleep(1000)
        case b"!spin":
            while True:
                pass
        case b"!eat":
            held = []
            while True:
                held.append(bytearray(64 << 20))
        case b"!eat_outside_python":
            libc = ctypes.CDLL(None)
            libc.malloc.restype = ctypes.c_void_p
            libc.malloc.argtypes = [ctypes.c_size_t]
            while pointer := libc.malloc(64 << 20):
                ctypes.memset(pointer, 1, 64 << 20)
            os.abort()  # as C++ does when it gets no memory
        case b"!killed":
            signal.raise_signal(signal.SIGKILL)
        case b"!not_first" if len(_parsed) > 1:
            os.abort()
        case b"!fail":
            raise KeyError("a bug in the parser")
        case b"!reject":
            raise Reject("corrupt", rest.decode())
        case b"!lie":
            os.write(3, rest + b"\n")  # the pipe to its parent
            time.sleep(1000)
        case b"!try":
            return _tried(rest.decode()).encode()
    return None


def _tried(what: str) -> str:
    """Tries what a sandbox child may not do; returns the result or the error."""
    tries: dict[str, Callable[[], object]] = {
        "open": lambda: open("/etc/passwd").read(),
        "write": lambda: open(what.partition(":")[2], "w"),
        "connect": lambda: socket.socket().connect(("127.0.0.1", int(what.partition(":")[2]))),
        "fork": os.fork,
        "run": lambda: subprocess.run(["true"], check=True),
        "kill": lambda: os.kill(os.getppid(), 0),
        "list": lambda: os.listdir("/"),
        "environ": lambda: "|".join(f"{k}={v}" for k, v in sorted(os.environ.items())),
        "files": lambda: [fd for fd in range(256) if _is_open(fd)],
    }
    try:
        return f"did: {tries[what.partition(':')[0]]()}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _is_open(fd: int) -> bool:
    try:
        os.lseek(fd, 0, os.SEEK_CUR)
    except OSError as error:
        return error.errno != 9  # not EBADF: a socket, which has no position
    return True


def words() -> Callable[[bytes, Sequence[int]], bytes]:
    """Returns the bytes in upper case, followed by the numbers."""
    return lambda data, numbers: misbehave(data) or data.upper() + b"".join(b"%d" % n for n in numbers)


def lengths(width: int) -> Callable[[bytes, Sequence[int]], np.ndarray]:
    """`width` values, each equal to the number of bytes modulo 256."""

    def parse(data: bytes, _: Sequence[int]) -> np.ndarray:
        misbehave(data)
        return np.full(width, len(data) % 256, np.uint8)

    return parse


def scribbling(width: int) -> Callable[[bytes, Sequence[int]], np.ndarray | bytes]:
    """As `lengths`, in a process that has been taken over: after its 40th sample a thread overwrites the shared memory
    without end. The command !resize tries to change the size of that memory and returns the attempts that failed."""
    shared: list[mmap.mmap] = []
    serve = child._serve

    def remember(parent: socket.socket, memory: mmap.mmap, *rest: Any) -> None:
        shared.append(memory)
        serve(parent, memory, *rest)

    def scribble() -> None:
        for number in itertools.count():
            shared[0][4 * PAGE : 64 * width] = bytes([number % 256]) * (64 * width - 4 * PAGE)

    def parse(data: bytes, _: Sequence[int]) -> np.ndarray | bytes:
        if data == b"!resize":
            sizes = itertools.product(range(8), (0, SIZE - PAGE, SIZE + PAGE))
            attempts = [functools.partial(os.ftruncate, file, size) for file, size in sizes]
            attempts += [functools.partial(os.pwrite, file, b"x", SIZE) for file in range(3, 8)]
            return b"%d of %d failed" % (sum(map(_fails, attempts)), len(attempts))
        _parsed.append(None)
        if len(_parsed) == 40:
            threading.Thread(target=scribble, daemon=True).start()
        return np.full(width, len(data) % 256, np.uint8)

    child._serve = remember
    return parse


def _fails(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError:
        return True
    return False


def pictures(view: dict) -> Callable[[bytes, Sequence[int]], np.ndarray]:
    """`eval_pixels`, or the command in the bytes."""
    config = View(**view)

    def parse(data: bytes, _: Sequence[int]) -> np.ndarray:
        misbehave(data)
        return eval_pixels(data, config)

    return parse


def first_bytes(width: int) -> Callable[[bytes, Sequence[int]], np.ndarray]:
    """The first `width` bytes."""

    def parse(data: bytes, _: Sequence[int]) -> np.ndarray:
        misbehave(data)
        return np.frombuffer(data[:width].ljust(width, b"\0"), np.uint8)

    return parse


@dataclass(frozen=True)
class Fragile:
    """A scorer of two classes: the scores are the first two bytes of a sample. Its process dies if the third is 'K',
    and its GPU fails if it is 'G'."""

    shape: tuple[int, ...] = (3,)
    p: int = 2
    kept: Kept = RANKED

    @property
    def parser(self) -> Parser:
        return Parser.of(first_bytes, width=3)

    def start(self, gpu: bool) -> Run:
        return self._run

    def _run(self, batches: Iterable[np.ndarray]) -> Iterator[Found]:
        for batch in batches:
            if (batch[:, 2] == ord("K")).any():
                signal.raise_signal(signal.SIGSEGV)
            if (batch[:, 2] == ord("G")).any():
                raise RuntimeError("CUDA error: uncorrectable ECC error encountered\nDebug with ...")
            values = batch[:, :2].astype(np.float32)
            order = np.argsort(-values, axis=1, kind="stable").astype(np.int32)
            ranked = np.take_along_axis(values, order, axis=1)
            yield order, ranked, ranked


def broken() -> Callable[[bytes, Sequence[int]], bytes]:
    """A parser that cannot be created."""
    raise RuntimeError("cannot be made")
