"""What a sweep found: its trials, what they cost and shared, and the table of them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raylabel.report.terminal import WIDTH, encodable

State = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial of a sweep, and what it rests on."""

    number: int
    """Counted from 0, in the order in which the space lists them."""
    settings: dict[str, Any]
    """Field → value."""
    state: State
    """'stopped': by the scheduler, after pre-training; 'failed': see `error`."""
    accuracy: float | None = None
    """Top-1 on the validation split, a fraction: of the fine-tuned student, of the pre-trained one if it was stopped.
    """
    low: float | None = None
    high: float | None = None
    """Ends of its 95% Wilson interval."""
    built: tuple[str, ...] = ()
    """Artifacts that this trial made, <name>-<digest>."""
    reused: tuple[str, ...] = ()
    """Artifacts that it used, and another trial made, or an earlier run."""
    images: int = 0
    """Processed for what it built: trained on, scored, or decoded once to be written down for training."""
    alone: int = 0
    """Images that it would have had processed without the others: those of all that it used."""
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """All trials, best first, and the test of the chosen one."""

    name: str
    trials: tuple[Trial, ...]
    """By validation accuracy: those that finished, then those that were stopped, then those that failed."""
    n: int
    """Validation samples."""
    images: int
    """Processed in all for what the trials used, each artifact counted once, whenever it was made."""
    test: float
    """Top-1 of the best trial's student on the test set, a fraction."""
    test_low: float
    test_high: float
    """Ends of its 95% Wilson interval."""
    test_n: int
    run: str
    """Folder of the run of the best trial, with its report."""

    @property
    def best(self) -> Trial:
        return self.trials[0]

    @property
    def alone(self) -> int:
        """Images that the same trials would have processed one by one, sharing nothing."""
        return sum(trial.alone for trial in self.trials)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"alone": self.alone}


def ranked(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """Best first; of equal ones that of the smaller number."""
    order = ("finished", "stopped", "failed")
    return tuple(sorted(trials, key=lambda one: (order.index(one.state), -(one.accuracy or 0), one.number)))


def print_sweep(sweep: Sweep, folder: str, console: Console | None = None) -> None:
    """Prints the table of the trials; plain text if the console is no terminal."""
    console = console or Console()

    def say(text: str, style: str = "") -> None:
        console.print(Text(encodable(text, console), style=style), width=min(console.width, WIDTH))

    say(f"sweep {sweep.name}: {len(sweep.trials)} trials, n = {sweep.n:,} validation samples", "bold")
    console.print(_table(sweep, console), width=min(console.width, WIDTH))
    for trial in sweep.trials:
        if trial.error:
            say(f"trial {trial.number} failed: {trial.error}")
    best = ", ".join(f"{name} {_text(value)}" for name, value in sweep.best.settings.items())
    say(f"chosen: trial {sweep.best.number} ({best})", "bold")
    say(
        f"test accuracy of its student: {_percent(sweep.test)} (95% interval {_percent(sweep.test_low)} to "
        f"{_percent(sweep.test_high)}, n = {sweep.test_n:,})"
    )
    if sweep.alone:
        say(
            f"work: {sweep.images:,} images processed; the same trials one by one, sharing nothing: {sweep.alone:,} "
            f"({sweep.images / sweep.alone:.0%} of them)"
        )
    console.print(Text(encodable(f"{sweep.run}/report.html", console)), soft_wrap=True)
    console.print(Text(encodable(f"TensorBoard: tensorboard --logdir {folder}", console)), soft_wrap=True)


def _table(sweep: Sweep, console: Console) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    names = list(sweep.best.settings)
    table.add_column("trial", justify="right", no_wrap=True)
    for name in names:
        table.add_column(encodable(name, console), justify="right", overflow="fold")
    table.add_column("validation", justify="right", no_wrap=True)
    table.add_column("95% interval", justify="right", no_wrap=True)
    table.add_column("images", justify="right", no_wrap=True)
    table.add_column("reused", justify="right", no_wrap=True)
    for trial in sweep.trials:
        accuracy, interval = "-", trial.state
        if trial.accuracy is not None and trial.low is not None and trial.high is not None:
            accuracy = _percent(trial.accuracy) + (" (stopped)" if trial.state == "stopped" else "")
            interval = f"{100 * trial.low:.1f} to {100 * trial.high:.1f}"
        settings = [Text(encodable(_text(trial.settings[name]), console)) for name in names]
        reused = f"{len(trial.reused)} of {len(trial.reused) + len(trial.built)}"
        table.add_row(str(trial.number), *settings, accuracy, interval, f"{trial.images:,}", reused)
    return table


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"
