"""Prints the counts of a prediction to the terminal."""

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raylabel.ship.output import Output
from raylabel.ship.prediction import Prediction
from raylabel.ship.terminal import print_files
from raylabel.text import encodable, percent

SHOWN = 10  # classes


def print_prediction(found: Prediction, output: Output[Prediction], console: Console | None = None) -> None:
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
    print_files(found, output, console)
