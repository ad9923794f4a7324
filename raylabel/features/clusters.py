"""The tables of a clustering."""

import pyarrow as pa

# The cluster of each sample that has FEATURES, in key order within a file.
ASSIGNED = pa.schema(
    [
        pa.field("key", pa.int64(), nullable=False),
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("squared", pa.float32(), nullable=False),  # distance to the cluster's centroid
    ]
)


SIZES = pa.schema([pa.field("size", pa.int64(), nullable=False)])
"""The columns of CLUSTERS that do not depend on D."""


def clusters_schema(width: int) -> pa.Schema:
    """CLUSTERS of features of D = `width` numbers, one row each, in the order of their numbers."""
    return pa.schema(
        [
            *SIZES,
            pa.field("centroid", pa.list_(pa.field("element", pa.float32(), nullable=False), width), nullable=False),
        ]
    )
