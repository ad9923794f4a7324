"""K-means over FEATURES that need not fit into the memory of a machine (Lloyd 1982).

Each iteration sends the centroids to readers, which assign their features to the nearest ones and return sums. The sums
are exact, so that the centroids do not depend on how many readers there are.

Letters: b branches, D numbers of a feature, k clusters.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import ray

from raylabel.compute.progress import PatientProgress
from raylabel.compute.tasks import PROCESS_BYTES, fetch
from raylabel.errors import InputError
from raylabel.features.clusters import clusters_schema
from raylabel.features.hierarchy import Branches, read_branches
from raylabel.features.lloyd import Sums, updated
from raylabel.features.readers import Readers
from raylabel.rng import CENTROIDS, rng
from raylabel.store.artifact import ADDED_LATER, Artifact, Built, Draft, File, Root, identity_of, write_table
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
    apart (Arthur and Vassilvitskii 2007), among 16 k features drawn at random; with branches, those of the branches."""
    spherical: bool = False
    """Whether centroids have unit length, as features have; then the nearest one has the largest cosine."""
    branches: int = field(default=0, metadata=ADDED_LATER)
    """b, for two levels: first so many clusters are found, and then within each of them its share of the k clusters. An
    iteration takes b + k / b comparisons for each feature instead of k; so b is best near the root of k. 0: one level,
    as in the paper."""
    refill: bool = field(default=True, metadata=ADDED_LATER)
    """Whether empty clusters take half of another one. Without it they may stay empty: a control."""

    def check(self, name: str) -> None:
        """InputError if a field is invalid. `name` is that of this config in the recipe."""
        for key, least in (("k", 2), ("iterations", 1)):
            if type(value := getattr(self, key)) is not int or value < least:
                raise InputError(f"{name}.{key} is {value!r}: give a whole number of at least {least}")
        if self.start not in get_args(Start):
            raise InputError(f"{name}.start is {self.start!r}: give {' or '.join(get_args(Start))}")
        if type(b := self.branches) is not int or b and not 2 <= b <= self.k // 2:
            raise InputError(f"{name}.branches is {b!r}: give 0, or a whole number from 2 to half of k, {self.k // 2}")


@dataclass(frozen=True)
class _State:
    """What an iteration begins with; after the last one, the result."""

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
    branches, start = _branches(draft, readers, config, seed) if config.branches else (None, None)
    state = _latest(states) or _first(_start(readers, config, seed) if start is None else start)
    level = _Level("cluster", states, config, seed, branches)
    state, sums, files = _iterate(readers, level, state, draft.uri)
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


def _branches(draft: Draft, readers: Readers, config: KMeans, seed: int) -> tuple[Branches, np.ndarray]:
    """The upper level, and the first centroids of the lower one, float32 [k, D]."""
    folder = draft.scratch("branches")
    if found := read_branches(folder):
        return found
    upper = replace(config, k=config.branches)
    state = _latest(folder) or _first(_start(readers, upper, seed))
    state, sums, _ = _iterate(readers, _Level("find branches", folder, upper, seed), state, None)
    branches = Branches.of(state.centroids, sums.count, config.k)
    start = _of_drawn(readers, config.k, seed, branches.start)
    branches.write(folder, start)
    return branches, start


@dataclass(frozen=True)
class _Level:
    """What is iterated."""

    name: str
    """In the lines of progress."""
    states: str
    """The folder of the states."""
    config: KMeans
    seed: int
    branches: Branches | None = None
    """Of clusters within branches."""


def _iterate(readers: Readers, level: _Level, state: _State, folder: str | None) -> tuple[_State, Sums, list[File]]:
    """All iterations from a state on: the last state, its sums, and the files of ASSIGNED that are written to the
    folder."""
    config, branches = level.config, level.branches
    of_cluster = branches.of_cluster if branches else None
    stream = config.iterations + REPAIRS if branches else 0  # of other random numbers than those of the level above
    with PatientProgress(level.name, config.iterations + 1, "iterations") as progress:
        while True:
            progress.update(min(state.iteration, config.iterations))
            last = state.iteration >= config.iterations
            sums, files = readers.assign(state.centroids, folder if last else None, branches)
            empty = int((sums.count == 0).sum())
            if last and not (empty and config.refill):
                progress.update(config.iterations + 1)
                return state, sums, files
            if state.iteration >= config.iterations + REPAIRS:
                raise InputError(
                    f"{empty:,} of {config.k:,} clusters stay empty: there are too few different features, lower k"
                )
            random = rng(level.seed, CENTROIDS, 1 + stream + state.iteration)
            kept = None if config.refill else state.centroids
            centroids = updated(sums, config.spherical, random, kept, of_cluster)
            filled = empty if config.refill else 0
            state = _State(centroids, np.append(state.distances, sums.distance), np.append(state.refilled, filled))
            _write(level.states, state)


def _first(centroids: np.ndarray) -> _State:
    return _State(centroids, np.empty(0), np.empty(0, np.int64))


def _start(readers: Readers, config: KMeans, seed: int) -> np.ndarray:
    """The first centroids, float32 [k, D]."""
    if config.start == "sample":
        return fetch(readers.drawn(config.k, seed)).astype(np.float32)
    return _of_drawn(readers, config.k, seed, partial(_far_apart, k=config.k, seed=seed))


def _of_drawn(readers: Readers, k: int, seed: int, choose: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """What a function makes of `SAMPLED` k features drawn at random, in a task: the driver holds its result alone."""
    count = min(SAMPLED * k, readers.samples)
    memory = int(PROCESS_BYTES + 16 * count * readers.width)
    task: Any = ray.remote(num_cpus=0, max_retries=3, memory=memory)(_chosen)
    return fetch(task.remote(choose, readers.drawn(count, seed)))


def _chosen(choose: Callable[[np.ndarray], np.ndarray], drawn: np.ndarray) -> np.ndarray:
    return choose(drawn)


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
