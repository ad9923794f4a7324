"""Labels of samples → PICKS."""

import numpy as np
import pyarrow as pa

from raylabel.schema import PICKS, check
from raylabel.store.artifact import Built, Draft, write_table


def write_picks(draft: Draft, key: np.ndarray, label: np.ndarray, classes: tuple[str, ...]) -> Built:
    """PICKS of samples with one label each (key and label int64 [N]): ranks in the order of keys, score 0.

    Info: picks, samples, per_class, classes (names in the order of class indices).
    """
    counts = np.bincount(label, minlength=len(classes))
    order = np.lexsort((key, label))
    rank = np.arange(len(order)) - (np.cumsum(counts) - counts)[label[order]] + 1
    columns = [label[order].astype(np.int32), rank.astype(np.int32), np.zeros(len(order), np.float32), key[order]]
    table = check(pa.Table.from_arrays([pa.array(c) for c in columns], schema=PICKS), PICKS, draft.uri)
    info = {"picks": len(order), "samples": len(order), "per_class": counts.tolist(), "classes": list(classes)}
    return Built([write_table(draft.uri, "picks-00000.parquet", table)], info)
