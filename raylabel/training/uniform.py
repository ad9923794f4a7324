"""ASSIGNED → EXAMPLES: each sample with its cluster as its label, so often that all clusters have equally many items.

Caron et al. 2018 §3.3 sample images uniformly over the clusters, so that a large cluster is not all that is learned. An
epoch has N items: of C clusters each has N / C, up to one. Within a cluster all samples have equally many, up to one.
(Their code draws N / C + 1 of each cluster, with replacement if it is smaller, and drops what is over N.) A sample of a
large cluster may have none in an epoch.

Letters: C clusters that have samples, k clusters, n samples of a file, N samples.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from raylabel.compute.tasks import run_tasks
from raylabel.compute.watchdog import heartbeat
from raylabel.features.clusters import ASSIGNED
from raylabel.rng import permuted
from raylabel.schema import ROW_GROUPS
from raylabel.store.artifact import Artifact, Built, Draft, File, Root, write_table
from raylabel.training.examples import write_labels
from raylabel.training.samples import samples_table

VERSION = 1
"""Of the numbers."""
RUN = 256
"""Files of ASSIGNED that a task reads, and the row groups of the file that it writes."""


def make_uniform(
    root: Root, name: str, media: Artifact, clusters: Artifact, seed: int, uniform: bool = True
) -> Artifact:
    """EXAMPLES of all samples of MEDIA, the artifact `examples-<name>`; those that have no item in this epoch have no
    labels. `clusters`: of the features of the same media, in the order of the samples there. Not `uniform`: each sample
    has one item. Info: as of `materialize`.
    """

    def build(draft: Draft) -> Built:
        files = [file.name for file in clusters.files("assigned-")]
        runs = [files[first : first + RUN] for first in range(0, len(files), RUN)]
        counts = np.stack(run_tasks(_count, [(clusters, run, clusters.info["k"]) for run in runs]))  # [runs, k]
        sizes, before = counts.sum(0), np.cumsum(counts, 0) - counts
        quotas = quotas_of(sizes, seed) if uniform else sizes
        tasks = [(draft.uri, n, media, clusters, run, before[n], sizes, quotas, seed) for n, run in enumerate(runs)]
        written = run_tasks(_write, tasks)
        lane = media.table("row_groups", ROW_GROUPS, ["lane"]).column("lane").to_numpy()
        items = sum((some for _, some in written), np.zeros(int(lane.max()) + 1, np.int64))
        empty = [int(one) for one in np.unique(lane) if not items[one]]
        return write_labels(draft, media, [file for file, _ in written], int(quotas.sum()), empty=empty)

    identity = {"media": media.digest, "clusters": clusters.digest, "seed": seed, "version": VERSION}
    return root.make(f"examples-{name}", identity if uniform else identity | {"uniform": False}, build)


def quotas_of(sizes: np.ndarray, seed: int) -> np.ndarray:
    """Items of each cluster, int64 [k], for clusters of these sizes: N / C, up to one, and 0 if it is empty."""
    found, own = np.zeros(len(sizes), np.int64), np.flatnonzero(sizes)
    each, left = divmod(int(sizes.sum()), len(own))
    found[own] = each + (permuted(np.arange(len(own)), np.full(len(own), len(own)), seed) < left)
    return found


def repeats(cluster: np.ndarray, position: np.ndarray, sizes: np.ndarray, quotas: np.ndarray, seed: int) -> np.ndarray:
    """Items of samples, int64 [n], which have these clusters, and these positions among the samples of each."""
    size, quota = sizes[cluster], quotas[cluster]
    return quota // size + (permuted(position, size, seed, 1 + cluster) < quota % size)


def _count(clusters: Artifact, names: Sequence[str], k: int) -> np.ndarray:
    """The sizes of the clusters in some files, int64 [k]."""
    counts = np.zeros(k, np.int64)
    for name in names:
        heartbeat()
        counts += np.bincount(clusters.table(name, ASSIGNED, ["cluster"])["cluster"].to_numpy(), minlength=k)
    return counts


def _write(
    folder: str,
    number: int,
    media: Artifact,
    clusters: Artifact,
    names: Sequence[str],
    before: np.ndarray,
    sizes: np.ndarray,
    quotas: np.ndarray,
    seed: int,
) -> tuple[File, np.ndarray]:
    """The labels of some files of ASSIGNED, and how many each lane has there, int64 [lanes]. `before`: the sizes of the
    clusters in the files before."""
    table = media.table("row_groups", ROW_GROUPS, ["lane", "rows"])
    lane = np.repeat(table.column("lane").to_numpy(), table.column("rows").to_numpy())
    row = int(before.sum())
    groups, before, items = list[pa.Table](), before.copy(), np.zeros(int(lane.max()) + 1, np.int64)
    for name in names:
        heartbeat()
        table = clusters.table(name, ASSIGNED, ["key", "cluster"])
        cluster = table["cluster"].to_numpy().astype(np.int64)
        count = repeats(cluster, before[cluster] + places(cluster), sizes, quotas, seed)
        before += np.bincount(cluster, minlength=len(before))
        np.add.at(items, lane[row : row + len(count)], count)
        row += len(count)
        groups.append(samples_table(table["key"].to_numpy(), np.append(0, np.cumsum(count)), np.repeat(cluster, count)))
    return write_table(folder, f"examples-{number:06d}.parquet", *groups), items


def places(cluster: np.ndarray) -> np.ndarray:
    """The position of each sample among those of its cluster, int64 [n], for clusters int64 [n]."""
    order = np.argsort(cluster, kind="stable")
    ordered = cluster[order]
    found = np.empty(len(cluster), np.int64)
    found[order] = np.arange(len(cluster)) - np.searchsorted(ordered, ordered)
    return found
