"""A part of SCORES or FEATURES: units whose rows are committed together."""

import collections
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raylabel.compute.watchdog import heartbeat
from raylabel.corpus import Unit, UnitRange
from raylabel.inference.reuse import Piece, Reader, Rows, read_part
from raylabel.inference.scorer import Kept
from raylabel.schema import BESIDE, REJECTS, check
from raylabel.store.artifact import write_table
from raylabel.store.parts import commit_part


@dataclass(frozen=True)
class Part:
    """Units that are committed together: some to be scored, the others reused from earlier SCORES."""

    number: int
    units: Sequence[Unit]
    pieces: Sequence[Piece] = ()
    retried: str = ""
    """Folder of SCORES whose part of this number is reused, except for its rejects, which are `units`."""

    @property
    def rows(self) -> int:
        """Rows to be scored."""
        units = self.units
        return int(units.rows.sum()) if isinstance(units, UnitRange) else sum(unit.rows for unit in units)


def write_part(
    folder: str, kept: Kept, part: Part, reader: Reader, new: Iterable[Rows], beside: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Writes SCORES or FEATURES, REJECTS and the tables `beside` them of a part, then its record, which is the commit.
    Writing them twice is harmless. `new`: the rows of its units."""
    heartbeat()
    scores, rejects, *others = ([] for _ in range(2 + len(beside)))
    for rows in new:
        for tables, table in zip((scores, rejects, *others), rows, strict=True):
            tables.append(table)
    if (found := sum(table.num_rows for table in [*scores, *rejects])) != part.rows:
        raise AssertionError(f"part {part.number} has {found} rows, expected {part.rows}")
    for piece, taken in reader.read(part.pieces):
        if (found := sum(table.num_rows for table in taken[:2])) != piece.rows:
            raise AssertionError(f"{piece} has {found} rows: delete {piece.folder} and run again")
        for tables, table in zip((scores, rejects, *others), taken, strict=True):
            tables.append(table)
    if part.retried:
        scores.append(read_part(part.retried, kept.name, part.number))
        for name, tables in zip(beside, others, strict=True):
            before = read_part(part.retried, name, part.number)
            tables[:] = [before] if name == "names" else [*tables, before]  # rejects have names
    files, reasons, rows, grouped = [], collections.Counter(), 0, 0
    for name, tables, schema in ((kept.name, scores, kept.schema), ("rejects", rejects, REJECTS)):
        table = _in_key_order(check(pa.concat_tables([schema.empty_table(), *tables]), schema, name))
        if table.num_rows or name == kept.name:
            files.append(write_table(folder, f"{name}-{part.number:06d}.parquet", table))
        if name == "rejects":
            reasons.update(table.column("reason").to_pylist())
        else:
            grouped = int(np.count_nonzero(table.column("group").to_numpy()))
        rows += table.num_rows
    for name, tables in zip(beside, others, strict=True):
        schema = BESIDE[name]
        table = _in_key_order(check(pa.concat_tables([schema.empty_table(), *tables]), schema, name))
        files.append(write_table(folder, f"{name}-{part.number:06d}.parquet", table))
    found = {"rows": rows, "earlier": rows - part.rows, "groups": grouped, "reasons": reasons}
    return commit_part(folder, part.number, files, found)


def _in_key_order(table: pa.Table) -> pa.Table:
    """Sorts only what is not sorted, because sorting copies all lists."""
    key = table.column("key").to_numpy()
    return table if (key[1:] > key[:-1]).all() else table.sort_by("key")
