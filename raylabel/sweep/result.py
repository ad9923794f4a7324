"""The results of a sweep: its trials, what they cost and shared, and the table that is printed."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raylabel.evaluate.results import Metric
from raylabel.report.summary import detail, interval
from raylabel.report.terminal import WIDTH
from raylabel.text import encodable, percent, percent_range, points, text_of

State = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial of a sweep, and the artifacts that it built and used."""

    number: int
    """Its index from 0, in the order of the space."""
    settings: dict[str, Any]
    """Field → value."""
    state: State
    """'stopped': by the scheduler, after pre-training; 'failed': see `error`."""
    accuracy: float | None = None
    """Top-1 on the validation split, a fraction: of the fine-tuned student, or of the pre-trained one if the trial was
    stopped or failed after pre-training."""
    low: float | None = None
    high: float | None = None
    """With `low`, the 95% Wilson interval of the accuracy."""
    built: tuple[str, ...] = ()
    """Artifacts that this trial built, <name>-<digest>."""
    reused: tuple[str, ...] = ()
    """Artifacts that it used and that another trial or an earlier run built."""
    picks: int | None = None
    """Examples that were selected, pairs of a sample and a label; None if it failed before that."""
    images: int = 0
    """Images processed for what it built: trained on, scored, or decoded once and stored for training."""
    alone: int = 0
    """Images that it would have processed without the other trials: those of all artifacts that it used."""
    seconds: float = 0
    """Wall time of its builds, while other trials may have been running."""
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Soup:
    """The mean of the weights of students that differ only in their fine-tuning rate, chosen by the greedy rule."""

    trials: tuple[int, ...]
    """The trials whose students are averaged, in the order in which they were added; the chosen trial is first."""
    left_out: tuple[int, ...]
    """Trials that were not added because the validation accuracy of the mean would have fallen."""
    artifact: str
    """<name>-<digest>; if no other student was added, that of the chosen trial's student."""
    validation: Metric
    """Its top-1 on the validation split."""
    test: Metric
    """Its top-1 on the test set."""
    gain: Metric
    """Top-1 of the soup on the test set minus that of the chosen trial's student."""

    @property
    def verdict(self) -> str:
        """The gain in words: whether it can be measured, and its interval."""
        if len(self.trials) == 1:
            return "no other student was added: the soup is the student of the chosen trial"
        low, high = interval(self.gain)
        if low <= 0 <= high:
            return f"no measurable difference ({detail(self.gain)})"
        return f"{points(self.gain.value)} points ({detail(self.gain)})"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """All trials, best first, and the test of the chosen one."""

    name: str
    trials: tuple[Trial, ...]
    """By validation accuracy: those that finished, then those that were stopped, then those that failed."""
    n: int
    """Validation samples."""
    images: int
    """Images processed for all artifacts that the trials used. Each artifact counts once, whenever it was built."""
    test: Metric
    """Top-1 of the best trial's student on the test set."""
    run: str
    """Folder of the run of the best trial, with its report."""
    soup: Soup | None = None
    """None if the config has no soup."""
    config: dict[str, Any] = field(default_factory=dict)
    """The SweepConfig, as plain JSON."""
    arguments: tuple[str, ...] = ()
    """Command-line arguments that name the recipe, its changed fields and the root; empty without a command line."""
    programs: tuple[str, str] = ("raylabel sweep", "raylabel semi-supervised")
    """The commands that run a sweep and a recipe, as the user types them."""

    @property
    def best(self) -> Trial:
        return self.trials[0]

    @property
    def command(self) -> str:
        """A command line that resumes the sweep, or shows its results if it is done; empty without `arguments`."""
        return self._command(self.programs[0], self.config)

    @property
    def best_command(self) -> str:
        """A command line that runs the best trial's settings on the whole labeled set; empty without `arguments`."""
        return self._command(self.programs[1], self.best.settings)

    def _command(self, program: str, fields: Mapping[str, Any]) -> str:
        return f"{program} {shlex.join([*self.arguments, *flags(fields)])}" if self.arguments else ""

    @property
    def alone(self) -> int:
        """Images that the same trials would have processed one by one, without sharing artifacts."""
        return sum(trial.alone for trial in self.trials)

    @property
    def share(self) -> float | None:
        """`images` / `alone`; None if nothing would have been processed."""
        return self.images / self.alone if self.alone else None

    @property
    def rivals(self) -> int:
        """Other finished trials whose interval overlaps with that of the best trial."""
        low = self.best.low or 0
        return sum(one.state == "finished" and (one.high or 0) >= low for one in self.trials) - 1

    @property
    def states(self) -> dict[State, int]:
        """How many trials ended in each state."""
        return {state: sum(one.state == state for one in self.trials) for state in get_args(State)}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, with the properties above."""
        data = dataclasses.asdict(self)
        if self.soup:
            data["soup"]["verdict"] = self.soup.verdict
        for name in ("alone", "share", "rivals", "states", "command", "best_command"):
            data[name] = getattr(self, name)
        return data


def flags(fields: Mapping[str, Any]) -> list[str]:
    """Fields and their values as command-line arguments."""
    found = []
    for name, value in fields.items():
        if isinstance(value, bool):
            where, dot, last = name.rpartition(".")
            found.append(f"--{where}{dot}{'' if value else 'no-'}{last}".replace("_", "-"))
        elif isinstance(value, (list, tuple)):
            found += [f"--{name}".replace("_", "-"), *map(str, value)]
        else:
            found += [f"--{name}".replace("_", "-"), str(value)]
    return found


def ranked(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """The trials, best first; ties are ordered by number."""
    order = ("finished", "stopped", "failed")
    return tuple(sorted(trials, key=lambda one: (order.index(one.state), -(one.accuracy or 0), one.number)))


def print_sweep(sweep: Sweep, folder: str, console: Console | None = None) -> None:
    """Prints the table of the trials and the results; plain text if the console is not a terminal."""
    console = console or Console()

    def say(text: str, style: str = "") -> None:
        console.print(Text(encodable(text, console), style=style), width=min(console.width, WIDTH))

    trials = f"{len(sweep.trials)} trial{'s' if len(sweep.trials) > 1 else ''}"
    say(f"sweep {sweep.name}: {trials}, n = {sweep.n:,} validation samples", "bold")
    console.print(_table(sweep, console), width=min(console.width, WIDTH))
    for trial in sweep.trials:
        if trial.error:
            say(f"trial {trial.number} failed: {trial.error}")
    best = ", ".join(f"{name} {text_of(value)}" for name, value in sweep.best.settings.items())
    say(f"chosen: trial {sweep.best.number} ({best})", "bold")
    say(f"test accuracy of its student: {_with_interval(sweep.test)}, n = {sweep.test.n:,}")
    if soup := sweep.soup:
        numbers = f"trial{'s' * (len(soup.trials) > 1)} {', '.join(map(str, soup.trials))}"
        say(f"soup of {numbers}: validation accuracy {_with_interval(soup.validation)}")
        say(f"test accuracy of the soup: {_with_interval(soup.test)}", "bold")
        say(f"soup minus chosen trial: {soup.verdict}")
    if sweep.share is not None:
        say(
            f"work: {sweep.images:,} images processed; the same trials one by one, without sharing: {sweep.alone:,} "
            f"({sweep.share:.0%} of them)"
        )
    for page in (f"{folder}/sweep.html", f"{sweep.run}/report.html"):
        console.print(Text(encodable(page, console)), soft_wrap=True)
    console.print(Text(encodable(f"TensorBoard: tensorboard --logdir {folder}", console)), soft_wrap=True)


def _table(sweep: Sweep, console: Console) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    names = list(sweep.best.settings)
    table.add_column("trial", justify="right", no_wrap=True)
    for name in names:
        head = encodable(name, console).replace(".", ".\n")
        width = max(len(encodable(text_of(trial.settings[name]), console)) for trial in sweep.trials)
        # Numbers are not folded, however many columns there are; long words are.
        table.add_column(head, justify="right", overflow="fold", min_width=min(width, 10))
    table.add_column("validation", justify="right", no_wrap=True)
    table.add_column("95% interval", justify="right", no_wrap=True)
    table.add_column("images", justify="right", no_wrap=True)
    table.add_column("reused", justify="right", no_wrap=True)
    for trial in sweep.trials:
        accuracy, interval = "-", trial.state
        if trial.accuracy is not None and trial.low is not None and trial.high is not None:
            accuracy = percent(trial.accuracy) + (f" ({trial.state})" if trial.state != "finished" else "")
            interval = percent_range(trial.low, trial.high)
        settings = [Text(encodable(text_of(trial.settings[name]), console)) for name in names]
        reused = f"{len(trial.reused)} of {len(trial.reused) + len(trial.built)}"
        table.add_row(str(trial.number), *settings, accuracy, interval, f"{trial.images:,}", reused)
    return table


def _with_interval(row: Metric) -> str:
    low, high = interval(row)
    return f"{percent(row.value)} (95% interval {percent(low)} to {percent(high)})"
