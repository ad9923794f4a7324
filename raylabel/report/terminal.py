"""What a run says in the terminal: one live line per stage, and the table of results when it is done."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raylabel.report.summary import Summary
from raylabel.text import encodable

WIDTH = 100
"""Columns of the widest table."""


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
