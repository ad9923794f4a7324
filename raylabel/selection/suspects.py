"""Labeled samples whose label is likely wrong, from the scores of a teacher that has not learned from them.

Confident learning (Northcutt, Jiang and Chuang 2021, arXiv 1911.00068 §3.1): a label is suspected if the teacher gives
another class at least the mean probability that this class has for the samples with its label.

Letters: n labeled samples, C classes.
"""

import numpy as np
import pyarrow as pa

from raylabel.schema import SUSPECTS
from raylabel.selection.candidates import lists_of


def find_suspects(held: pa.Table, classes: int) -> pa.Table:
    """SUSPECTS of HELD: those whose best class is not their label and is at least as probable as it is, on average, for
    the samples with its label; by log-odds, descending. A class that is not among the P best of a sample counts as not
    probable there."""
    label, key = (held.column(name).to_numpy() for name in ("label", "key"))
    best, log_odds = (lists_of(held, name) for name in ("classes", "log_odds"))
    p = 1 / (1 + np.exp(-np.clip(log_odds.astype(np.float64), -700, 700)))
    own = np.where(best == label[:, None], p, 0).sum(1)
    mean = np.bincount(label, own, classes) / np.maximum(1, np.bincount(label, minlength=classes))
    some = np.flatnonzero((best[:, 0] != label) & (p[:, 0] >= mean[best[:, 0]]) & (mean[best[:, 0]] > 0))
    some = some[np.lexsort((key[some], -log_odds[some, 0]))]
    columns = [key[some], label[some], best[some, 0], log_odds[some, 0]]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, SUSPECTS, strict=True)], schema=SUSPECTS)
