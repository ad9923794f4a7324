"""K-means over FEATURES that need not fit into the memory of a machine (Lloyd 1982).

Each iteration sends the centroids to readers, which assign their features to the nearest ones and return sums. The sums
are exact, so that the centroids do not depend on how many readers there are.

Letters: D numbers of a feature, k clusters.
"""

import io
import re
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import ray

from raylabel.compute.progress import PatientProgress
from raylabel.compute.tasks import PROCESS_BYTES, fetch
from raylabel.errors import InputError
from raylabel.features.clusters import clusters_schema
from raylabel.features.lloyd import updated
from raylabel.features.readers import Readers
from raylabel.rng import CENTROIDS, rng
from raylabel.store.artifact import ADDED_LATER, Artifact, Built, Draft, Root, identity_of, write_table
from raylabel.store.files import list_files, read_file, write_file

VERSION = 1
"""Of the numbers."""
REPAIRS = 20
"""Iterations, at most, that fill clusters which are empty after the last one."""
SAMPLED = 16
"""Features per cluster that k-means++ chooses among."""
Start = Literal["sample", "k-means++"]


@dataclass(frozen=True, kw_only=True)
class KMeans:
    """How features are clustered."""

    k: int
    """Number of clusters."""
    iterations: int = 20
    """Caron et al. 2018 have 20."""
    start: Start = "sample"
    """The first centroids. sample: k features drawn at random, as in faiss. k-means++: chosen so that they are far
    apart (Arthur and Vassilvitskii 2007), among 16 k features drawn at random."""
    spherical: bool = False
    """Whether centroids have unit length, as features have; then the nearest one has the largest cosine."""
    refill: bool = field(default=True, metadata=ADDED_LATER)
    """Whether empty clusters take half of another one. Without it they may stay empty: a control."""

    def check(self, name: str) -> None:
        """InputError if a field is invalid. `name` is that of this config in the recipe."""
        for key, least in (("k", 2), ("iterations", 1)):
            if type(value := getattr(self, key)) is not int or value < least:
                raise InputError(f"{name}.{key} is {value!r}: give a whole number of at least {least}")
        if self.start not in get_args(Start):
            raise InputError(f"{name}.start is {self.start!r}: give {' or '.join(get_args(Start))}")


@dataclass(frozen=True)
class _State:
    """What an iteration begins with."""

    centroids: np.ndarray
    """float32 [k, D]"""
    distances: np.ndarray
    """float64 [iteration]: the mean squared distances that the iterations before found."""
    refilled: np.ndarray
    """int64 [iteration]: how many empty clusters they filled."""

    @property
    def iteration(self) -> int:
        return len(self.distances)


def cluster(root: Root, features: Artifact, config: KMeans, seed: int, readers: int = 0) -> Artifact:
    """The artifact `clusters`: CLUSTERS, and ASSIGNED with the cluster of each sample that has FEATURES. No cluster is
    empty, unless `config.refill` is off.

    Each iteration is written, so that a run that was stopped continues with the next one. `readers`: how many actors
    read the features; 0: one for each GPU, or else for each CPU. The result does not depend on it. Info: k, samples,
    distances (the mean squared distance of a feature to its centroid before each iteration, and that of the result),
    refilled (how many empty clusters each iteration filled). InputError if there are fewer different features than
    clusters.
    """
    identity = {"features": features.digest, "kmeans": identity_of(config), "seed": seed, "version": VERSION}

    return root.make("clusters", identity, lambda draft: build_clusters(draft, features, config, seed, readers))


def build_clusters(
    draft: Draft, features: Artifact, config: KMeans, seed: int, readers: int = 0, gpus: bool = True
) -> Built:
    """Writes what `cluster` makes, for an artifact with an identity of its own. `gpus`: whether readers use those of
    the cluster, if it has some."""
    samples = features.info["scored"]
    if samples < config.k:
        raise InputError(f"{samples:,} samples cannot form {config.k:,} clusters: lower k")
    with Readers(features, readers, config.k, gpus) as reading:
        return _build(draft, reading, config, seed)


def _build(draft: Draft, readers: Readers, config: KMeans, seed: int) -> Built:
    states = draft.scratch("iterations")
    state = _latest(states) or _State(_start(readers, config, seed), np.empty(0), np.empty(0, np.int64))
    with PatientProgress("cluster", config.iterations + 1, "iterations") as progress:
        while True:
            progress.update(min(state.iteration, config.iterations))
            last = state.iteration >= config.iterations
            sums, files = readers.assign(state.centroids, draft.uri if last else None)
            empty = int((sums.count == 0).sum())
            if last and not (empty and config.refill):
                break
            if state.iteration >= config.iterations + REPAIRS:
                raise InputError(
                    f"{empty:,} of {config.k:,} clusters stay empty: there are too few different features, lower k"
                )
            random = rng(seed, CENTROIDS, 1 + state.iteration)
            centroids = updated(sums, config.spherical, random, None if config.refill else state.centroids)
            filled = empty if config.refill else 0
            state = _State(centroids, np.append(state.distances, sums.distance), np.append(state.refilled, filled))
            _write(states, state)
        progress.update(config.iterations + 1)
    schema = clusters_schema(state.centroids.shape[1])
    centroids = pa.FixedSizeListArray.from_arrays(state.centroids.ravel(), type=schema.field("centroid").type)
    info = {
        "k": config.k,
        "samples": int(sums.count.sum()),
        "distances": [*state.distances.tolist(), sums.distance],
        "refilled": state.refilled.tolist(),
    }
    table = pa.Table.from_arrays([pa.array(sums.count), centroids], schema=schema)
    return Built([write_table(draft.uri, "clusters.parquet", table), *files], info)


def _start(readers: Readers, config: KMeans, seed: int) -> np.ndarray:
    """The first centroids, float32 [k, D]."""
    if config.start == "sample":
        return readers.drawn(config.k, seed).astype(np.float32)
    drawn = readers.drawn(min(SAMPLED * config.k, readers.samples), seed)
    chosen: Any = ray.remote(num_cpus=0, max_retries=3, memory=int(PROCESS_BYTES + 8 * drawn.nbytes))(_far_apart)
    return fetch(chosen.remote(drawn, config.k, seed))


def _far_apart(feature: np.ndarray, k: int, seed: int) -> np.ndarray:
    """k of the features float16 [n, D], as float32, by k-means++."""
    from sklearn.cluster import kmeans_plusplus

    drawn = int(rng(seed, CENTROIDS, 0).integers(2**32))
    return kmeans_plusplus(feature.astype(np.float32), k, random_state=drawn)[0]


def _write(folder: str, state: _State) -> None:
    out = io.BytesIO()
    np.savez(out, **vars(state))
    write_file(f"{folder}/{state.iteration:06d}.npz", out.getbuffer())


def _latest(folder: str) -> _State | None:
    """The state that was written last."""
    names = [name for name in list_files(folder) if re.fullmatch(r"\d{6}\.npz", name)]
    if not names:
        return None
    with np.load(io.BytesIO(read_file(f"{folder}/{names[-1]}"))) as found:
        return _State(**found)
