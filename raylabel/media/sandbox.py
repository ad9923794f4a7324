"""Media is parsed in child processes that can do nothing else: whatever breaks there costs one sample.

Each child has 1 GB of memory and 10 s of CPU time for a sample, no file, no network, no environment and few system
calls. One that dies or hangs is replaced; the sample that it held is tried once more, alone, and then is a Reject.
Pixels and bytes pass through memory that both processes share, and nothing that a child says is believed: its answers
are numbers and words of a fixed vocabulary, its pixels are pixels.
"""

import array
import contextlib
import dataclasses
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raylabel.media.child import OUT_OF_MEMORY
from raylabel.media.decode import Reject
from raylabel.schema import MAX_BYTES, REASONS, Reason

SAMPLES = 64  # most in one request: handing it over costs as much as to decode a few tiny ones
BYTES = 512 << 10  # of encoded media in one request, if it is more than one sample: that much stays in the caches
WALL_SECONDS = 10.0  # without progress, of a child that sleeps
STARVED_SECONDS = 240.0  # without progress, of a child that gets no CPU
OUTSIDE = 20  # times in a row that a child may be killed by somebody else

_PAGE = 4096  # where media begin in the shared memory; before it stands the number of the sample in hand
_KEEP = 64 << 20  # bytes of shared memory that a child may keep between requests
# Libraries are found by this in some installations; a child gets nothing else of the environment.
_PASSED = ("LD_LIBRARY_PATH",)
_BOOT = (
    "import json, socket, sys; sys.path[:] = json.loads(sys.argv[2]); from raylabel.media.child import main; "
    "main(socket.socket(fileno=int(sys.argv[1])))"
)


@dataclass(frozen=True)
class Parser:
    """What is done to encoded media, as plain data: what the function makes of the settings is a `child.Parse`."""

    function: str
    """'module:name'."""
    settings: str
    """A JSON object."""

    @classmethod
    def of(cls, function: Any, **settings: Any) -> "Parser":
        """The parser that a module's function makes of its settings; a config among them is given by its fields."""
        return cls(f"{function.__module__}:{function.__qualname__}", json.dumps(settings, default=dataclasses.asdict))


class SandboxError(RuntimeError):
    """The sandbox itself does not work: no word on the sample."""


class _DiedError(Exception):
    """A child's death while it held the sample `at`; `reason` is None where the sample is not to blame."""

    def __init__(self, at: int, reason: Reason | None, detail: str) -> None:
        super().__init__(at, reason, detail)
        self.at, self.reason, self.detail = at, reason, detail


class Sandbox:
    """Up to `children` processes that parse, as many at a time as threads call."""

    def __init__(self, parser: Parser, children: int = 1) -> None:
        """Returns at once; the first call waits for what it takes to import, 0.3 to 3 s."""
        self.parser = parser
        self._nursery = _Nursery(parser)
        self._idle: queue.LifoQueue[_Child | None] = queue.LifoQueue()
        for _ in range(children):
            self._idle.put(None)  # to be born when there is work

    def fill(
        self, out: np.ndarray, media: Sequence[bytes], numbers: Sequence[Sequence[int]] = ()
    ) -> list[Reject | None]:
        """Parses the samples into `out` [n, ...], C-contiguous; of each why it was rejected, or None.

        What a rejected one leaves in `out` is zeros. `numbers`: what goes to the parser with each sample.
        """
        found: list[Reject | None] = []
        flat = out.reshape(len(out), int(np.prod(out.shape[1:])))
        for first, some in _spans(media):
            size = flat.shape[1]
            verdicts = self._parse(some, numbers[first : first + len(some)], flat[first : first + len(some)], size)
            found += [verdict if isinstance(verdict, Reject) else None for verdict in verdicts]
        for slot, reject in enumerate(found):
            if reject:
                flat[slot] = 0
        return found

    def convert(self, media: Sequence[bytes]) -> list[bytes | Reject]:
        """What the parser makes of each sample: bytes of any length."""
        return [verdict for _, some in _spans(media) for verdict in self._parse(some, (), None, 0)]

    def close(self) -> None:
        """Ends all processes. A sandbox that is not closed ends with its process, whatever way that ends."""
        with contextlib.suppress(queue.Empty):
            while True:
                if child := self._idle.get_nowait():
                    child.close()
        self._nursery.close()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _parse(
        self, media: Sequence[bytes], numbers: Sequence[Sequence[int]], out: np.ndarray | None, size: int
    ) -> list[Any]:
        """The verdict on each sample: a Reject, None (its pixels are in `out`), or bytes where there is no `out`."""
        verdicts: list[Any] = [None] * len(media)
        deaths: Counter[int] = Counter()
        outside = 0
        for i, data in enumerate(media):
            if len(data) > MAX_BYTES:
                verdicts[i] = Reject("too_many_bytes", f"{len(data)}, limit {MAX_BYTES}")
        # Runs of samples; one that a child died of makes a run of its own.
        todo = [range(len(media))] if not any(verdicts) else [range(i, i + 1) for i, v in enumerate(verdicts) if not v]
        while todo:
            run = todo.pop()
            some = [media[i] for i in run]
            with self._child() as child:
                try:
                    verdicts[run.start : run.stop] = child.ask(
                        some, numbers[run.start : run.stop], None if out is None else out[run.start : run.stop], size
                    )
                    continue
                except _DiedError as death:
                    child.dead = True
                    held = run[min(death.at, len(run) - 1)]
                    if death.reason is None:
                        outside += 1
                        if outside == OUTSIDE:
                            raise SandboxError(
                                f"{death.detail}, {outside} times: something on this machine kills the processes that "
                                "decode. Is it out of memory?"
                            ) from death
                        todo.append(run)
                        continue
                    deaths[held] += 1
                    if deaths[held] == 2:
                        verdicts[held] = Reject(death.reason, death.detail)
                    parts = [range(run.start, held), range(held, held + 1), range(held + 1, run.stop)]
                    todo += [part for part in parts if part and not (part[0] == held and deaths[held] == 2)]
        return verdicts

    @contextlib.contextmanager
    def _child(self) -> Iterator["_Child"]:
        child = self._idle.get()
        try:
            if child is None:
                child = self._nursery.child()
            yield child
        except BaseException:
            if child:
                child.dead = True  # in the middle of an exchange: what it says next is of no use
            raise
        finally:
            if child and child.dead:
                child.close()
                child = None
            self._idle.put(child)


def _spans(media: Sequence[bytes]) -> Iterator[tuple[int, Sequence[bytes]]]:
    """(first, samples) of runs that go to a child at once."""
    first, held = 0, 0
    for i, data in enumerate(media):
        if i > first and (i - first == SAMPLES or held + len(data) > BYTES):
            yield first, media[first:i]
            first, held = i, 0
        held += len(data)
    if first < len(media):
        yield first, media[first:]


_shared: OrderedDict[Parser, Sandbox] = OrderedDict()


def shared_sandbox(parser: Parser) -> Sandbox:
    """This process's sandbox of one child for the parser: for tasks, which come one after another."""
    sandbox = _shared.pop(parser, None) or Sandbox(parser)
    _shared[parser] = sandbox
    if len(_shared) > 3:
        _shared.popitem(last=False)[1].close()
    return sandbox


class _Nursery:
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
        settings = json.loads(self.parser.settings)
        self._control.sendall(json.dumps({"function": self.parser.function, "settings": settings}).encode())

    def child(self) -> "_Child":
        with self._lock:
            for _ in range(3):  # somebody may have killed it
                with contextlib.suppress(OSError, ValueError):
                    if not self._ready:
                        self._ready = self._control.recv(64) == b"ready"
                    return self._fork()
                failed = not self._ready
                self.close()
                if failed and self._process.returncode == 1:  # a Python error, which it has printed
                    raise SandboxError(f"the sandbox cannot load {self.parser.function}: see the lines above")
                self._start()
        raise SandboxError("the process that makes the sandbox's children was killed 3 times")

    def _fork(self) -> "_Child":
        ours, theirs = socket.socketpair()
        memory = _memory()
        with theirs:
            try:
                socket.send_fds(self._control, [b"fork"], [theirs.fileno(), memory])
                pid = int(self._control.recv(64))
            except BaseException:
                ours.close()
                os.close(memory)
                raise
        return _Child(self, pid, ours, memory)

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


class _Child:
    """One process that parses, as the parent sees it."""

    def __init__(self, nursery: _Nursery, pid: int, link: socket.socket, memory: int) -> None:
        self._nursery, self._pid, self._link, self._memory = nursery, pid, link, memory
        self._link.settimeout(WALL_SECONDS)
        self.dead = False

    def ask(
        self, media: Sequence[bytes], numbers: Sequence[Sequence[int]], out: np.ndarray | None, size: int
    ) -> list[Any]:
        """As Sandbox._parse, once; _DiedError if the child ends or has to be ended."""
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
                verdicts.append(Reject(*verdict))
                at += size
            else:
                verdicts.append(None if out is not None else os.pread(self._memory, verdict, at))
                at += verdict
        if out is not None:
            os.preadv(self._memory, [out], end)
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
                    raise self._kill(f"no progress in {WALL_SECONDS:g} s") from None
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
            if isinstance(answer, str):
                raise SandboxError(f"{self._nursery.parser.function} failed with an error that is no Reject:\n{answer}")
            if len(answer) == count and all(map(_is_verdict, answer)):
                return answer
        except (ValueError, TypeError):
            pass
        raise self._kill("talks nonsense")

    def _held(self) -> int:
        return array.array("I", os.pread(self._memory, 4, 0))[0]

    def _kill(self, why: str) -> _DiedError:
        os.kill(self._pid, signal.SIGKILL)
        self._nursery.end_of(self._pid)
        return _DiedError(self._held(), "timeout" if "progress" in why else "decoder_crash", why)

    def _death(self) -> _DiedError:
        held, status = self._held(), self._nursery.end_of(self._pid)
        if status is None or os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGTERM):
            return _DiedError(held, None, "a decoding process was killed from outside")
        if os.WIFEXITED(status):
            code = os.WEXITSTATUS(status)
            reason = "out_of_memory" if code == OUT_OF_MEMORY else "decoder_crash"
            return _DiedError(held, reason, f"exit status {code}" if reason == "decoder_crash" else "over 1 GB")
        number = os.WTERMSIG(status)
        if number == signal.SIGXCPU:
            return _DiedError(held, "timeout", "over 10 s of CPU time")
        return _DiedError(held, "decoder_crash", signal.Signals(number).name)

    def close(self) -> None:
        self._link.close()
        os.close(self._memory)


def _is_verdict(verdict: Any) -> bool:
    if isinstance(verdict, list):
        return len(verdict) == 2 and verdict[0] in REASONS and isinstance(verdict[1], str)
    return isinstance(verdict, int) and 0 <= verdict <= MAX_BYTES


def _runs(pid: int) -> bool:
    """Whether the process has a processor, or waits for one or for its memory; False where that cannot be known."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "RD"
    except OSError:
        return False
