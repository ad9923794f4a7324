"""CSV files with a header (RFC 4180), read incrementally: a list may be larger than memory."""

import csv
from collections.abc import Iterator

from raylabel.corpus.config import open_text
from raylabel.errors import InputError


def csv_rows(uri: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of the header, then of each row below it. Blank lines are skipped; the header of an empty
    file has no fields.

    InputError naming the line if it is not valid CSV or its number of fields is not that of the header.
    """
    with open_text(uri, newline="") as text:  # csv handles line ends itself: a quoted field may contain them
        table = csv.reader(text, strict=True)
        try:
            header = next(table, [])
            yield table.line_num, header
            for row in filter(None, table):
                if len(row) != len(header):
                    where = f"line {table.line_num} of '{uri}'"
                    what = f"{where} has {len(row)} fields and the header has {len(header)}"
                    raise InputError(f"{what}: give each row as many fields as the header")
                yield table.line_num, row
        except csv.Error as error:
            where = f"line {table.line_num} of '{uri}'"
            raise InputError(f"{where} is not valid CSV: {error}; quote fields as in RFC 4180") from error


def csv_columns(uri: str, columns: tuple[str, ...], optional: str | None = None) -> Iterator[tuple[int, list[str]]]:
    """(line number, values of these columns) of each row. The optional column is the last value, empty if the file does
    not have it. InputError as for `csv_rows`, or if one of `columns` is missing."""
    rows = csv_rows(uri)
    _, header = next(rows)
    if missing := [name for name in columns if name not in header]:
        raise InputError(f"'{uri}' has no column '{missing[0]}': its header is {', '.join(header)}; add the column")
    wanted = [header.index(name) for name in columns]
    last = header.index(optional) if optional in header else None
    for line, row in rows:
        more = [] if optional is None else ["" if last is None else row[last]]
        yield line, [row[at] for at in wanted] + more
