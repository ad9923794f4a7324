"""Probabilities of all classes for labeled samples → CLASSIFIED, and METRICS of it.

Letters: N samples, C classes.
"""

import numpy as np
import pyarrow as pa

from raylabel.evaluate.calibration import calibration_error, scaled_confidence
from raylabel.evaluate.classify import TOP, share_right
from raylabel.evaluate.results import CALIBRATED, ECE, SUBSET_TOP1, TOP1, TOP5, Metric, Subject
from raylabel.schema import CLASSIFIED, check
from raylabel.store.artifact import Artifact

FILE = "classified-00000.parquet"


def classified(
    key: np.ndarray, label: np.ndarray, log_p: np.ndarray, occurring: np.ndarray, temperature: float | None
) -> pa.Table:
    """CLASSIFIED of samples with these keys and labels int64 [N] and log probabilities float32 [N, C], in any order.
    `occurring`: the classes of the whole set. `temperature`: that of temperature scaling, if there is one."""
    best = log_p.argmax(1)
    own = log_p[np.arange(len(label)), label]
    # A class without any probability ranks behind all others, whatever its index.
    ahead = (log_p > own[:, None]) | ((log_p == own[:, None]) & (np.arange(log_p.shape[1]) < label[:, None]))
    ranks = [np.where(np.isfinite(own), one.sum(1), log_p.shape[1]) for one in (ahead, ahead[:, occurring])]
    confidence = scaled_confidence(log_p, 1.0)
    calibrated = None if temperature is None else scaled_confidence(log_p, temperature)
    columns = [key, label, best, *ranks, confidence, calibrated]
    arrays = [
        pa.nulls(len(key), field.type) if values is None else pa.array(values).cast(field.type, safe=False)
        for field, values in zip(CLASSIFIED, columns, strict=True)
    ]
    return check(pa.Table.from_arrays(arrays, schema=CLASSIFIED), CLASSIFIED, "classified")


def unread(key: np.ndarray, label: np.ndarray) -> pa.Table:
    """CLASSIFIED of samples that could not be read."""
    count = len(key)
    last = np.full(count, np.iinfo(np.int32).max)
    columns = [key, label, np.full(count, -1), last, last, np.zeros(count)]
    arrays = [pa.array(values).cast(field.type, safe=False) for field, values in zip(CLASSIFIED, columns, strict=False)]
    return pa.Table.from_arrays([*arrays, pa.nulls(count, pa.float32())], schema=CLASSIFIED)


def right_of(found: Artifact) -> np.ndarray:
    """Whether the best class of each sample is the true one, bool [N], in key order."""
    table = found.table("classified-", CLASSIFIED, ["key", "rank"]).sort_by("key")
    return table.column("rank").to_numpy() == 0


def best_of(found: Artifact) -> dict[int, int]:
    """Key → best class of each sample that could be read."""
    table = found.table("classified-", CLASSIFIED, ["key", "best"])
    pairs = zip(table.column("key").to_pylist(), table.column("best").to_pylist(), strict=True)
    return {key: best for key, best in pairs if best >= 0}


def classified_metrics(of: Subject, found: Artifact, classes: int) -> list[Metric]:
    """top1 and top5 with Wilson intervals, in which a sample that could not be read counts as wrong; if some of the
    classes do not occur, subset_top1, the accuracy among those that do (as for ImageNet-A, Hendrycks et al. 2021); ece
    and ece_calibrated of the samples that could be read."""
    table = found.table("classified-", CLASSIFIED)
    rank = table.column("rank").to_numpy()
    rows = list[Metric]()
    for metric, right in ((TOP1, rank == 0), *([(TOP5, rank < TOP)] if classes > TOP else [])):
        rows.append(share_right(of, metric, right))
    if len(np.unique(table.column("label").to_numpy())) < classes:
        rows.append(share_right(of, SUBSET_TOP1, table.column("rank_among").to_numpy() == 0))
    known = table.filter(pa.array(table.column("best").to_numpy() >= 0))
    right = known.column("rank").to_numpy() == 0
    for metric, column in ((ECE, "confidence"), (CALIBRATED, "calibrated")):
        if not known.column(column).null_count:
            value = calibration_error(known.column(column).to_numpy(), right)
            rows.append(Metric(**vars(of), metric=metric, value=value, n=len(known)))
    return rows
