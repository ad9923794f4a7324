"""How many samples the list of each class has.

Letters: C classes, K samples kept per class on average.
"""

import csv
import io
from collections.abc import Sequence

import numpy as np

from raylabel.errors import InputError
from raylabel.selection.config import MEASURED, TAGGED, Select
from raylabel.store.files import read_file, reading
from raylabel.text import listed


def list_lengths(config: Select, classes: Sequence[str], measured: np.ndarray | None = None) -> np.ndarray:
    """int64 [C]: the most samples of each class's list, C * K in all. `measured`: int [C], the samples of the corpus
    whose best class it is, if `counts` is one of MEASURED, or that have a tag of it, if it is TAGGED. InputError if the
    file of counts is not one of these classes."""
    if not config.counts:
        return np.full(len(classes), config.k, np.int64)
    if config.counts not in (*MEASURED, TAGGED):
        return share_out(read_counts(config.counts, classes), len(classes) * config.k)
    assert measured is not None
    weights = measured.astype(np.float64)
    if config.counts == "zipf":
        order = np.argsort(-measured, kind="stable")
        weights = np.empty(len(classes))
        weights[order] = 1 / np.arange(1, len(classes) + 1)
    return share_out(np.maximum(weights, np.finfo(float).tiny), len(classes) * config.k)


def share_out(weights: np.ndarray, total: int) -> np.ndarray:
    """int64 [C]: numbers in proportion to weights float64 [C], `total` in all: at least 1, or 0 where the weight is 0.
    `total` is at least C. Rounded down, and those with the largest rest, the first of equal ones, get one more."""
    some = weights > 0
    left = total - int(some.sum())
    exact = left * (weights / weights.max()) / (weights / weights.max()).sum()
    found = np.floor(exact).astype(np.int64)
    order = np.argsort(found - exact, kind="stable")
    found[order[: left - int(found.sum())]] += 1
    return found + some


def read_counts(uri: str, classes: Sequence[str]) -> np.ndarray:
    """float64 [C]: the counts of a CSV file. InputError if it does not have each class once, or a count is not a number
    of 0 or more, or all are 0."""
    with reading(uri):
        text = read_file(uri)
    try:
        rows = list(csv.DictReader(io.StringIO(text.decode("utf-8-sig")), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"select.counts: '{uri}' is not a CSV file in UTF-8: {error}") from error
    if not rows or not {"class", "count"} <= rows[0].keys():
        raise InputError(f"select.counts: '{uri}' needs a header with the columns `class` and `count`, and rows")
    found: dict[str, float] = {}
    for number, row in enumerate(rows, 2):
        name, count = (row["class"] or "").strip(), row["count"]
        try:
            value = float(count)
        except (TypeError, ValueError):
            value = -1.0
        if not 0 <= value < np.inf:
            raise InputError(f"select.counts: '{uri}', row {number}: the count of '{name}' is '{count}', not a number")
        if name in found:
            raise InputError(f"select.counts: '{uri}', row {number}: class '{name}' is there twice")
        found[name] = value
    known = set(classes)
    if unknown := [name for name in found if name not in known]:
        raise InputError(f"select.counts: '{uri}' has {listed(unknown)}, which is no class of the labeled set")
    if missing := [name for name in classes if name not in found]:
        raise InputError(f"select.counts: '{uri}' lacks {listed(missing)}: give each class a count, maybe 0")
    counts = np.array([found[name] for name in classes])
    if not counts.any():
        raise InputError(f"select.counts: all counts of '{uri}' are 0")
    return counts
