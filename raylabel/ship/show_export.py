"""Prints what was exported: the files of a network, and how each format differs from it; or what of the picks."""

from rich.console import Console
from rich.text import Text

from raylabel.ship.export import Exported
from raylabel.ship.hand_over import HandedOver
from raylabel.ship.shipped import Shipped
from raylabel.text import encodable, size


def print_export(shipped: Shipped, exported: Exported, console: Console | None = None) -> None:
    """One line per file and per format."""
    console = console or Console()

    def say(text: str) -> None:  # one line each, however long, so that a path can be copied
        console.print(Text(encodable(text, console)), soft_wrap=True)

    parity = exported.parity
    width = max(len(file.name) for file in exported.files)
    for file in exported.files:
        say(f"{file.name:{width}}  {size(file.bytes):>8}")
    say(
        f"largest difference of a logit from {shipped.network.uri}, in fp32 on {parity.samples} samples of the test "
        f"set (largest logit {parity.largest:.3g}):"
    )
    for name, value in parity.differences.items():
        say(f"{name:{width}}  {value:8.2g}")
    say(f"exported to {exported.folder}")


def print_picks(found: HandedOver, console: Console | None = None) -> None:
    """What was exported, and where it is."""
    console = console or Console()
    lost = f", {found.rejected:,} samples left out because they cannot be decoded" if found.rejected else ""
    files = f"{found.files:,} file{'' if found.files == 1 else 's'}, {size(found.bytes)}"
    for text in (f"{found.exported:,} picks of {found.picks}{lost}: {files}", found.folder):
        console.print(Text(encodable(text, console)), soft_wrap=True)
