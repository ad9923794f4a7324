"""Prints the counts of a deduplication to the terminal."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raylabel.ship.deduplication import Deduplication
from raylabel.ship.output import Output
from raylabel.ship.terminal import print_files
from raylabel.text import encodable


def print_deduplication(found: Deduplication, output: Output[Deduplication], console: Console | None = None) -> None:
    """Prints how many samples are copies, by set and kind, and where the files are."""
    console = console or Console()

    def say(text: str) -> None:
        console.print(Text(encodable(text, console)), soft_wrap=True)

    if found.counts:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("set", overflow="fold")
        table.add_column("kind", no_wrap=True)
        table.add_column("samples", justify="right", no_wrap=True)
        for one in found.counts:
            name = Text(encodable(one["set"] or "within the corpus", console))
            table.add_row(name, one["kind"], f"{one['samples']:,}")
        console.print(table)
    if found.groups:
        say(f"{found.groups:,} samples have copies in the corpus; the largest group has {found.largest:,} samples")
    say(f"samples: {found.samples:,} in = {found.kept:,} kept + {found.copies:,} copies + {found.rejected:,} rejected")
    for name, count in found.unread.items():
        if count:
            say(f"{name}: {count:,} samples could not be read, and were not compared")
    print_files(found, output, console)
