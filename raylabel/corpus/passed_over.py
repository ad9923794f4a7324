"""Files that indexing found and that are not samples: their number by extension, with examples."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from raylabel.text import printable

EXAMPLES = 3  # per extension
KINDS = 100  # extensions that are counted one by one, at most; the others together
LONGEST = 12  # characters of an extension: what follows the last dot of a long name is not one
SHOWN = 200  # characters of an example
HIDDEN, NONE, OTHER, SPECIAL = "hidden", "no extension", "other", "no regular file"


@dataclass
class Kind:
    """Files with one extension."""

    extension: str
    """In lower case, with its dot; or what the files are instead: hidden (the name starts with a dot), no extension, no
    regular file (in a tar), other."""
    count: int
    examples: list[str]
    """Up to three of their paths, in the order in which they were found."""


class PassedOver:
    """Counts files by extension. The memory and the size do not depend on the number of files."""

    def __init__(self, kinds: Iterable[dict[str, Any]] = ()) -> None:
        """`kinds`: what `table` returned."""
        self._kinds: dict[str, Kind] = {}
        self.merge(kinds)

    @property
    def count(self) -> int:
        return sum(kind.count for kind in self._kinds.values())

    def add(self, path: str, extension: str = "") -> None:
        """Counts the file. `extension`: as in Kind, if it is not that of the path."""
        self._add(extension or extension_of(path), 1, [path])

    def merge(self, kinds: Iterable[dict[str, Any]]) -> None:
        """Adds what another one counted, as its `table` returned it."""
        for kind in kinds:
            self._add(**kind)

    def table(self) -> list[dict[str, Any]]:
        """The fields of Kind as plain JSON, most frequent first."""
        return [asdict(kind) for kind in sorted(self._kinds.values(), key=lambda k: (-k.count, k.extension))]

    def _add(self, extension: str, count: int, examples: list[str]) -> None:
        if extension not in self._kinds and len(self._kinds) >= KINDS:
            extension = OTHER
        kind = self._kinds.setdefault(extension, Kind(extension, 0, []))
        kind.count += count
        # Names of files may have anything in them, also what UTF-8 cannot encode.
        kind.examples += [printable(path)[:SHOWN] for path in examples[: EXAMPLES - len(kind.examples)]]


def extension_of(path: str) -> str:
    """The extension as it is counted."""
    name = path.rpartition("/")[2]
    stem, _, extension = name.rpartition(".")
    if not stem or not extension:
        return NONE
    extension = printable(extension).lower()
    return f".{extension}" if extension and len(extension) <= LONGEST else OTHER


def sentence(kinds: list[dict[str, Any]]) -> str:
    """A table in one sentence: 12 files are not samples: 9 .heic (a/1.heic), 3 hidden (a/._1.jpg)."""
    count = sum(kind["count"] for kind in kinds)
    some = [f"{kind['count']:,} {kind['extension']} ({', '.join(kind['examples'][:1])})" for kind in kinds[:5]]
    more = f" and {len(kinds) - 5:,} more kinds" if len(kinds) > 5 else ""
    return f"{count:,} {'file is not a sample' if count == 1 else 'files are not samples'}: {', '.join(some)}{more}"
