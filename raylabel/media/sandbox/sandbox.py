"""Media is parsed in child processes that can do nothing else: whatever breaks there costs one sample.

Each child has 1 GB of memory and 10 s of CPU time for a sample (60 s for a video), no file, no network, no environment
and few system calls. One that dies or hangs is replaced; the sample that it held is tried once more, alone, and then is
a Reject. Pixels and bytes pass through memory that both processes share, and nothing that a child says is believed: its
answers are numbers and words of a fixed vocabulary, its pixels are pixels.
"""

import contextlib
import queue
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from raylabel.media.rejects import Reject
from raylabel.media.sandbox.processes import OUTSIDE, Child, DiedError, Nursery, Parser, SandboxError
from raylabel.schema import MAX_BYTES

SAMPLES = 64  # most in one request: handing it over costs as much as to decode a few tiny ones
BYTES = 512 << 10  # of encoded media in one request, if it is more than one sample: that much stays in the caches


class Sandbox:
    """Up to `children` processes that parse, as many at a time as threads call."""

    def __init__(self, parser: Parser, children: int = 1) -> None:
        """Returns at once; the first call waits for what it takes to import, 0.3 to 3 s."""
        self.parser = parser
        self._nursery = Nursery(parser)
        self._idle: queue.LifoQueue[Child | None] = queue.LifoQueue()
        for _ in range(children):
            self._idle.put(None)  # to be born when there is work

    def fill(
        self, out: np.ndarray, media: Sequence[bytes], numbers: Sequence[Sequence[float]] = ()
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

    def convert(self, media: Sequence[bytes], numbers: Sequence[Sequence[float]] = ()) -> list[bytes | Reject]:
        """What the parser makes of each sample: bytes of any length. `numbers` as for `fill`."""
        return [
            verdict
            for first, some in _spans(media)
            for verdict in self._parse(some, numbers[first : first + len(some)], None, 0)
        ]

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
        self, media: Sequence[bytes], numbers: Sequence[Sequence[float]], out: np.ndarray | None, size: int
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
                except DiedError as death:
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
                    todo += [part for part in (range(run.start, held), range(held + 1, run.stop)) if part]
                    if deaths[held] == 2:
                        verdicts[held] = Reject(death.reason, death.detail)
                    else:
                        todo.append(range(held, held + 1))
        return verdicts

    @contextlib.contextmanager
    def _child(self) -> Iterator["Child"]:
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
