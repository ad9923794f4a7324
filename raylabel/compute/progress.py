"""Progress lines, and the board: a small actor through which training workers report progress to the driver.

The driver uses the board in the other direction too, to tell the workers that they are preempted.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import ray
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as LiveProgress
from rich.text import Text

from raylabel.compute.watchdog import progressed
from raylabel.text import duration, encodable, printable

RATE_WINDOW = 10.0
"""Seconds over which the rate is measured."""


PATIENCE = 5.0
"""Seconds after which a PatientProgress is shown."""


LINE_EVERY = 5.0
"""Seconds between two lines, where the output is not a terminal."""


class Progress:
    """The progress line of a stage: done of total, rate over the last seconds, time left, rejects.

    On a terminal the line is redrawn, and kept when the stage is done. Elsewhere (a log) plain lines are printed: at
    the start, at the end, and between them at most one every `LINE_EVERY` seconds. Any thread may call `update`. The
    watchdog ends a stage that makes no progress.
    """

    def __init__(
        self,
        stage: str,
        total: int | None,
        unit: str,
        *,
        done: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`unit`: what is counted, in the plural. `total`: None if it is not known yet. `done`: units that were done
        before this run began, in a stage that is resumed; they do not count in the rate.
        """
        self._console = console or Console()
        self._stage, self._unit = (encodable(text, self._console) for text in (stage, unit))
        self._total, self._first, self._clock = total, done, clock
        self._done, self._rejects, self._note = done, 0, ""
        self._lock = threading.Lock()
        self._live = self._console.is_terminal
        if self._live:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(16))
            self._bar = LiveProgress(
                *columns, TextColumn("{task.fields[line]}", markup=False), console=self._console, get_time=clock
            )

    def __enter__(self) -> Self:
        progressed(self._stage)
        self._start = self._printed = self._clock()
        self._recent = deque([(self._start, self._first)])
        if self._live:
            line = self._line(None)
            self._task = self._bar.add_task(self._stage, total=self._total, completed=self._first, line=line)
            self._bar.start()
        else:
            self._print(self._line(None))
        return self

    def update(self, done: int, rejects: int = 0, note: str = "") -> None:
        """`done` units of the total, and `rejects` of them unreadable, so far. The note is shown at the end."""
        if done != self._done:
            progressed()
        with self._lock:
            now = self._clock()
            if (
                done < self._done
            ):  # a training that resumed from its last checkpoint: lost work does not count in the rate
                self._recent = deque([(now, done)])
                self._first = min(self._first, done)
            self._done, self._rejects, self._note = done, rejects, encodable(note, self._console)
            self._recent.append((now, done))
            # The newest point that is at least a window old is kept, so that the rate is over a whole window.
            while len(self._recent) > 2 and now - self._recent[1][0] >= RATE_WINDOW:
                self._recent.popleft()
            (then, before) = self._recent[0]
            line = self._line((done - before) / (now - then) if now > then else None)
            if self._live:
                self._bar.update(self._task, completed=done, line=line)
            elif now - self._printed >= LINE_EVERY and done != self._total:  # the last line is printed at the end
                self._printed = now
                self._print(line)

    def say(self, text: str) -> None:
        """Prints a separate line about the stage, which is kept."""
        with self._lock:
            self._print(encodable(text, self._console))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        progressed()
        with self._lock:
            seconds = self._clock() - self._start
            rate = (self._done - self._first) / seconds if seconds > 0 else None
            how = "in" if kind is None else "stopped after"
            line = self._line(rate, f"{how} {duration(seconds)}")
            if self._live:
                self._bar.update(self._task, completed=self._done, line=line)
                self._bar.stop()
            else:
                self._print(line)

    def _line(self, rate: float | None, ended: str = "") -> str:
        parts = [f"{self._done:,}{'' if self._total is None else f' of {self._total:,}'} {self._unit}"]
        if rate is not None:
            parts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s")
        if ended:
            parts.append(ended)
        elif rate is not None and rate > 0 and self._total is not None:
            parts.append(f"{duration(max(self._total - self._done, 0) / rate)} left")
        if self._rejects:
            parts.append(f"{self._rejects:,} rejected")
        if self._note:
            parts.append(self._note)
        return ", ".join(parts)

    def _print(self, line: str) -> None:
        self._console.print(Text(f"{self._stage}: {line}"), soft_wrap=True)
        self._console.file.flush()  # a pipe shows the line now, not when a buffer is full


class PatientProgress:
    """A Progress that is shown only after `PATIENCE` seconds: most of these stages are done by then."""

    def __init__(
        self,
        stage: str,
        total: int | None,
        unit: str,
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._begun = clock, clock()
        self._make = lambda done: Progress(stage, total, unit, done=done, console=console, clock=clock)
        self._shown: Progress | None = None
        self._stage, self._done = stage, 0

    def __enter__(self) -> Self:
        progressed(printable(self._stage))
        return self

    def update(self, done: int) -> None:
        """`done` units of the total so far."""
        if done != self._done:
            self._done = done
            progressed()
        if self._shown is None and self._clock() - self._begun >= PATIENCE:
            self._shown = self._make(done).__enter__()
        if self._shown is not None:
            self._shown.update(done)

    def say(self, text: str) -> None:
        """Prints a separate line about the stage, at once, which is kept."""
        (self._shown or self._make(self._done)).say(text)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._shown is not None:
            self._shown.__exit__(kind, error, traceback)


def say(text: str) -> None:
    """Prints a line about the work, which is kept."""
    console = Console()
    console.print(Text(encodable(text, console)), soft_wrap=True)
    console.file.flush()


class _Board:
    def __init__(self):
        self.at: tuple[int, str, Any] = (0, "", None)
        self.preempted, self.told = False, False

    def set(self, done: int, note: str, points: Any = None) -> bool:
        self.at, self.told = (done, note, points), True
        return self.preempted

    def preempt(self, preempted: bool) -> bool:
        told, self.preempted = self.told, preempted
        self.told = told and preempted
        return told

    def is_preempted(self) -> bool:
        return self.preempted

    def get(self) -> tuple[int, str, Any]:
        return self.at


def make_board() -> Any:
    """The handle of an actor through which a driver and its training workers talk, and that can be sent to both.

    `.set.remote(done, note, points)`, called by rank 0, returns whether training is preempted. `points` are those of
    its curves, as lists and dicts: for any other type the actor would import its module, and PyTorch with it.
    `.preempt.remote(whether)` sets whether training is preempted; it returns whether `set` was called since
    `.preempt.remote(False)`, that is, whether workers are training. `.is_preempted.remote()` tells without reporting.
    The actor runs on the driver's node, so that it ends with the driver and with no other node.
    """
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    return ray.remote(num_cpus=0, label_selector=here, max_restarts=5, max_task_retries=5)(_Board).remote()


@contextmanager
def shown(board: Any, progress: Progress, watch: Callable[[Any], None]) -> Iterator[None]:
    """Copies the board to the progress line while the block runs, and calls `watch` with the points on it."""
    stop = threading.Event()

    def show() -> None:
        done, note, points = ray.get(board.get.remote())
        progress.update(done, note=note)
        if points:
            watch(points)

    def poll() -> None:
        while not stop.wait(0.5):
            show()

    thread = threading.Thread(target=poll, name="progress", daemon=True)
    thread.start()
    try:
        yield
        show()
    finally:
        stop.set()
        thread.join()
