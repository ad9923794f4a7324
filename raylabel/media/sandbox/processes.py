"""The parent's side of the sandbox: starts the zygote, forks children from it, and exchanges messages with them."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raylabel.media.rejects import Reject
from raylabel.media.sandbox.child import CPU_SECONDS, MEMORY, OUT_OF_MEMORY, READY
from raylabel.media.sandbox.memory import PAGE, SharedMemory
from raylabel.schema import MAX_BYTES, REASONS, Reason

WALL_SECONDS = 10.0  # limit without progress for a child that sleeps
MAX_KILLS = 20  # attempts after a process was killed by another program
STARVED_SECONDS = 240.0  # limit without progress for a child that gets no CPU

_MEDIA = PAGE  # offset of media in the shared memory; at 0 is the index of the sample that the child is parsing
_BOOT = (
    "import json, socket, sys; sys.path[:] = json.loads(sys.argv[2]); from raylabel.media.sandbox.child import main; "
    "main(socket.socket(fileno=int(sys.argv[1])))"
)
# Some installations need it to find libraries. A child gets no other environment variable of the parent.
_PASSED = ("LD_LIBRARY_PATH",)


@dataclass(frozen=True)
class Parser:
    """A parser as plain data: a function and its settings. The function called with the settings returns a
    `child.Parse`."""

    function: str
    """'module:name'."""
    settings: str
    """A JSON object."""
    cpu_seconds: int = CPU_SECONDS
    """Limit for one sample; pictures take less than the default, videos may take more (`View.cpu_seconds`)."""

    @classmethod
    def of(cls, function: Any, cpu_seconds: int = CPU_SECONDS, **settings: Any) -> "Parser":
        """The Parser for a module's function and its settings. A config among the settings is passed as its fields."""
        text = json.dumps(settings, default=dataclasses.asdict)
        return cls(f"{function.__module__}:{function.__qualname__}", text, cpu_seconds)


class SandboxError(RuntimeError):
    """The sandbox itself failed; no sample is the cause."""


class ChildExitError(Exception):
    """A child ended while parsing sample `at`; `reason` is None if the sample is not the cause."""

    def __init__(self, at: int, reason: Reason | None, detail: str) -> None:
        super().__init__(at, reason, detail)
        self.at, self.detail = at, detail
        self.reason: Reason | None = reason


class Zygote:
    """The process that forks sandbox children. It is started again if it has ended."""

    def __init__(self, parser: Parser) -> None:
        self.parser, self._lock = parser, threading.Lock()
        self._start()

    def _start(self) -> None:
        self._control, theirs = socket.socketpair()
        environment = {name: os.environ[name] for name in _PASSED if name in os.environ}
        # One arena: glibc would reserve 64 MB of a child's address space for the malloc of each thread of a decoder.
        environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MALLOC_ARENA_MAX": "1"}
        path = json.dumps([os.path.abspath(entry) for entry in sys.path])
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _BOOT, str(theirs.fileno()), path],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                env=environment,
                start_new_session=True,  # so that only the parent gets Ctrl-C
            )
        self._ready = False
        self._finalizer = weakref.finalize(self, _end, self._control, self._process)
        request = dataclasses.asdict(self.parser) | {"settings": json.loads(self.parser.settings)}
        self._control.sendall(json.dumps(request).encode())

    def child(self) -> "Child":
        with self._lock:
            for _ in range(MAX_KILLS):
                with contextlib.suppress(OSError, ValueError):
                    if not self._ready:
                        self._ready = self._control.recv(64) == READY
                    return self._fork()
                failed = not self._ready
                self.close()
                if failed and self._process.returncode == 1:  # a Python error, which the zygote has printed
                    raise SandboxError(f"the sandbox cannot load {self.parser.function}: see the lines above")
                self._start()
        raise SandboxError(
            f"the process that forks the sandbox's children was killed {MAX_KILLS} times by another program. "
            "Is this machine out of memory?"
        )

    def _fork(self) -> "Child":
        ours, theirs = socket.socketpair()
        memory = SharedMemory()
        with theirs:
            try:
                socket.send_fds(self._control, [b"fork"], [theirs.fileno(), memory.file])
                pid = int(self._control.recv(64))
                theirs.close()  # otherwise the end of the child would not close the socket
                if (answer := ours.recv(1000)) and answer != READY:
                    why = answer.decode(errors="replace")
                    raise SandboxError(f"a child of the sandbox cannot be restricted: {why}")
            except BaseException:
                ours.close()
                memory.close()
                raise
        return Child(self, pid, ours, memory)

    def exit_status(self, pid: int) -> int | None:
        """The exit status of a child that ended, as waitpid gives it; None if the zygote has ended too."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._control.sendall(str(pid).encode())
            return int(self._control.recv(64))
        return None

    def close(self) -> None:
        self._finalizer()


def _end(control: socket.socket, process: "subprocess.Popen[bytes]") -> None:
    control.close()  # the zygote ends when its socket closes
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Child:
    """The parent's handle of a child process, which parses media."""

    def __init__(self, zygote: Zygote, pid: int, link: socket.socket, memory: SharedMemory) -> None:
        self._zygote, self._pid, self._link, self._memory = zygote, pid, link, memory
        self._link.settimeout(WALL_SECONDS)
        self.ended = False

    def ask(
        self, media: Sequence[bytes], numbers: Sequence[Sequence[float]], out: np.ndarray | None, size: int
    ) -> list[Any]:
        """`Sandbox._parse` in one request; ChildExitError if the child ends or must be killed."""
        shared, spans, end = self._memory.bytes, [], _MEDIA
        for i, data in enumerate(media):
            shared[end : end + len(data)] = data
            spans.append([end, len(data), list(numbers[i]) if len(numbers) else []])
            end += len(data)
        end += -end % PAGE
        shared[:4] = bytes(4)
        request = json.dumps({"media": spans, "out": end, "size": size})
        try:
            self._link.sendall(request.encode() + b"\n")
            answer = self._answer(len(media), size)
        except OSError as error:  # the link is broken
            raise self._exit_error() from error
        if answer is None:
            raise self._exit_error()
        results: list[Any] = []
        at = end
        for entry in answer:
            if isinstance(entry, list):
                results.append(Reject(entry[0], entry[1]))  # _is_valid checked both
            else:
                results.append(None if out is not None else shared[at : at + entry])
                at += entry
        if out is not None:  # a copy, because the child could still write to the shared memory
            out[...] = np.frombuffer(shared, np.uint8, out.size, end).reshape(out.shape)
        self._memory.free()
        return results

    def _answer(self, count: int, size: int) -> list[Any] | None:
        """The child's answer for `count` samples with results of `size` bytes, 0 for any; None if it ended."""
        received, current, since = bytearray(), -1, time.monotonic()
        while not received.endswith(b"\n"):
            try:
                some = self._link.recv(1 << 16)
            except TimeoutError:
                # A child never has to wait, so one that sleeps hangs. One that is ready to run gets too little CPU
                # time; its own limit of CPU time ends it if it computes too long.
                if (now := self._current()) != current:
                    current, since = now, time.monotonic()
                elif not _runs(self._pid):
                    raise self._kill(f"no progress in {WALL_SECONDS:g} s", "timeout") from None
                elif time.monotonic() - since > STARVED_SECONDS:
                    why = f"a decoding process got no CPU time for {STARVED_SECONDS:g} s"
                    raise SandboxError(f"{why}: run fewer processes on this machine") from None
                continue
            received += some
            if not some:
                return None
            if len(received) > 4096 * (count + 1):
                raise self._kill("answer too long")
        try:
            answer = json.loads(received)
            if len(answer) == count and all(_is_valid(entry, size) for entry in answer):
                return answer
        except (ValueError, TypeError, RecursionError):
            pass
        raise self._kill("invalid answer")

    def _current(self) -> int:
        """The index of the sample that the child is parsing."""
        return int.from_bytes(self._memory.bytes[:4], "little")

    def _kill(self, why: str, reason: Reason = "decoder_crash") -> ChildExitError:
        os.kill(self._pid, signal.SIGKILL)
        self._zygote.exit_status(self._pid)
        return ChildExitError(self._current(), reason, why)

    def _exit_error(self) -> ChildExitError:
        """The error for a child that ended."""
        current, status = self._current(), self._zygote.exit_status(self._pid)
        if status is None or os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGTERM):
            return ChildExitError(current, None, "a decoding process was killed")
        if os.WIFEXITED(status):
            code = os.WEXITSTATUS(status)
            if code == OUT_OF_MEMORY:
                return ChildExitError(current, "out_of_memory", f"over {MEMORY >> 30} GB")
            return ChildExitError(current, "decoder_crash", f"exit status {code}")
        number = os.WTERMSIG(status)
        if number == signal.SIGXCPU:
            return ChildExitError(current, "timeout", f"over {self._zygote.parser.cpu_seconds} s of CPU time")
        return ChildExitError(current, "decoder_crash", signal.Signals(number).name)

    def close(self) -> None:
        self._link.close()
        self._memory.close()


def _is_valid(entry: Any, size: int) -> bool:
    """Whether an entry of an answer is [reason, detail] or a number of bytes, `size` unless that is 0."""
    if isinstance(entry, list):
        return len(entry) == 2 and entry[0] in REASONS and isinstance(entry[1], str)
    return isinstance(entry, int) and (entry == size if size else 0 <= entry <= MAX_BYTES)


def _runs(pid: int) -> bool:
    """Whether a thread of the process runs, is ready to run, or waits for a disk; False where that cannot be read."""
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/task/{thread}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] in "RD":
                    return True
    except OSError:
        pass
    return False
