"""Prints what a table leaves out, and where its files are."""

from typing import Any

from rich.console import Console
from rich.text import Text

from raylabel.corpus.passed_over import sentence
from raylabel.ship.output import REJECTED, Output
from raylabel.text import encodable


def print_files(found: Any, output: Output[Any], console: Console) -> None:
    """`found`: the contents of the summary."""
    lines = list[str]()
    if found.reasons:
        lines.append("rejected: " + ", ".join(f"{reason} {count:,}" for reason, count in found.reasons.items()))
    if found.passed_over:
        lines.append(sentence(found.passed_over))
    lines.append(output.uri)
    if found.rejected:
        lines.append(f"{output.folder}/{output.name(REJECTED) if output.whole else REJECTED}")
    lines.append(f"{output.folder}/{output.summary}")
    if output.contents.PAGE:
        lines.append(f"{output.folder}/{output.page}")
    for line in lines:
        console.print(Text(encodable(line, console)), soft_wrap=True)
