"""What a run says in the terminal: one live line per stage, and the table of results when it is done."""

import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as LiveProgress
from rich.table import Table
from rich.text import Text

from raylabel.compute.watchdog import moved
from raylabel.report.summary import Summary, printable

WIDTH = 100
"""Columns of the widest table."""
RATE_WINDOW = 10.0
"""Seconds over which the rate moves."""
PATIENCE = 5.0
"""Seconds that a stage may take without a word, where most take less."""
LINE_EVERY = 5.0
"""Seconds between two plain lines, where there is no terminal to redraw."""


def print_summary(summary: Summary, folder: str, console: Console | None = None) -> None:
    """Prints the results of a run whose report.html and summary.json stand in `folder`; plain text if no terminal."""
    console = console or Console()

    def say(text: str, style: str = "") -> None:
        # Folded, never cropped: a number that is cut short is wrong.
        console.print(Text(encodable(text, console), style=style), width=min(console.width, WIDTH))

    say(f"run {summary.run}", "bold")
    console.print(_accuracy_table(summary, console), width=min(console.width, WIDTH))
    gain = summary.gain
    say(f"gain over control: {gain.verdict}", "bold green" if gain.low > 0 else "bold red" if gain.high < 0 else "bold")
    counts = summary.counts
    say(
        f"samples: {counts.samples:,} in = {counts.scored:,} scored + {counts.rejected:,} rejected + "
        f"{counts.duplicates:,} duplicates"
    )
    if counts.labeled_rejected:
        say(f"labeled: {counts.labeled:,} samples trained on, {counts.labeled_rejected:,} rejected")
    if summary.rejects:
        say("rejected: " + ", ".join(f"{r.reason} {r.count:,}" for r in summary.rejects))
    picks = summary.picks
    say(f"picks: {picks.total:,} of {picks.samples:,} samples (K {picks.k:,}, P {picks.p}, by {picks.rank})")
    if picks.per_class:
        fewest, most = (summary.classes[picks.per_class.index(x)] for x in (picks.min, picks.max))
        median = f"{picks.median:,.1f}".removesuffix(".0")
        say(f"picks per class: min {picks.min:,} ({fewest}), median {median}, max {picks.max:,} ({most})")
    if summary.precision is not None:
        known = "" if summary.precision_n is None else f" of {summary.precision_n:,}"
        say(f"picks with the true label: {100 * summary.precision:.1f}%{known}")
    if summary.leaks and summary.leaks.sentence:
        say(f"leaks: {summary.leaks.sentence}", "bold red" if summary.leaks.test else "")
    console.print(_stage_table(summary, console), width=min(console.width, WIDTH))
    say(f"hardware: {summary.hardware}")
    for name in ("report.html", "summary.json"):  # one line each, however long: a path that is folded cannot be copied
        console.print(Text(encodable(f"{folder.rstrip('/')}/{name}", console)), soft_wrap=True)


def _accuracy_table(summary: Summary, console: Console) -> Table:
    with_top5 = any(a.top5 is not None for a in summary.accuracies)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", overflow="fold")
    for name in ["top-1", "95% interval"] + ["top-5", "95% interval"] * with_top5 + ["n"]:
        table.add_column(name, justify="right", no_wrap=True)
    for a in summary.accuracies:
        cells = _percent(a.top1, a.top1_low, a.top1_high)
        if with_top5:
            cells += _percent(a.top5, a.top5_low, a.top5_high)
        table.add_row(Text(encodable(a.model, console)), *cells, f"{a.n:,}")
        if a.clip_top1 is not None:  # in a row of its own: 80 columns have no room for another two
            cells = _percent(a.clip_top1, a.clip_top1_low, a.clip_top1_high) + ["", ""] * with_top5
            table.add_row("  per clip", *cells, f"{a.n:,}")
    return table


def _stage_table(summary: Summary, console: Console) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("stage", overflow="fold")
    for name in ("seconds", summary.counted, f"{summary.counted}/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for s in summary.stages:
        images = "-" if s.images is None else f"{s.images:,}"
        rate = "-" if s.images_per_second is None else f"{s.images_per_second:,.1f}"
        table.add_row(Text(encodable(s.name, console)), f"{s.seconds:,.1f}", images, rate)
    return table


def _percent(value: float | None, low: float | None, high: float | None) -> list[str]:
    if value is None or low is None or high is None:
        return ["-", "-"]
    return [f"{100 * value:.1f}%", f"{100 * low:.1f} to {100 * high:.1f}"]


def percent(value: float) -> str:
    """A fraction as it is shown."""
    return f"{100 * value:.1f}%"


def text_of(value: Any) -> str:
    """A field's value as it is shown."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def encodable(text: str, console: Console) -> str:
    """Printable text that the stream can hold: a class name must not end a run whose results are ready."""
    return printable(text).encode(console.encoding, "replace").decode(console.encoding)


class Progress:
    """One live line of a stage: done of total, rate over the last seconds, time left, rejects.

    On a terminal the line is redrawn and stays when the stage is done. Elsewhere (a log) plain lines are printed: at
    the start, at the end, and between them at most one every `LINE_EVERY` seconds. Any thread may call `update`. A
    stage in which nothing more is done is ended by the run's watch.
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
        """`unit` is what is counted, in the plural. `done` of the `total` stood already when this run began (a resumed
        stage): no part of the rate.

        `total` None: nobody knows it yet.
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
        moved(self._stage)
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
        """`done` units of the total, and `rejects` of them unreadable, so far; the note stands at the line's end."""
        if done != self._done:
            moved()
        with self._lock:
            now = self._clock()
            if done < self._done:  # a training that went back to its last checkpoint: what is lost is no rate
                self._recent = deque([(now, done)])
                self._first = min(self._first, done)
            self._done, self._rejects, self._note = done, rejects, encodable(note, self._console)
            self._recent.append((now, done))
            # The newest point that is at least a window old stays: the rate is over the whole window, not less.
            while len(self._recent) > 2 and now - self._recent[1][0] >= RATE_WINDOW:
                self._recent.popleft()
            (then, before) = self._recent[0]
            line = self._line((done - before) / (now - then) if now > then else None)
            if self._live:
                self._bar.update(self._task, completed=done, line=line)
            elif now - self._printed >= LINE_EVERY and done != self._total:  # of the end the last line tells
                self._printed = now
                self._print(line)

    def say(self, text: str) -> None:
        """Prints a line of its own about the stage, that stays."""
        with self._lock:
            self._print(encodable(text, self._console))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        moved()
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
        self._console.file.flush()  # a log that is piped shows the line now, not when a buffer is full


class PatientProgress:
    """A Progress that is shown only once its stage has taken `PATIENCE` seconds: most are done by then."""

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
        self._start = lambda done: Progress(stage, total, unit, done=done, console=console, clock=clock).__enter__()
        self._shown: Progress | None = None
        self._stage, self._done = stage, 0

    def __enter__(self) -> Self:
        moved(printable(self._stage))
        return self

    def update(self, done: int) -> None:
        """`done` units of the total so far."""
        if done != self._done:
            self._done = done
            moved()
        if self._shown is None and self._clock() - self._begun >= PATIENCE:
            self._shown = self._start(done)
        if self._shown is not None:
            self._shown.update(done)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._shown is not None:
            self._shown.__exit__(kind, error, traceback)


def duration(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minute:02} min"
    return f"{minute} min {second:02} s" if minute else f"{second} s"
