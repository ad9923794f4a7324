"""The plan of a run: its numbers, and the table that shows them."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raylabel.plan.traffic import Traffic
from raylabel.report.terminal import WIDTH
from raylabel.text import compact, duration, encodable, size, three_digits

# Dollars of S3 Standard for a GET or HEAD request, and for a PUT, POST or LIST request.
READ, WRITE = 0.0004 / 1000, 0.005 / 1000


def price_of_requests(traffic: Traffic) -> float:
    """Dollars."""
    return traffic.reads * READ + traffic.writes * WRITE


@dataclass(frozen=True, kw_only=True)
class Work:
    """The remaining work of a stage; all zero if it is done."""

    stage: str
    images: int
    """Images to process. Of videos: videos, and clips in training. Of select: rows of scores."""
    seconds: float
    traffic: Traffic
    """Requests and bytes, as an object store would count them."""
    memory: int | None = None
    """Peak memory of the largest actor or training worker, bytes, with libraries; None for stages of short tasks."""
    device_memory: int | None = None
    """Peak GPU memory of the largest actor or training worker, bytes; None without a GPU."""

    @classmethod
    def nothing(cls, stage: str) -> Self:
        """Of a stage that is done, or whose cost is not known yet."""
        return cls(stage=stage, images=0, seconds=0.0, traffic=Traffic())

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
    remote: bool
    """Whether the root or a corpus is in an object store, so that requests are charged for."""
    device_hour_price: float | None
    """Dollars for an hour of a device with its share of the machine; None if it is not known."""
    stages: tuple[Work, ...]

    @property
    def seconds(self) -> float:
        return sum(work.seconds for work in self.stages)

    @property
    def traffic(self) -> Traffic:
        return sum((work.traffic for work in self.stages), Traffic())

    def dollars(self, seconds: float, traffic: Traffic) -> float | None:
        """Devices, and requests to an object store; None if the price of a device is not known."""
        if self.device_hour_price is None:
            return None
        return self.device_hours(seconds) * self.device_hour_price + price_of_requests(traffic) * self.remote

    def device_hours(self, seconds: float) -> float:
        """Device-hours of all devices of the cluster, used or not, since all of them are paid for."""
        return seconds / 3600 * self.devices

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; the totals are under 'total'."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        found["reach"] = dataclasses.asdict(self.reach) if self.reach else None
        found["stages"] = [self._numbers(work) for work in self.stages]
        return {**found, "total": {"seconds": self.seconds, **self._costs(self.seconds, self.traffic)}}

    def _numbers(self, work: Work) -> dict[str, Any]:
        plain = {f.name: getattr(work, f.name) for f in dataclasses.fields(work) if f.name != "traffic"}
        costs = self._costs(work.seconds, work.traffic)
        return {**plain, "images_per_second": work.images_per_second, **costs}

    def _costs(self, seconds: float, traffic: Traffic) -> dict[str, Any]:
        times = {"hours": seconds / 3600, "device_hours": self.device_hours(seconds)}
        return {**times, **dataclasses.asdict(traffic), "dollars": self.dollars(seconds, traffic)}


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
    if plan.remote:
        total = plan.traffic
        cost = dollars(price_of_requests(total))
        say(f"requests to the object store: {count(total.reads)} reads, {count(total.writes)} writes: {cost}")
    if (whole := plan.dollars(plan.seconds, plan.traffic)) is not None:
        price = dollars(plan.device_hour_price or 0)
        say(f"price: {dollars(whole)} at {price} per {plan.device}-hour, without the storage of the results")
    for what, field in (("memory", "memory"), ("GPU memory", "device_memory")):
        if most := [f"{work.stage} {size(value)}" for work in plan.stages if (value := getattr(work, field))]:
            say(f"{what} per process: {', '.join(most)}")
    say(f"pilot: {plan.sampled:,} samples labeled, {duration(plan.pilot_seconds)} in all, start-up included")
    say(f"hardware: {plan.hardware}")


def _table(plan: Plan) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("stage", overflow="fold")
    counted = "images" if plan.kind == "image" else "samples"
    requests = ("requests",) if plan.remote else ()
    for name in (counted, f"{counted}/s", "time", f"{plan.device}-h", *requests, "read", "written"):
        table.add_column(name, justify="right", no_wrap=True)

    def storage(traffic: Traffic) -> list[str]:
        asked = [count(traffic.reads + traffic.writes)] if plan.remote else []
        return [*asked, size(traffic.bytes_read), size(traffic.bytes_written)]

    for work in plan.stages:
        if not work.seconds and not work.traffic.reads:
            table.add_row(work.stage, "done")
            continue
        rate = work.images_per_second
        table.add_row(
            work.stage,
            count(work.images) if work.images else "-",
            "-" if rate is None else three_digits(rate),
            duration(work.seconds) if work.seconds else "-",
            three_digits(plan.device_hours(work.seconds)) if work.seconds else "-",
            *storage(work.traffic),
        )
    cells = ["", "", duration(plan.seconds), three_digits(plan.device_hours(plan.seconds))]
    table.add_section()
    table.add_row("total", *cells, *storage(plan.traffic), style="bold")
    return table


def count(number: float) -> str:
    return f"{number:,.0f}" if number < 1_000_000 else compact(int(number))


def dollars(amount: float) -> str:
    return f"${amount:,.2f}" if amount >= 0.01 else "less than $0.01"
