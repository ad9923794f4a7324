"""Tables as bytes of parquet files: equal tables give equal bytes."""

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def encode_table(*groups: pa.Table) -> memoryview:
    """The bytes of the file that `write_table` (artifact.py) writes: a row group for each table, all of one schema."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, groups[0].schema, **_encoding(groups[0].schema)) as writer:
        for group in groups:
            # One chunk per column, so that the bytes do not depend on how the table was assembled.
            writer.write_table(group.combine_chunks(), row_group_size=max(1, group.num_rows))
    return sink.getbuffer()


def _encoding(schema: pa.Schema) -> dict[str, Any]:
    """Lists of floats are written without a dictionary: their values rarely repeat.

    With one, the SCORES of bench_select.py are 84 bytes a row instead of 58 and take 1.3 times as long to read.
    Vectors, which are lists of a fixed size, are not compressed either, so that they are read fast: with zstd they take
    1.7 times as long if half of the numbers are zeros (0.62 times the bytes; features of EfficientNet-Lite0), and 2.7
    times if none is (0.89 times the bytes). Neither are thumbnails, of which zstd saves 2%; with a dictionary they take
    14 times as long to read.
    """
    lists = [f.name for f in schema if pa.types.is_list(f.type) and pa.types.is_floating(f.type.value_type)]
    vectors = [f.name for f in schema if pa.types.is_fixed_size_list(f.type) or _is_thumbnail(f.type)]
    if not (lists or vectors):
        return {"compression": "zstd"}
    nested = {f.name for f in schema if pa.types.is_list(f.type) or pa.types.is_fixed_size_list(f.type)}
    paths = {f.name: f"{f.name}.list.element" if f.name in nested else f.name for f in schema}
    return {
        "compression": {path: "none" if name in vectors else "zstd" for name, path in paths.items()},
        "use_dictionary": [path for name, path in paths.items() if name not in (*lists, *vectors)],
        "column_encoding": {paths[name]: "BYTE_STREAM_SPLIT" for name in lists},
    }


def _is_thumbnail(kind: pa.DataType) -> bool:
    return pa.types.is_fixed_size_binary(kind) and kind.byte_width > 64  # a digest is shorter
