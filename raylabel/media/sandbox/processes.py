"""The parent's side of the sandbox's processes: the one that forks, the children, and what they are told and say."""

import array
import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raylabel.media.rejects import Reject
from raylabel.media.sandbox.child import CPU_SECONDS, MEMORY, OUT_OF_MEMORY, READY
from raylabel.schema import MAX_BYTES, REASONS, Reason

WALL_SECONDS = 10.0  # without progress, of a child that sleeps
OUTSIDE = 20  # times in a row that a process may be killed by somebody else
STARVED_SECONDS = 240.0  # without progress, of a child that gets no CPU

_PAGE = 4096  # where media begin in the shared memory; before it stands the number of the sample in hand
_KEEP = 64 << 20  # bytes of shared memory that a child may keep between requests
_BOOT = (
    "import json, socket, sys; sys.path[:] = json.loads(sys.argv[2]); from raylabel.media.sandbox.child import main; "
    "main(socket.socket(fileno=int(sys.argv[1])))"
)
# Libraries are found by this in some installations; a child gets nothing else of the environment.
_PASSED = ("LD_LIBRARY_PATH",)


@dataclass(frozen=True)
class Parser:
    """What is done to encoded media, as plain data: what the function makes of the settings is a `child.Parse`."""

    function: str
    """'module:name'."""
    settings: str
    """A JSON object."""
    cpu_seconds: int = CPU_SECONDS
    """Of one sample: pictures take less than the default, videos may take more (`View.cpu_seconds`)."""

    @classmethod
    def of(cls, function: Any, cpu_seconds: int = CPU_SECONDS, **settings: Any) -> "Parser":
        """The parser that a module's function makes of its settings; a config among them is given by its fields."""
        text = json.dumps(settings, default=dataclasses.asdict)
        return cls(f"{function.__module__}:{function.__qualname__}", text, cpu_seconds)


class SandboxError(RuntimeError):
    """The sandbox itself does not work: no word on the sample."""


class DiedError(Exception):
    """A child's death while it held the sample `at`; `reason` is None where the sample is not to blame."""

    def __init__(self, at: int, reason: Reason | None, detail: str) -> None:
        super().__init__(at, reason, detail)
        self.at, self.detail = at, detail
        self.reason: Reason | None = reason


class Nursery:
    """The process that forks children, started anew if it is gone."""

    def __init__(self, parser: Parser) -> None:
        self.parser, self._lock = parser, threading.Lock()
        self._start()

    def _start(self) -> None:
        self._control, theirs = socket.socketpair()
        environment = {name: os.environ[name] for name in _PASSED if name in os.environ}
        environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        path = json.dumps([os.path.abspath(entry) for entry in sys.path])
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _BOOT, str(theirs.fileno()), path],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                env=environment,
                start_new_session=True,  # Ctrl-C is the parent's
            )
        self._ready = False
        self._finalizer = weakref.finalize(self, _end, self._control, self._process)
        word = dataclasses.asdict(self.parser) | {"settings": json.loads(self.parser.settings)}
        self._control.sendall(json.dumps(word).encode())

    def child(self) -> "Child":
        with self._lock:
            for _ in range(OUTSIDE):  # somebody may have killed it
                with contextlib.suppress(OSError, ValueError):
                    if not self._ready:
                        self._ready = self._control.recv(64) == READY
                    return self._fork()
                failed = not self._ready
                self.close()
                if failed and self._process.returncode == 1:  # a Python error, which it has printed
                    raise SandboxError(f"the sandbox cannot load {self.parser.function}: see the lines above")
                self._start()
        raise SandboxError(
            f"the process that makes the sandbox's children was killed from outside, {OUTSIDE} times: something on "
            "this machine does that. Is it out of memory?"
        )

    def _fork(self) -> "Child":
        ours, theirs = socket.socketpair()
        memory = _memory()
        with theirs:
            try:
                socket.send_fds(self._control, [b"fork"], [theirs.fileno(), memory])
                pid = int(self._control.recv(64))
                theirs.close()  # or its end would not be seen
                if (word := ours.recv(1000)) and word != READY:
                    raise SandboxError(f"a child of the sandbox cannot be locked in: {word.decode(errors='replace')}")
            except BaseException:
                ours.close()
                os.close(memory)
                raise
        return Child(self, pid, ours, memory)

    def end_of(self, pid: int) -> int | None:
        """How a dead child ended, as waitpid says; None if the one who would know is dead too."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._control.sendall(str(pid).encode())
            return int(self._control.recv(64))
        return None

    def close(self) -> None:
        self._finalizer()


def _end(control: socket.socket, process: "subprocess.Popen[bytes]") -> None:
    control.close()  # at which it ends
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _memory() -> int:
    """A file without a name, in memory where the system has such."""
    if sys.platform == "linux":
        return os.memfd_create("raylabel")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Child:
    """One process that parses, as the parent sees it."""

    def __init__(self, nursery: Nursery, pid: int, link: socket.socket, memory: int) -> None:
        self._nursery, self._pid, self._link, self._memory = nursery, pid, link, memory
        self._link.settimeout(WALL_SECONDS)
        self.dead = False

    def ask(
        self, media: Sequence[bytes], numbers: Sequence[Sequence[float]], out: np.ndarray | None, size: int
    ) -> list[Any]:
        """As Sandbox._parse, once; DiedError if the child ends or has to be ended."""
        places, end = [], _PAGE
        for i, data in enumerate(media):
            places.append([end, len(data), list(numbers[i]) if len(numbers) else []])
            end += len(data)
        os.pwritev(self._memory, [b"\0" * _PAGE, *media], 0)
        request = json.dumps({"media": places, "out": end, "size": size})
        try:
            self._link.sendall(request.encode() + b"\n")
            answer = self._answer(len(media))
        except OSError as error:  # the link is broken
            raise self._death() from error
        if answer is None:
            raise self._death()
        verdicts: list[Any] = []
        at = end
        for verdict in answer:
            if isinstance(verdict, list):
                verdicts.append(Reject(verdict[0], verdict[1]))  # _is_verdict looked at both
            else:
                verdicts.append(None if out is not None else os.pread(self._memory, verdict, at))
                at += verdict
        if out is not None:
            os.preadv(self._memory, [out.data], end)
        if at > _KEEP:
            os.ftruncate(self._memory, 0)
        return verdicts

    def _answer(self, count: int) -> list[Any] | None:
        """What the child says of so many samples; None if it ended."""
        said, held, since = bytearray(), -1, time.monotonic()
        while not said.endswith(b"\n"):
            try:
                some = self._link.recv(1 << 16)
            except TimeoutError:
                # A child has nothing to wait for, so one that sleeps hangs. One that could run but may not is
                # starved: its CPU time is limited by itself.
                if (now := self._held()) != held:
                    held, since = now, time.monotonic()
                elif not _runs(self._pid):
                    raise self._kill(f"no progress in {WALL_SECONDS:g} s", "timeout") from None
                elif time.monotonic() - since > STARVED_SECONDS:
                    raise SandboxError(f"no CPU for a decoding process in {STARVED_SECONDS:g} s") from None
                continue
            said += some
            if not some:
                return None
            if len(said) > 4096 * (count + 1):
                raise self._kill("talks too much")
        try:
            answer = json.loads(said)
            if len(answer) == count and all(map(_is_verdict, answer)):
                return answer
        except (ValueError, TypeError, RecursionError):
            pass
        raise self._kill("talks nonsense")

    def _held(self) -> int:
        return array.array("I", os.pread(self._memory, 4, 0))[0]

    def _kill(self, why: str, reason: Reason = "decoder_crash") -> DiedError:
        os.kill(self._pid, signal.SIGKILL)
        self._nursery.end_of(self._pid)
        return DiedError(self._held(), reason, why)

    def _death(self) -> DiedError:
        held, status = self._held(), self._nursery.end_of(self._pid)
        if status is None or os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGTERM):
            return DiedError(held, None, "a decoding process was killed from outside")
        if os.WIFEXITED(status):
            code = os.WEXITSTATUS(status)
            if code == OUT_OF_MEMORY:
                return DiedError(held, "out_of_memory", f"over {MEMORY >> 30} GB")
            return DiedError(held, "decoder_crash", f"exit status {code}")
        number = os.WTERMSIG(status)
        if number == signal.SIGXCPU:
            return DiedError(held, "timeout", f"over {self._nursery.parser.cpu_seconds} s of CPU time")
        return DiedError(held, "decoder_crash", signal.Signals(number).name)

    def close(self) -> None:
        self._link.close()
        os.close(self._memory)


def _is_verdict(verdict: Any) -> bool:
    if isinstance(verdict, list):
        return len(verdict) == 2 and verdict[0] in REASONS and isinstance(verdict[1], str)
    return isinstance(verdict, int) and 0 <= verdict <= MAX_BYTES


def _runs(pid: int) -> bool:
    """Whether a thread has a processor, or waits for one or for its memory; False where that cannot be known."""
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/task/{thread}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] in "RD":
                    return True
    except OSError:
        pass
    return False
