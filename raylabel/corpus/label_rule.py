"""The one rule for labels, the same in every form of a corpus: which text is a label, and which is an error.

Labels are text without white space at its ends, in Unicode's NFC (macOS stores names of files in NFD). An empty text is
no label. Numbers are integers without a sign. Nothing is guessed: a text that may mean something else is an error.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence, Set
from typing import Any

from raylabel.errors import InputError
from raylabel.text import listed

_SIGNED = re.compile(r"[+\-−]\d+")
# As programs write them; `nan` is a missing value. Not 12e4, which may be a name.
_FLOAT = re.compile(r"[+\-−]?(?:(?:\d+\.\d*|\.\d+)(?:e[+-]?\d+)?|\d+e[+-]\d+|nan)", re.IGNORECASE)
_DIGITS = 4000  # Python converts no longer text to an integer
BETWEEN, UNSURE = "|", "?"
"""In a label of several classes (labels/several.py): between them; before one that is neither present nor absent."""
EXPECTED = "names, or integers of 0 or more"


def clean(text: str | None) -> str | None:
    """The text as a label: stripped, in NFC; None if that is empty."""
    return unicodedata.normalize("NFC", text).strip() or None if text else None


def clean_all(texts: Sequence[str | None], field: str | None, name: Callable[[int], str]) -> list[str | None]:
    """`clean` of each text, or of its JSON field. InputError as for `json_field`; `name(i)` names the sample i."""
    found: dict[str | None, str | None] = {}
    for text in dict.fromkeys(texts):
        try:
            found[text] = clean(text if field is None else json_field(text, field))
        except ValueError as error:
            raise InputError(f"no labels: the label of '{name(texts.index(text))}' {error}") from error
    return [found[text] for text in texts]


def split_member(label: str) -> tuple[str, str | None]:
    """(extension, JSON field or None) of the label in a tar, which is an extension, or `json:field`."""
    extension, _, field = label.partition(":")
    return (extension, field) if field and f".{extension.lower()}".endswith(".json") else (label, None)


def split_column(label: str, columns: Collection[str]) -> tuple[str, str | None]:
    """(column, JSON field or None) of the label in a parquet file, which is a column, or `column:field`."""
    column, _, field = label.partition(":")
    return (column, field) if field and label not in columns and column in columns else (label, None)


def is_integer(text: str) -> bool:
    """Whether a label is a number."""
    return text.isdecimal() and len(text) <= _DIGITS


def not_a_label(text: str, source: str | None) -> str | None:
    """Why a text that `clean` returned cannot be a label, then the fix; None if it can. `source` is the column of a
    parquet file or the extension in a tar that contains the text, None in other forms."""
    if _SIGNED.fullmatch(text):
        return f"a number with a sign: give {EXPECTED}"
    if _FLOAT.fullmatch(text):
        return f"a floating-point number: give {EXPECTED}"
    if text.lower() in ("true", "false"):
        return f"a boolean: give {EXPECTED}"
    value = _parsed(text) if text[0] in "{[" else None
    if value is None:
        return None
    if source is None or not isinstance(value, dict) or not value:
        return "a JSON text: give the label alone"
    fields = sorted(value, key=lambda field: field not in ("label", "class", "cls"))
    return (
        f"a JSON text with the fields {listed(fields, 10)}: name the field of the label in corpus.label, for example "
        f"'{source}:{fields[0]}'"
    )


def json_field(text: str | None, field: str) -> str | None:
    """The field of a JSON text, as text for `clean`; None if it is not there or null. `field` may name a field of an
    object in it, as in `meta.label`. ValueError if the text is not a JSON object or the field is no text or integer."""
    found = json_value(text, field)
    if found is None or isinstance(found, str):
        return found
    if isinstance(found, bool) or not isinstance(found, int):
        raise ValueError(f"{field_is(found, field)}: give {EXPECTED}")
    return str(found)


def json_value(text: str | None, field: str) -> Any:
    """The value of the field of a JSON text, None if it is not there; see `json_field`. ValueError if the text is not a
    JSON object."""
    if not text or not text.strip():
        return None
    value = _parsed(text)
    if not isinstance(value, dict):
        raise ValueError(f"is not a JSON object: give one with the field '{field}'")
    found: Any = value
    for name in field.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def field_is(found: Any, field: str) -> str:
    """What is in a field of a JSON text, for an error."""
    what = {bool: "a boolean", int: "an integer", float: "a floating-point number", list: "a list"}
    named = what.get(type(found), "an object")
    return f"has {json.dumps(found)[:80]} in the field '{field}', which is {named}"


def _parsed(text: str) -> Any:
    """The object or list that a JSON text contains; None if it contains another value or is not JSON."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, (dict, list)) else None


def same_number(texts: Iterable[str]) -> tuple[str, str] | None:
    """Two labels that are the same number, such as 7 and 007; None if there are none."""
    found: dict[int, str] = {}
    for text in filter(is_integer, texts):
        if (first := found.setdefault(int(text), text)) != text:
            return first, text
    return None


def mixed(given: Set[str], folders: Set[str]) -> tuple[str, str] | None:
    """(an integer, a name) among the labels of a set; None if it does not have both. The names of folders are names."""
    integers = sorted(filter(is_integer, given))
    names = sorted(text for text in given | folders if not is_integer(text))
    return (integers[0], names[0]) if integers and names else None


def name_warnings(names: Iterable[str]) -> tuple[str, ...]:
    """What the user should check in the names of classes: those that differ only in case."""
    same: dict[str, list[str]] = {}
    for name in names:
        same.setdefault(name.casefold(), []).append(name)
    if not (groups := [group for group in same.values() if len(group) > 1]):
        return ()
    shown = "; ".join(" and ".join(f"'{name}'" for name in group) for group in groups[:3])
    more = f" and {len(groups) - 3:,} more" if len(groups) > 3 else ""
    return (f"classes whose names differ only in case are different classes: {shown}{more}",)
