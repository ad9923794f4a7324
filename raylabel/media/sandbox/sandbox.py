"""Parses media in restricted child processes, so that a failure of a parser costs one sample only.

Each child has 1 GB of memory and 10 s of CPU time for a sample (60 s for a video), no file, no network, no environment
and few system calls. A child that ends or hangs is replaced; the sample that it was parsing is tried once more, alone.
If that fails too, it is rejected. Pixels and bytes pass through memory that both processes share. The parent validates
every answer of a child: numbers must be in range, and reasons in a fixed list.
"""

import contextlib
import queue
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from raylabel.media.rejects import Reject
from raylabel.media.sandbox.processes import MAX_KILLS, Child, ChildExitError, Parser, SandboxError, Zygote
from raylabel.schema import MAX_BYTES

SAMPLES = 64  # at most in one request; a request takes as long as decoding a few tiny samples
BYTES = 512 << 10  # of media in a request of several samples, at most; more would not fit in the processor's caches


class Sandbox:
    """Up to `children` processes that parse. Each calling thread uses one at a time."""

    def __init__(self, parser: Parser, children: int = 1) -> None:
        """Returns immediately; the first call waits for imports, 0.3 to 3 s."""
        self.parser = parser
        self._zygote = Zygote(parser)
        self._idle: queue.LifoQueue[Child | None] = queue.LifoQueue()
        for _ in range(children):
            self._idle.put(None)  # forked at its first use

    def fill(
        self, out: np.ndarray, media: Sequence[bytes], numbers: Sequence[Sequence[float]] = ()
    ) -> list[Reject | None]:
        """Parses the samples into `out` [n, ...], C-contiguous. Returns for each sample its Reject, or None.

        The slots of rejected samples are set to zeros. `numbers`: the numbers that the parser gets with each sample.
        """
        found: list[Reject | None] = []
        flat = out.reshape(len(out), int(np.prod(out.shape[1:])))
        for first, some in _spans(media):
            size = flat.shape[1]
            results = self._parse(some, numbers[first : first + len(some)], flat[first : first + len(some)], size)
            found += [result if isinstance(result, Reject) else None for result in results]
        for slot, reject in enumerate(found):
            if reject:
                flat[slot] = 0
        return found

    def convert(self, media: Sequence[bytes], numbers: Sequence[Sequence[float]] = ()) -> list[bytes | Reject]:
        """The parser's result for each sample: bytes of any length, or a Reject. `numbers` as for `fill`."""
        return [
            result
            for first, some in _spans(media)
            for result in self._parse(some, numbers[first : first + len(some)], None, 0)
        ]

    def close(self) -> None:
        """Ends all processes. Without this call they end with the parent, however it ends."""
        with contextlib.suppress(queue.Empty):
            while True:
                if child := self._idle.get_nowait():
                    child.close()
        self._zygote.close()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _parse(
        self, media: Sequence[bytes], numbers: Sequence[Sequence[float]], out: np.ndarray | None, size: int
    ) -> list[Any]:
        """The result of each sample: a Reject, None (its pixels are in `out`), or bytes if `out` is None."""
        results: list[Any] = [None] * len(media)
        failures: Counter[int] = Counter()
        kills = 0
        for i, data in enumerate(media):
            if len(data) > MAX_BYTES:
                results[i] = Reject("too_many_bytes", f"{len(data)}, limit {MAX_BYTES}")
        # Runs of consecutive samples. A sample on which a child failed becomes a run of its own.
        todo = [range(len(media))] if not any(results) else [range(i, i + 1) for i, r in enumerate(results) if not r]
        while todo:
            run = todo.pop()
            some = [media[i] for i in run]
            with self._child() as child:
                try:
                    results[run.start : run.stop] = child.ask(
                        some, numbers[run.start : run.stop], None if out is None else out[run.start : run.stop], size
                    )
                    continue
                except ChildExitError as error:
                    child.ended = True
                    failed = run[min(error.at, len(run) - 1)]
                    if error.reason is None:
                        kills += 1
                        if kills == MAX_KILLS:
                            raise SandboxError(
                                f"{error.detail} {kills} times by another program. Is this machine out of memory?"
                            ) from error
                        todo.append(run)
                        continue
                    failures[failed] += 1
                    todo += [rest for rest in (range(run.start, failed), range(failed + 1, run.stop)) if rest]
                    if failures[failed] == 2:
                        results[failed] = Reject(error.reason, error.detail)
                    else:
                        todo.append(range(failed, failed + 1))
        return results

    @contextlib.contextmanager
    def _child(self) -> Iterator["Child"]:
        child = self._idle.get()
        try:
            if child is None:
                child = self._zygote.child()
            yield child
        except BaseException:
            if child:
                child.ended = True  # its next answer would belong to the interrupted request
            raise
        finally:
            if child and child.ended:
                child.close()
                child = None
            self._idle.put(child)


def _spans(media: Sequence[bytes]) -> Iterator[tuple[int, Sequence[bytes]]]:
    """(first, samples) of each run that goes to a child in one request."""
    first, total = 0, 0
    for i, data in enumerate(media):
        if i > first and (i - first == SAMPLES or total + len(data) > BYTES):
            yield first, media[first:i]
            first, total = i, 0
        total += len(data)
    if first < len(media):
        yield first, media[first:]


_shared: OrderedDict[Parser, Sandbox] = OrderedDict()


def shared_sandbox(parser: Parser) -> Sandbox:
    """This process's sandbox for the parser, with one child, kept for the next task. The three used last are kept."""
    sandbox = _shared.pop(parser, None) or Sandbox(parser)
    _shared[parser] = sandbox
    if len(_shared) > 3:
        _shared.popitem(last=False)[1].close()
    return sandbox
