"""Text of a document in Markdown in which names come from data, so that they are shown and not interpreted."""

import json
import re
from collections.abc import Sequence
from typing import Any

from raylabel.text import printable


def code(text: str) -> str:
    """The text on one line as a code span, in which Markdown and HTML have no meaning."""
    text = printable(text)
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    # Blanks at both ends are not shown. Without them a backtick at an end would belong to the delimiter.
    padded = f" {text} " if text.strip() and (set(text[0] + text[-1]) & {"`", " "}) else text
    return f"{ticks}{padded}{ticks}" if text.strip() else "(empty)"


def codes(names: Sequence[str], most: int = 20) -> str:
    """The first names as code spans, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(code, names[:most])) + more


def yaml_value(value: Any) -> str:
    """A value as JSON, which is YAML too: nothing in a name ends it."""
    if isinstance(value, str):
        value = printable(value)
    return json.dumps(value, ensure_ascii=False)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of our own words and numbers; no cell may contain a name from data."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
