"""Types of parquet columns: which ones can contain media, names or seconds, and the same values in a plain type.

Arrow has several types for the same values. Writers choose one, for example views (Polars) or dictionaries (pandas'
categories), and store their choice in the file's schema. Arrow 26 cannot take rows of views.
"""

from typing import Any

import pyarrow as pa


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of the same values without views and dictionaries."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(plain_type(field.type)) for field in kind])
    if pa.types.is_string_view(kind):
        return pa.large_string()
    return pa.large_binary() if pa.types.is_binary_view(kind) else kind


def plain(column: Any) -> Any:
    """An array or chunked array with values of `plain_type`; a copy only if it has another type."""
    kind = plain_type(column.type)
    return column if kind == column.type else column.cast(kind)


def is_seconds(kind: pa.DataType) -> bool:
    """Whether a column of that type can contain the start or end of segments."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def is_name(kind: pa.DataType) -> bool:
    """Whether a column of that type can contain labels or groups: integers or strings."""
    kind = plain_type(kind)
    return pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)


def is_media(kind: pa.DataType) -> bool:
    """Whether a column of that type can contain encoded bytes, itself or in Hugging Face's struct<bytes, path>."""
    kind = plain_type(kind)
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
