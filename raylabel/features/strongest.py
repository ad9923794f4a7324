"""FEATURES → the samples for which each number of the feature is largest.

If the features are the output of a layer, averaged over positions, the numbers are its channels: these are the pictures
that excite each filter most (Caron et al. 2018, arXiv 1807.05520, Figures 4 and 5).

Letters: B features of a row group, D numbers of a feature, n samples of each number.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from raylabel.compute.tasks import PROCESS_BYTES, fetch, wait_for
from raylabel.compute.watchdog import heartbeat
from raylabel.errors import InputError
from raylabel.features.whitening import computed
from raylabel.store.artifact import Artifact, Built, Draft, File, Root, write_table

STRONGEST = pa.schema(
    [
        pa.field("number", pa.int32(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("key", pa.int64(), nullable=False),
        pa.field("value", pa.float32(), nullable=False),
    ]
)
"""The sample (`key`) that is at a rank, from 0, by a number of its feature, whose value before scaling to unit length
is given; in the order of number and rank."""
VERSION = 1
"""Of the numbers."""
FILES = 16
"""Files of FEATURES that a task reads, and tables that a task merges."""
Best = tuple[np.ndarray, np.ndarray]
"""(values float32 [D, <= n] in descending order, their keys int64); of equal values the lowest keys come first."""


def strongest(root: Root, features: Artifact, count: int = 9) -> Artifact:
    """The artifact `strongest`: STRONGEST of the `count` samples for which each number is largest, or of all if there
    are fewer. All features are read once. Info: numbers (D), count. InputError if there are no features."""

    def build(draft: Draft) -> Built:
        files, width = features.files("features-"), features.info["p"]
        if not features.info["scored"]:
            raise InputError(f"{features.uri} has no samples: there is nothing to rank")
        memory = PROCESS_BYTES + max(file.rows for file in files) * width * 16 + FILES * width * count * 12
        read = ray.remote(num_cpus=1, max_retries=3, memory=int(memory))(_of_files)
        merge = ray.remote(num_cpus=1, max_retries=3, memory=int(memory))(_merged)
        found: list[Any] = [read.remote(features, files[i : i + FILES], count) for i in range(0, len(files), FILES)]
        wait_for("rank by each number", found, "tasks")
        while len(found) > 1:
            found = [merge.remote(count, *found[i : i + FILES]) for i in range(0, len(found), FILES)]
        value, key = fetch(found[0])
        columns = [
            np.repeat(np.arange(width, dtype=np.int32), value.shape[1]),
            np.tile(np.arange(value.shape[1], dtype=np.int32), width),
            key.ravel(),
            value.ravel(),
        ]
        table = pa.Table.from_arrays([pa.array(one) for one in columns], schema=STRONGEST)
        return Built([write_table(draft.uri, "strongest.parquet", table)], {"numbers": width, "count": value.shape[1]})

    return root.make("strongest", {"features": features.digest, "count": count, "version": VERSION}, build)


def _of_files(features: Artifact, files: Sequence[File], count: int) -> Best:
    best: Best | None = None
    for file in files:
        with features.opened(file) as opened:
            for group in range(opened.num_row_groups):
                heartbeat()
                table = opened.read_row_group(group, ["key", "feature", "norm"])
                if len(table):
                    key = np.broadcast_to(table.column("key").to_numpy(), (features.info["p"], len(table)))
                    found = _largest(computed(table).T, key, count)
                    best = found if best is None else _merged(count, best, found)
    return best or (np.empty((features.info["p"], 0), np.float32), np.empty((features.info["p"], 0), np.int64))


def _merged(count: int, *some: Best) -> Best:
    value, key = (np.concatenate(columns, 1) for columns in zip(*some, strict=True))
    return _largest(value, key, count)


def _largest(value: np.ndarray, key: np.ndarray, count: int) -> Best:
    """Of values [D, B] and their keys [D, B]."""
    if value.shape[1] > 8 * count:  # then most values are left out before they are sorted; ties of the last are kept
        limit = np.partition(value, -count, 1)[:, -count]
        most = max(count, int((value >= limit[:, None]).sum(1).max()))
        if most < value.shape[1] // 2:
            some = np.argpartition(-value, most - 1, 1)[:, :most]
            value, key = np.take_along_axis(value, some, 1), np.take_along_axis(key, some, 1)
    order = np.lexsort((key, -value))[:, :count]
    return np.take_along_axis(value, order, 1), np.take_along_axis(key, order, 1)
