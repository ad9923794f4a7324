"""CSV files with a header (RFC 4180), read incrementally: a list may be larger than memory."""

import csv
from collections.abc import Iterator

from raylabel.corpus.config import open_text
from raylabel.errors import InputError


def csv_rows(uri: str) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of the header, which has none in an empty file, and of each row below it; a blank line is none.

    InputError naming the line if it is no CSV, or a row has not as many fields as the header.
    """
    with open_text(uri, newline="") as text:  # csv reads line ends by itself: a quoted field may hold them
        table = csv.reader(text, strict=True)
        try:
            header = next(table, [])
            yield table.line_num, header
            for row in filter(None, table):
                if len(row) != len(header):
                    place = f"line {table.line_num} of '{uri}'"
                    raise InputError(f"{place} has {len(row)} fields and the header {len(header)}: give as many")
                yield table.line_num, row
        except csv.Error as error:
            place = f"line {table.line_num} of '{uri}'"
            raise InputError(f"{place} is no CSV: {error}; quote fields as RFC 4180 says") from error


def csv_columns(uri: str, columns: tuple[str, ...], optional: str | None = None) -> Iterator[tuple[int, list[str]]]:
    """(line, these columns of it) of each row; the optional one, last, is empty where there is none. InputError as
    `csv_rows`, or if a column is missing."""
    rows = csv_rows(uri)
    _, header = next(rows)
    if missing := [name for name in columns if name not in header]:
        raise InputError(f"'{uri}' has no column '{missing[0]}': its header is {', '.join(header)}")
    wanted = [header.index(name) for name in columns]
    last = header.index(optional) if optional in header else None
    for line, row in rows:
        more = [] if optional is None else ["" if last is None else row[last]]
        yield line, [row[at] for at in wanted] + more
