"""The plan of a run: its numbers, and the table that shows them."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raylabel.report.terminal import WIDTH
from raylabel.text import compact, duration, encodable, size, three_digits


@dataclass(frozen=True, kw_only=True)
class Work:
    """The remaining work of a stage; all zero if it is done."""

    stage: str
    images: int
    """Images to process. Of videos: videos, and clips in training. Of select: rows of scores."""
    seconds: float
    bytes_read: int
    """From the corpus and from artifacts; temporary files of a stage are not counted."""
    bytes_written: int
    memory: int | None = None
    """Peak memory of the largest actor or training worker, bytes, with libraries; None for stages of short tasks."""
    device_memory: int | None = None
    """Peak GPU memory of the largest actor or training worker, bytes; None without a GPU."""

    @property
    def images_per_second(self) -> float | None:
        """Start-up included; None if there is nothing to do."""
        return self.images / self.seconds if self.images and self.seconds else None


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How many classes will have K picks."""

    value: int
    low: int
    """With `high`, a 95% interval, which comes from the random choice of the samples that the pilot labels."""
    high: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The predicted cost and picks of a run."""

    recipe: str
    hardware: str
    device: str
    """What device-hours count: 'GPU', or 'CPU' (a core) if the cluster has no GPU."""
    devices: int
    kind: str
    """What the samples are: 'image' or 'video'."""
    samples: int
    """Samples of the corpus, N."""
    classes: int
    k: int
    p: int
    reach: Reach | None
    """None if the teacher is still to be trained: then it cannot be estimated yet."""
    picks: int
    """Expected number of picks; without a teacher, the maximum."""
    sampled: int
    """Samples of the corpus that the pilot labeled."""
    pilot_seconds: float
    stages: tuple[Work, ...]

    @property
    def seconds(self) -> float:
        return sum(work.seconds for work in self.stages)

    def device_hours(self, seconds: float) -> float:
        """Device-hours of all devices of the cluster, used or not, since all of them are paid for."""
        return seconds / 3600 * self.devices

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; the totals are under 'total'."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "stages"}
        found["reach"] = dataclasses.asdict(self.reach) if self.reach else None
        found["stages"] = [self._numbers(work) for work in self.stages]
        read, written = (sum(getattr(work, name) for work in self.stages) for name in ("bytes_read", "bytes_written"))
        total = {"seconds": self.seconds, "hours": self.seconds / 3600, "device_hours": self.device_hours(self.seconds)}
        return {**found, "total": {**total, "bytes_read": read, "bytes_written": written}}

    def _numbers(self, work: Work) -> dict[str, Any]:
        times = {"hours": work.seconds / 3600, "device_hours": self.device_hours(work.seconds)}
        return {**dataclasses.asdict(work), "images_per_second": work.images_per_second, **times}


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """Prints the plan; plain text if the console is not a terminal."""
    console = console or Console()
    width = min(console.width, WIDTH)

    def say(text: str, style: str = "") -> None:
        console.print(Text(encodable(text, console), style=style), width=width)

    hours = three_digits(plan.device_hours(plan.seconds))
    say(f"plan of {plan.recipe}: {duration(plan.seconds)}, {hours} {plan.device}-hours", "bold")
    console.print(_table(plan), width=width)
    if plan.reach is None:
        say(f"picks: at most {plan.picks:,}; how many classes reach K {plan.k:,} is known once the teacher is trained")
    else:
        reach = plan.reach
        between = f" (95% interval {reach.low:,} to {reach.high:,})" if reach.low < reach.high else ""
        say(f"classes that reach K {plan.k:,} with P {plan.p}: {reach.value:,} of {plan.classes:,}{between}")
        say(f"picks: about {plan.picks:,} of {plan.samples:,} samples")
    if on_device := [f"{w.stage} {size(w.device_memory)}" for w in plan.stages if w.device_memory]:
        say("GPU memory per actor: " + ", ".join(on_device))
    say(f"pilot: {plan.sampled:,} samples labeled, {duration(plan.pilot_seconds)} in all, start-up included")
    say(f"hardware: {plan.hardware}")


def _table(plan: Plan) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("stage", overflow="fold")
    counted = "images" if plan.kind == "image" else "samples"
    for name in (counted, f"{counted}/s", "time", f"{plan.device}-h", "read", "written", "RAM"):
        table.add_column(name, justify="right", no_wrap=True)
    for work in plan.stages:
        if not work.seconds:
            table.add_row(work.stage, "done")
            continue
        rate, memory = work.images_per_second, work.memory
        table.add_row(
            work.stage,
            f"{work.images:,}" if work.images < 10_000_000 else compact(work.images),
            "-" if rate is None else three_digits(rate),
            duration(work.seconds),
            three_digits(plan.device_hours(work.seconds)),
            size(work.bytes_read),
            size(work.bytes_written),
            "-" if memory is None else size(memory),
        )
    total = plan.to_dict()["total"]
    cells = ["", "", duration(plan.seconds), three_digits(total["device_hours"])]
    table.add_section()
    table.add_row("total", *cells, size(total["bytes_read"]), size(total["bytes_written"]), style="bold")
    return table
