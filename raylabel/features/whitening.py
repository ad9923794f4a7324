"""PCA and whitening of FEATURES (Caron et al. 2018 §3.3: 256 components, whitened, of unit length).

Letters: B features of a row group, D numbers of a feature, d numbers of a whitened one, N samples.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from raylabel.compute.progress import PatientProgress
from raylabel.compute.tasks import PROCESS_BYTES, fetch, run_tasks, wait_for
from raylabel.compute.watchdog import heartbeat
from raylabel.errors import InputError
from raylabel.schema import features_schema
from raylabel.store.artifact import Artifact, Built, Draft, File, Root, write_bytes, write_table

VERSION = 1
"""Of the numbers."""
RUN = 8
"""Files of a task that sums, and sums of a task that adds them: fixed, so that sums do not depend on the cluster."""
BLOCK = 8_192
"""Features that are summed together."""
SMALLEST = 1e-6
"""Variance of a component that is kept, relative to that of the first one: what is below is rounding."""
_WHITENING = "whitening.npz"


@dataclass(frozen=True)
class _Moments:
    count: int
    total: np.ndarray
    """float64 [D]: the sum of the features."""
    products: np.ndarray
    """float64 [D, D]: the sum of their outer products."""


def fit_whitening(root: Root, features: Artifact, width: int, scaled: bool = True) -> Artifact:
    """The artifact `whitening`: the mean of what the network computed (`feature` times `norm`), and its first `width`
    principal components, each divided by its standard deviation if `scaled`. All features are read once.

    Components that have no variance are left out. Info: p (d, how many components there are), variances (of each), and
    total (the sum of all variances). InputError if all features are equal.
    """

    def build(draft: Draft) -> Built:
        mean, variances, vectors = _components(features)
        kept = int((variances[:width] > SMALLEST * variances[0]).sum()) if variances[0] > 0 else 0
        if not kept:
            raise InputError(f"all features of {features.uri} are equal: there is nothing to whiten")
        out = io.BytesIO()
        matrix = vectors[:, :kept] / (np.sqrt(variances[:kept]) if scaled else 1)
        np.savez(out, mean=mean.astype(np.float32), matrix=matrix.astype(np.float32))
        info = {"p": kept, "variances": variances[:kept].tolist(), "total": float(variances.sum())}
        return Built([write_bytes(draft.uri, _WHITENING, out.getbuffer())], info)

    identity = {"features": features.digest, "width": width, "version": VERSION}
    return root.make("whitening", identity if scaled else identity | {"scaled": False}, build)


def whiten(root: Root, features: Artifact, whitening: Artifact) -> Artifact:
    """The artifact `whitened`: FEATURES of d numbers, those of `features` less the mean, times the components; of unit
    length, with their `norm`."""

    def build(draft: Draft) -> Built:
        files = features.files("features-")
        rows = max((file.rows for file in files), default=0)
        tasks = [(features, file, whitening, draft.uri) for file in files]
        with PatientProgress("whiten", features.info["scored"], "samples") as progress:
            made = run_tasks(
                _whiten_file,
                tasks,
                lambda share: progress.update(int(share * features.info["scored"])),
                memory=rows * (2 * features.info["p"] + 14 * whitening.info["p"]),
            )
        return Built(made, {"scored": features.info["scored"], "p": whitening.info["p"]})

    return root.make("whitened", {"features": features.digest, "whitening": whitening.digest}, build)


def _components(features: Artifact) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean float64 [D], variances float64 [D] in descending order, vectors float64 [D, D] in columns)."""
    files, width = features.files("features-"), features.info["p"]
    rows = max((file.rows for file in files), default=0)
    memory = PROCESS_BYTES + 8 * ((RUN + 3) * width + 2 * BLOCK) * width + 4 * rows * width
    sums = [_sum.options(memory=memory).remote(features, files[i : i + RUN]) for i in range(0, len(files), RUN)]
    wait_for("sum features", sums, "tasks")
    while len(sums) > 1:
        sums = [_add.options(memory=memory).remote(*sums[i : i + RUN]) for i in range(0, len(sums), RUN)]
    return fetch(_decompose.options(memory=memory).remote(sums[0]))


@ray.remote(num_cpus=1, max_retries=3)
def _sum(features: Artifact, files: Sequence[File]) -> _Moments:
    width = features.info["p"]
    count, total, products = 0, np.zeros(width), np.zeros((width, width))
    for file in files:
        heartbeat()
        with features.opened(file) as opened:
            for group in range(opened.num_row_groups):
                table = opened.read_row_group(group, ["feature", "norm"])
                for first in range(0, len(table), BLOCK):
                    x = computed(table[first : first + BLOCK]).astype(np.float64)
                    count, total, products = count + len(x), total + x.sum(0), products + x.T @ x
    return _Moments(count, total, products)


@ray.remote(num_cpus=1, max_retries=3)
def _add(*sums: _Moments) -> _Moments:
    count, total, products = sums[0].count, sums[0].total, sums[0].products
    for one in sums[1:]:
        count, total, products = count + one.count, total + one.total, products + one.products
    return _Moments(count, total, products)


@ray.remote(num_cpus=1, max_retries=3)
def _decompose(sums: _Moments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """See `_components`."""
    mean = sums.total / sums.count
    covariance = (sums.products - sums.count * np.outer(mean, mean)) / max(1, sums.count - 1)
    variances, vectors = np.linalg.eigh(covariance)
    vectors = vectors[:, ::-1]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0)
    return mean, np.maximum(variances[::-1], 0), vectors * np.sign(largest)


def computed(table: pa.Table) -> np.ndarray:
    """float32 [B, D]: what the network computed, of a table with `feature` and `norm`."""
    column = table.column("feature").combine_chunks()
    feature = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
    return feature.astype(np.float32) * table.column("norm").to_numpy()[:, None]


def _whiten_file(features: Artifact, file: File, whitening: Artifact, folder: str) -> File:
    with np.load(io.BytesIO(whitening.read(_WHITENING))) as stored:
        mean, matrix = stored["mean"], stored["matrix"]
    full, groups = features_schema(matrix.shape[1]), list[pa.Table]()
    with features.opened(file) as opened:
        schema = pa.schema([full.field(name) for name in opened.schema_arrow.names])
        for group in range(opened.num_row_groups):
            heartbeat()
            table = opened.read_row_group(group)
            found = (computed(table) - mean) @ matrix
            norm = np.linalg.norm(found, axis=1)
            unit = (found / np.maximum(norm, np.finfo(np.float32).tiny)[:, None]).astype(np.float16)
            columns: dict[str, Any] = {name: table.column(name) for name in schema.names}
            columns["feature"] = pa.FixedSizeListArray.from_arrays(unit.ravel(), type=schema.field("feature").type)
            columns["norm"] = norm
            groups.append(pa.table(columns, schema=schema))
    return write_table(folder, file.name, *(groups or [schema.empty_table()]))
