"""ASSIGNED → SAMPLES: each sample with its cluster as its label, so often that all clusters have equally many items.

Caron et al. 2018 §3.3 sample images uniformly over the clusters, so that a large cluster is not all that is learned. An
epoch has N items: of C clusters each has N / C, up to one. Within a cluster all samples have equally many, up to one.
(Their code draws N / C + 1 of each cluster, with replacement if it is smaller, and drops what is over N.) A sample of a
large cluster may have none in an epoch.

Letters: C clusters that have samples, k clusters, n samples of a file, N samples.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from raylabel.compute.tasks import run_tasks
from raylabel.compute.watchdog import heartbeat
from raylabel.features.clusters import ASSIGNED
from raylabel.rng import permuted
from raylabel.store.artifact import Artifact, Built, Draft, File, Root, write_table
from raylabel.training.samples import ROWS, samples_table

VERSION = 1
"""Of the numbers."""
RUN = 8
"""Files of ASSIGNED that a task reads."""


def make_uniform(root: Root, name: str, clusters: Artifact, seed: int) -> Artifact:
    """SAMPLES of all samples that have a cluster, the artifact `samples-<name>`; those that have no item in this epoch
    have no labels. Info: samples, picks (items, as many), and keys, which does not depend on clusters or seed."""

    def build(draft: Draft) -> Built:
        files = [file.name for file in clusters.files("assigned-")]
        runs = [files[first : first + RUN] for first in range(0, len(files), RUN)]
        k = clusters.info["k"]
        counted = run_tasks(_count, [(clusters, run, k) for run in runs])
        counts = np.stack([count for count, _ in counted])  # [runs, k]
        keys = hashlib.sha256("".join(digest for _, some in counted for digest in some).encode()).hexdigest()
        sizes, before = counts.sum(0), np.cumsum(counts, 0) - counts
        quotas = quotas_of(sizes, seed)
        tasks = [(draft.uri, n, clusters, run, before[n], sizes, quotas, seed) for n, run in enumerate(runs)]
        made = [file for some in run_tasks(_write, tasks) for file in some]
        total = int(sizes.sum())
        return Built(made, {"samples": total, "picks": total, "keys": keys})

    identity = {"clusters": clusters.digest, "seed": seed, "version": VERSION}
    return root.make(f"samples-{name}", identity, build)


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


def _count(clusters: Artifact, names: Sequence[str], k: int) -> tuple[np.ndarray, list[str]]:
    """The sizes of the clusters in some files, int64 [k], and a digest of the keys of each file."""
    counts, digests = np.zeros(k, np.int64), list[str]()
    for name in names:
        heartbeat()
        table = clusters.table(name, ASSIGNED, ["key", "cluster"])
        counts += np.bincount(table["cluster"].to_numpy(), minlength=k)
        digests.append(hashlib.sha256(np.ascontiguousarray(table["key"].to_numpy(), "<i8").tobytes()).hexdigest())
    return counts, digests


def _write(
    folder: str,
    number: int,
    clusters: Artifact,
    names: Sequence[str],
    before: np.ndarray,
    sizes: np.ndarray,
    quotas: np.ndarray,
    seed: int,
) -> list[File]:
    """SAMPLES of some files of ASSIGNED. `before`: the sizes of the clusters in the files before."""
    files, before = [], before.copy()
    for at, name in enumerate(names):
        heartbeat()
        table = clusters.table(name, ASSIGNED, ["key", "cluster"])
        if not len(table):
            continue
        cluster = table["cluster"].to_numpy().astype(np.int64)
        count = repeats(cluster, before[cluster] + places(cluster), sizes, quotas, seed)
        before += np.bincount(cluster, minlength=len(before))
        ends = np.append(0, np.cumsum(count))
        samples = samples_table(table["key"].to_numpy(), ends, np.repeat(cluster, count))
        groups: list[pa.Table] = [samples.slice(first, ROWS) for first in range(0, len(samples), ROWS)]
        files.append(write_table(folder, f"samples-{number:05d}-{at}.parquet", *groups))
    return files


def places(cluster: np.ndarray) -> np.ndarray:
    """The position of each sample among those of its cluster, int64 [n], for clusters int64 [n]."""
    order = np.argsort(cluster, kind="stable")
    ordered = cluster[order]
    found = np.empty(len(cluster), np.int64)
    found[order] = np.arange(len(cluster)) - np.searchsorted(ordered, ordered)
    return found
