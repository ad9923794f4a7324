"""Prints the results of a run to the terminal."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raylabel.evaluate.results import CLIP_TOP1, TOP1, TOP5, Metric
from raylabel.report.control import ControlUsed
from raylabel.report.summary import MODELS, Summary, interval, verdict
from raylabel.store.names import PAGE, SUMMARY
from raylabel.text import encodable, percent, percent_range, text_of

WIDTH = 100
"""Columns of the terminal that tables use at most."""


def print_summary(summary: Summary, folder: str, console: Console | None = None) -> None:
    """Prints the results of a run. `folder` contains its report.html and summary.json. Plain text if not a terminal."""
    console = console or Console()

    def say(text: str, style: str = "") -> None:
        # Folded, not cropped: a number that is cut off is wrong.
        console.print(Text(encodable(text, console), style=style), width=min(console.width, WIDTH))

    say(f"run {summary.run}", "bold")
    console.print(_accuracy_table(summary, console), width=min(console.width, WIDTH))
    if summary.others:
        console.print(_metrics_table(summary, console), width=min(console.width, WIDTH))
    low, high = interval(summary.gain)
    style = "bold green" if low > 0 else "bold red" if high < 0 else "bold"
    say(f"gain over control: {verdict(summary.gain)}", style)
    say(f"control: {summary.control.description}")
    if summary.control.trials:
        console.print(_controls_table(summary.control, console), width=min(console.width, WIDTH))
    for head in filter(None, (summary.head, summary.zero_shot)):
        say(f"head of the teacher: {head.sentence}")
    for each in summary.validated:
        say(f"validated: {each.sentence(summary.inputs)}")
    counts = summary.counts
    say(
        f"samples: {counts.samples:,} in = {counts.scored:,} scored + {counts.rejected:,} rejected + "
        f"{counts.duplicates:,} duplicates"
        + ("" if counts.near_duplicates is None else f" + {counts.near_duplicates:,} near-duplicates")
    )
    if counts.labeled_rejected:
        say(f"labeled: {counts.labeled:,} samples trained on, {counts.labeled_rejected:,} rejected")
    if summary.rejects:
        say("rejected: " + ", ".join(f"{r.reason} {r.count:,}" for r in summary.rejects))
    if summary.passed_over:
        some = (f"{p.count:,} {p.extension} of {p.corpus} ({p.examples[0]})" for p in summary.passed_over[:5])
        more = f" and {len(summary.passed_over) - 5:,} more" if len(summary.passed_over) > 5 else ""
        say(f"passed over (not samples): {', '.join(some)}{more}")
    picks = summary.picks
    more = f"; {picks.policy}" if picks.policy else ""
    say(f"picks: {picks.total:,} of {picks.samples:,} samples (K {picks.k:,}, P {picks.p}, by {picks.rank}{more})")
    if picks.per_class:
        fewest, most = (summary.classes[picks.per_class.index(x)] for x in (picks.min, picks.max))
        median = f"{picks.median:,.1f}".removesuffix(".0")
        say(f"picks per class: min {picks.min:,} ({fewest}), median {median}, max {picks.max:,} ({most})")
    if summary.precision is not None:
        say(f"picks with the true label: {percent(summary.precision.value)} of {summary.precision.n:,}")
    if summary.audit:
        say(f"audit: {summary.audit.sentence}")
    if summary.leaks and summary.leaks.sentence:
        say(f"leaks: {summary.leaks.sentence}", "bold red" if summary.leaks.test else "")
    for text in summary.warnings:
        say(f"warning: {text}", "bold red")
    console.print(_stage_table(summary, console), width=min(console.width, WIDTH))
    say(f"hardware: {summary.hardware}")
    for name in (PAGE, SUMMARY):  # one line each, however long, so that the path can be copied
        console.print(Text(encodable(f"{folder.rstrip('/')}/{name}", console)), soft_wrap=True)


def _accuracy_table(summary: Summary, console: Console) -> Table:
    rows = {model: {m: summary.metrics[i] for m, i in at.items()} for model, at in summary.accuracies.items()}
    with_top5 = any(TOP5 in found for found in rows.values())
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", overflow="fold")
    for name in ["top-1", "95% interval"] + ["top-5", "95% interval"] * with_top5 + ["n"]:
        table.add_column(name, justify="right", no_wrap=True)
    for model, found in rows.items():
        cells = _percent(found[TOP1])
        if with_top5:
            cells += _percent(found.get(TOP5))
        table.add_row(Text(encodable(MODELS.get(model, model), console)), *cells, f"{found[TOP1].n:,}")
        if clips := found.get(CLIP_TOP1):  # in its own row: 80 columns have no room for two more
            table.add_row("  per clip", *_percent(clips), *["", ""] * with_top5, f"{clips.n:,}")
    return table


def _controls_table(control: ControlUsed, console: Console) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("control", overflow="fold")
    for name in ("validation", "95% interval", "images"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in control.trials:
        cells = ["diverged", "-"]
        if one.value is not None and one.low is not None and one.high is not None:
            cells = [percent(one.value), percent_range(one.low, one.high)]
        table.add_row(Text(encodable(one.named, console)), *cells, f"{one.images:,}")
    return table


def _metrics_table(summary: Summary, console: Console) -> Table:
    """The metrics of `summary.others`, in any unit."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("metric", "model", "dataset", "split"):
        table.add_column(name, overflow="fold")
    for name in ("value", "95% interval", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in (summary.metrics[i] for i in summary.others):
        words = (row.metric, MODELS.get(row.model, row.model), row.dataset, row.split)
        ends = "-" if row.low is None or row.high is None else f"{text_of(row.low)} to {text_of(row.high)}"
        table.add_row(*(Text(encodable(word, console)) for word in words), text_of(row.value), ends, f"{row.n:,}")
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


def _percent(row: Metric | None) -> list[str]:
    if row is None:
        return ["-", "-"]
    ends = "-" if row.low is None or row.high is None else percent_range(row.low, row.high)
    return [percent(row.value), ends]
