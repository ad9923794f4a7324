"""The bytes of a table for other programs, as parquet or CSV.

Letter: P classes per sample, of PREDICTIONS.
"""

import io
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

Form = Literal["parquet", "csv"]

# A list of P values is P columns in CSV: the first is the column of the best class.
COLUMNS = {"labels": "label", "class_indices": "class_index", "probabilities": "probability"}
# Spreadsheets take text that begins with one of these for a formula (OWASP, "CSV Injection"), the last four as their
# wide forms. A quote in front prevents that, and is put before a quote too, so that it can be removed again.
FORMULA = "^['=+\\-@\t\r\n＝＋－＠]"


def encode(form: Form, schema: pa.Schema, tables: Iterable[pa.Table], p: int = 0) -> memoryview:
    """The bytes of one file with these tables, which have the schema; equal tables give equal bytes. `p`: of
    PREDICTIONS."""
    sink = io.BytesIO()
    if form == "parquet":
        with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table.combine_chunks(), row_group_size=max(1, table.num_rows))
    else:
        with pacsv.CSVWriter(sink, _flat(schema.empty_table(), p).schema) as writer:
            for table in tables:
                writer.write_table(_flat(table, p).combine_chunks())
    return sink.getbuffer()


def _flat(table: pa.Table, p: int) -> pa.Table:
    """The table as CSV has it: a column for each rank of a list, and text that is no formula."""
    found = {name: table.column(name) for name in table.schema.names if name not in COLUMNS}
    found |= dict(_ranks(table, p)) if set(COLUMNS) <= set(table.schema.names) else {}
    return pa.table({name: _no_formula(c) if pa.types.is_string(c.type) else c for name, c in found.items()})


def _ranks(table: pa.Table, p: int) -> Iterator[tuple[str, pa.Array]]:
    values = {name: table.column(name).combine_chunks().flatten() for name in COLUMNS}
    for rank in range(1, p):
        for name, column in COLUMNS.items():
            yield f"{column}_{rank + 1}", values[name].take(pa.array(range(rank, p * len(table), p), pa.int64()))


def _no_formula(column: Any) -> Any:
    quoted = pc.binary_join_element_wise("'", column, "")  # pyright: ignore[reportAttributeAccessIssue]
    return pc.if_else(pc.match_substring_regex(column, FORMULA), quoted, column)  # pyright: ignore[reportAttributeAccessIssue]
