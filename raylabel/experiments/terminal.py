"""Prints the results of an experiment to the terminal."""

import textwrap

from rich import box
from rich.console import Console
from rich.table import Table as Printed
from rich.text import Text

from raylabel.experiments.comparison import Comparison, Table, Value
from raylabel.experiments.forms import BARE, FORMS
from raylabel.report.terminal import WIDTH
from raylabel.store.names import PAGE, SUMMARY
from raylabel.text import encodable

TITLE = 8
"""Columns of the terminal that the title of a column may take, if its numbers take fewer."""
STYLES = {"agrees": "green", "disagrees": "red"}


def print_comparison(comparison: Comparison, folder: str, console: Console | None = None) -> None:
    """Prints the tables and findings. `folder` contains its report.html. Plain text if not a terminal."""
    console = console or Console()

    def say(text: str, style: str = "") -> None:
        # Folded, not cropped: a number that is cut off is wrong.
        console.print(Text(encodable(text, console), style=style), width=min(console.width, WIDTH))

    say(f"{comparison.experiment} {comparison.name}: {comparison.headline}", "bold")
    say(comparison.detail)
    for table in comparison.tables:
        say("")
        say(table.title, "bold")
        console.print(_printed(table, console), width=min(console.width, WIDTH))
    for found in comparison.findings:
        say(f"{found.claim}: {found.verdict}", STYLES.get(found.verdict, ""))
        say(f"  source: {found.source}")
        say(f"  here: {found.here}")
    for text in comparison.warnings:
        say(f"warning: {text}", "bold red")
    for name in (PAGE, SUMMARY):
        console.print(Text(encodable(f"{folder.rstrip('/')}/{name}", console)), soft_wrap=True)


def _printed(table: Table, console: Console) -> Printed:
    rows = [
        [_cell(column.form, cell) for column, cell in zip(table.columns, row.cells, strict=True)] for row in table.rows
    ]
    printed = Printed(box=box.SIMPLE_HEAD, pad_edge=False)
    printed.add_column("", overflow="fold")
    for number, column in enumerate(table.columns):
        # Titles are folded, and numbers are not.
        widest = max((len(line) for cells in rows for line in cells[number].splitlines()), default=0)
        title = "\n".join(textwrap.wrap(column.title, max(widest, TITLE)))
        printed.add_column(title, justify="right", no_wrap=True)
    for row, cells in zip(table.rows, rows, strict=True):
        printed.add_row(Text(encodable(row.name, console)), *cells)
    return printed


def _cell(form: str, cell: Value | None) -> str:
    if cell is None:
        return "-"
    if cell.low is None or cell.high is None:
        return FORMS[form](cell.value)
    return f"{FORMS[form](cell.value)}\n{BARE[form](cell.low)} to {BARE[form](cell.high)}"
