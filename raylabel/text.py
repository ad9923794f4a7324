"""Text on one line that is safe to print, and how numbers are written."""

import hashlib
import re
import unicodedata
from typing import Any

from rich.console import Console


def percent(value: float) -> str:
    """A fraction as it is shown."""
    return f"{100 * value:.1f}%"


def text_of(value: Any) -> str:
    """A field's value as it is shown."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def encodable(text: str, console: Console) -> str:
    """Printable text that the stream can hold: a class name must not end a run whose results are ready."""
    return printable(text).encode(console.encoding, "replace").decode(console.encoding)


def duration(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minute:02} min"
    return f"{minute} min {second:02} s" if minute else f"{second} s"


BIDI_CONTROLS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def printable(text: str) -> str:
    """The text on one line, without what could steer a terminal or reorder a page: control characters, bidirectional
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
    """The name as a part of a folder's name: at most 64 ASCII letters, digits, - and _.

    Where that changes it, 8 hex digits of its hash follow, so that two names are two folders.
    """
    kept = re.sub("[^A-Za-z0-9_-]+", "-", name)[:64]
    return kept if kept == name else f"{kept}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
