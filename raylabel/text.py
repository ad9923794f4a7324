"""Text on one line that is safe to print, and how numbers are written."""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from rich.console import Console


def percent(value: float) -> str:
    """0.5 is 50.0%."""
    return f"{percentage(value)}%"


def percentage(value: float) -> str:
    """0.5 is 50.0, where a column or a word beside it says that it is in percent."""
    return f"{100 * value:.1f}"


def percent_range(low: float, high: float) -> str:
    """The ends of an interval of fractions: 48.0 to 52.0."""
    return f"{percentage(low)} to {percentage(high)}"


def points(value: float) -> str:
    """A difference of two fractions in percentage points, with its sign: 0.05 is +5.0."""
    return f"{100 * value:+.1f}"


def three_digits(value: float) -> str:
    """At least three digits, and all digits before the point: 0.123, 12.3, 12,345."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def compact(value: float) -> str:
    """Three digits and a unit: 1500 is 1.5k, and two billion are 2B."""
    for unit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"


def size(value: float) -> str:
    """A number of bytes: 1500 are 1.5 kB."""
    units = iter(["B", "kB", "MB", "GB", "TB", "PB"])
    unit = next(units)
    while value >= 999.5 and unit != "PB":
        value, unit = value / 1000, next(units)
    return f"{value:.3g} {unit}"


def text_of(value: Any) -> str:
    """The value of a field."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first names in quotes, and how many more there are: 'cat', 'dog' and 3 more."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(f"'{name}'" for name in names[:most]) + more


def one_line(error: BaseException) -> str:
    """The text of an error on one line; the name of its class if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def encodable(text: str, console: Console) -> str:
    """Printable text that the console's encoding has: a class name must not end a run whose results are ready."""
    return printable(text).encode(console.encoding, "replace").decode(console.encoding)


def duration(seconds: float) -> str:
    """3661 seconds are 1 h 01 min, and 61 are 1 min 01 s."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minute:02} min"
    return f"{minute} min {second:02} s" if minute else f"{second} s"


BIDI_CONTROLS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def printable(text: str) -> str:
    """The text on one line, without what could control a terminal or reorder a page: control characters, bidirectional
    overrides and lone surrogates. Letters of every script stay."""
    kept = []
    for char in text:
        category = unicodedata.category(char)
        if char in "\t\n\r" or category in ("Zl", "Zp"):
            kept.append(" ")
        elif category not in ("Cc", "Cs") and unicodedata.bidirectional(char) not in BIDI_CONTROLS:
            kept.append(char)
    return "".join(kept)


def slug(name: str) -> str:
    """The name as it can be used in the name of a folder: at most 64 ASCII letters, digits, - and _.

    If that changes the name, 8 hex digits of its hash follow, so that two names are two folders.
    """
    kept = re.sub("[^A-Za-z0-9_-]+", "-", name)[:64]
    return kept if kept == name else f"{kept}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
