"""CSV files with a header (RFC 4180), read incrementally: a list may be larger than memory.

Other programs separate the fields with semicolons (a spreadsheet where the comma is the decimal sign) or TABs, or put
blanks around them. The header decides.
"""

import csv
import io
import itertools
from collections.abc import Iterator
from typing import Any

from raylabel.corpus.config import open_text
from raylabel.errors import InputError


def csv_rows(uri: str, wanted: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of the header, then of each row below it. Blank lines are skipped; the header of an empty
    file has no fields. `wanted` is the name of a column: fields are separated by commas unless the header has this
    column only with semicolons or TABs.

    InputError naming the line if it is not valid CSV or its number of fields is not that of the header.
    """
    with open_text(uri, newline="") as text:  # csv handles line ends itself: a quoted field may contain them
        table, spaced = _read(text, wanted)
        try:
            header = next(table, [])
            yield table.line_num, _strip(header) if spaced else header
            for row in filter(None, table):
                if len(row) != len(header):
                    where = f"line {table.line_num} of '{uri}'"
                    what = f"{where} has {len(row)} fields and the header has {len(header)}"
                    raise InputError(f"{what}: give each row as many fields as the header")
                yield table.line_num, _strip(row) if spaced else row
        except csv.Error as error:
            where = f"line {table.line_num} of '{uri}'"
            raise InputError(f"{where} is not valid CSV: {error}; quote fields as in RFC 4180") from error


def csv_header(uri: str, wanted: str) -> list[str]:
    """The header, as for `csv_rows`."""
    return next(csv_rows(uri, wanted))[1]


def _read(text: io.TextIOWrapper, wanted: str) -> tuple[Any, bool]:
    """(a csv.reader of the text, whether there are blanks around its fields), as the first line says."""
    first = text.readline()
    delimiter, spaced = ",", False
    for candidate in (",", ";", "\t"):
        try:
            header = next(csv.reader([first], delimiter=candidate, skipinitialspace=True, strict=True), [])
        except csv.Error:  # quotes that fit another delimiter, or a field with line ends
            continue
        if wanted.strip(" ") in _strip(header):
            with_blanks = next(csv.reader([first], delimiter=candidate))
            delimiter, spaced = candidate, with_blanks != _strip(with_blanks)
            break
    lines = itertools.chain([first], text)
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=spaced, strict=True), spaced


def _strip(fields: list[str]) -> list[str]:
    return [field.strip(" ") for field in fields]


def csv_columns(uri: str, columns: tuple[str, ...], optional: str | None = None) -> Iterator[tuple[int, list[str]]]:
    """(line number, values of these columns) of each row. The optional column is the last value, empty if the file does
    not have it. InputError as for `csv_rows`, or if one of `columns` is missing."""
    rows = csv_rows(uri, columns[0])
    _, header = next(rows)
    if missing := [name for name in columns if name not in header]:
        raise InputError(f"'{uri}' has no column '{missing[0]}': its header is {', '.join(header)}; add the column")
    wanted = [header.index(name) for name in columns]
    last = header.index(optional) if optional in header else None
    for line, row in rows:
        more = [] if optional is None else ["" if last is None else row[last]]
        yield line, [row[at] for at in wanted] + more
