"""Labels of samples → PICKS."""

import numpy as np
import pyarrow as pa

from raylabel.schema import PICKS, check
from raylabel.store.artifact import Built, Draft, write_table


def write_picks(draft: Draft, key: np.ndarray, label: np.ndarray, classes: tuple[str, ...]) -> Built:
    """PICKS of samples with one label each (key and label int64 [N]): ranks in the order of keys, score 0.

    Info: picks, samples, per_class, classes (names in the order of class indices).
    """
    counts = np.bincount(label, minlength=len(classes)).tolist()
    info = {"picks": len(key), "samples": len(key), "per_class": counts, "classes": list(classes)}
    return Built([write_table(draft.uri, "picks-00000.parquet", sorted_picks(key, label))], info)


def sorted_picks(key: np.ndarray, label: np.ndarray) -> pa.Table:
    """PICKS of these pairs (int64 [N]), by label and key, with the score 0."""
    order = np.lexsort((key, label))
    key, label = key[order], label[order]
    rank = np.arange(len(label)) - np.searchsorted(label, label) + 1
    columns = [label.astype(np.int32), rank.astype(np.int32), np.zeros(len(label), np.float32), key]
    return check(pa.Table.from_arrays([pa.array(c) for c in columns], schema=PICKS), PICKS, "picks")
