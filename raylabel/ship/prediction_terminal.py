"""Prints the counts of a prediction to the terminal."""

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raylabel.corpus.passed_over import sentence
from raylabel.ship.prediction_output import REJECTED, Output, Prediction
from raylabel.text import encodable, percent

SHOWN = 10  # classes


def print_prediction(found: Prediction, output: Output, console: Console | None = None) -> None:
    """Prints how many samples were predicted, the most frequent classes, and where the files are."""
    console = console or Console()

    def say(text: str) -> None:
        console.print(Text(encodable(text, console)), soft_wrap=True)

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("class", overflow="fold")
    for name in ("samples", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    counts = np.array(found.per_class)
    order = [index for index in np.argsort(-counts, kind="stable").tolist() if counts[index]]
    for index in order[:SHOWN]:
        label = Text(encodable(found.classes[index], console))
        table.add_row(label, f"{counts[index]:,}", percent(found.per_class[index] / found.predicted))
    console.print(table)
    if rest := order[SHOWN:]:
        say(f"{len(rest):,} more classes: {int(counts[rest].sum()):,} samples")
    say(f"samples: {found.samples:,} in = {found.predicted:,} predicted + {found.rejected:,} rejected")
    if found.reasons:
        say("rejected: " + ", ".join(f"{reason} {count:,}" for reason, count in found.reasons.items()))
    if found.passed_over:
        say(sentence(found.passed_over))
    say(output.uri)
    if found.rejected:
        say(f"{output.folder}/{output.name(REJECTED) if output.whole else REJECTED}")
    say(f"{output.folder}/{output.summary}")
