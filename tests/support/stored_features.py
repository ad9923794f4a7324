"""FEATURES that no network computed."""

import numpy as np
import pyarrow as pa
from sklearn.datasets import load_digits

from raylabel.schema import features_schema, make_key
from raylabel.store.artifact import Artifact, Built, Draft, Root, write_table

FILES = 9


def unit(feature: np.ndarray) -> np.ndarray:
    return (feature / np.linalg.norm(feature, axis=1, keepdims=True)).astype(np.float16)


def digits() -> np.ndarray:
    """float16 [1797, 64], of unit length."""
    return unit(np.asarray(load_digits(return_X_y=True)[0]) - 5)


def stored(root: Root, feature: np.ndarray, norm: np.ndarray | None = None, files: int = FILES) -> Artifact:
    """FEATURES of these, in files of different sizes, some of several row groups; one file is empty."""

    def build(draft: Draft) -> Built:
        schema, made = features_schema(feature.shape[1]), []
        cuts = [
            0,
            *sorted(np.random.default_rng(0).integers(0, max(1, len(feature)), files - 2).tolist()),
            len(feature),
        ]
        for shard, (low, high) in enumerate(zip([*cuts, cuts[-1]], [*cuts[1:], cuts[-1]], strict=False)):
            some, n = feature[low:high], high - low
            columns = [
                pa.array(make_key(shard, 0) + 2 * np.arange(n)),
                pa.array([b"0" * 16] * n, schema.field("digest").type),
                pa.array(np.zeros(n, np.int64)),
                pa.FixedSizeListArray.from_arrays(pa.array(some.ravel()), type=schema.field("feature").type),
                pa.array(np.ones(n, np.float32) if norm is None else norm[low:high]),
            ]
            table = pa.Table.from_arrays(columns, schema=schema)
            groups = [table[i : i + 100] for i in range(0, max(1, n), 100)]
            made.append(write_table(draft.uri, f"features-{shard:06d}.parquet", *groups))
        return Built(made, {"scored": len(feature), "p": feature.shape[1]})

    return root.make("features", {"of": int(np.frombuffer(feature.tobytes(), np.uint8).sum())}, build)
