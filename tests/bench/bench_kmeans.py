"""K-means on Ray against faiss on the same cores: speed, the distance that is reached, and memory.

    python tests/bench/bench_kmeans.py                       # 1 million features of 256 numbers, k = 2,000
    python tests/bench/bench_kmeans.py --branches 45        # the same in two levels
    python tests/bench/bench_kmeans.py --samples 10000000 --clusters 10000 --iterations 1 --rounds 1 --arms streamed
    python tests/bench/bench_kmeans.py --samples 1000000 --clusters 10000 --iterations 1 --rounds 1 --arms streamed
    python tests/bench/bench_kmeans.py --quick

Features of unit length around k centres, in files of 65,536. faiss.Kmeans gets them as one float32 matrix in memory and
takes no sub-sample; both begin with the same features, and the arms are interleaved. The arm `streamed` has readers
that keep nothing in memory, and read all features from the page cache in each iteration. The memory is that of the
largest reader at its end.
"""

import argparse
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from figures import interleave, print_ratio, print_value
from processes import CORES, connect, in_fresh_process

from raylabel.features import readers
from raylabel.features.kmeans import KMeans, cluster
from raylabel.rng import mixed
from raylabel.schema import features_schema, make_key
from raylabel.store.artifact import Artifact, Built, Draft, Root, write_table

WIDTH, ROWS, SEED = 256, 65_536, 0
ARMS = ("faiss", "raylabel", "streamed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--clusters", type=int, default=2_000)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--branches", type=int, default=0, help="of the arms of raylabel")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--quick", action="store_true", help="a tenth of the features, 200 clusters, one round")
    given = parser.parse_args()
    samples, k, rounds = given.samples, given.clusters, given.rounds
    if given.quick:
        samples, k, rounds = samples // 10, 200, 1
    iterations, branches, arms = given.iterations, given.branches, given.arms
    with tempfile.TemporaryDirectory(prefix="bench-kmeans-") as folder:
        uri = in_fresh_process(make, folder, samples, k).uri
        found: dict[str, dict[str, Any]] = {}

        def arm(name: str, function: Any, *more: Any) -> float:
            found[name] = in_fresh_process(function, folder, uri, k, iterations, *more)
            return samples * iterations / found[name]["seconds"]

        every = {
            "faiss": lambda: arm("faiss", by_faiss),
            "raylabel": lambda: arm("raylabel", by_raylabel, branches, True),
            "streamed": lambda: arm("streamed", by_raylabel, branches, False),
        }
        rates = interleave({name: every[name] for name in arms}, rounds)
    of = f"{samples:,} x {WIDTH}, k = {k:,}, {iterations} iterations" + (f", {branches} branches" if branches else "")
    for name in [name for name in arms if name != "faiss"]:
        print_value("kmeans", f"{name}, {of}: memory of the largest reader", [found[name]["memory"] / 1e6], "MB")
        print_value("kmeans", f"{name}, {of}: duration", [samples * iterations / rate for rate in rates[name]], "s")
        if "faiss" in arms:
            print_ratio("kmeans", f"{name}, {of}: features/s", "faiss.Kmeans", rates[name], rates["faiss"])
            ratio = found[name]["distance"] / found["faiss"]["distance"]
            print_value("kmeans", f"{name}, {of}: mean squared distance / that of faiss", [ratio], "x", "faiss.Kmeans")


def make(folder: str, samples: int, k: int) -> Artifact:
    """FEATURES around k centres, of several sizes."""
    random = np.random.default_rng(SEED)
    centres = random.standard_normal((k, WIDTH)).astype(np.float32)
    share = random.dirichlet(np.full(k, 2.0))

    def build(draft: Draft) -> Built:
        schema, files = features_schema(WIDTH), []
        for shard, first in enumerate(range(0, samples, ROWS)):
            n = min(ROWS, samples - first)
            found = centres[random.choice(k, n, p=share)] + 1.5 * random.standard_normal((n, WIDTH), np.float32)
            norm = np.linalg.norm(found, axis=1)
            unit = (found / norm[:, None]).astype(np.float16)
            columns = [
                pa.array(make_key(shard, 0) + np.arange(n)),
                pa.array([b"0" * 16] * n, schema.field("digest").type),
                pa.array(np.zeros(n, np.int64)),
                pa.FixedSizeListArray.from_arrays(pa.array(unit.ravel()), type=schema.field("feature").type),
                pa.array(norm),
            ]
            table = pa.Table.from_arrays(columns, schema=schema)
            files.append(write_table(draft.uri, f"features-{shard:06d}.parquet", table))
        return Built(files, {"scored": samples, "p": WIDTH})

    return Root.open(f"{folder}/root").make("features", {"samples": samples, "k": k}, build)


def by_faiss(folder: str, uri: str, k: int, iterations: int) -> dict[str, Any]:
    import faiss

    features, samples = stored(uri)
    matrix, keys = np.empty((samples, WIDTH), np.float32), np.empty(samples, np.int64)
    at = 0
    for file in features.files("features-"):
        with features.opened(file) as opened:
            table = opened.read(["key", "feature"])
            rows = slice(at, at := at + len(table))
            keys[rows] = table["key"].to_numpy()
            matrix[rows] = table["feature"].combine_chunks().flatten().to_numpy().reshape(-1, WIDTH)
    first = matrix[np.argsort(mixed(keys, SEED), kind="stable")[:k]]
    faiss.omp_set_num_threads(CORES)
    means = faiss.Kmeans(WIDTH, k, niter=iterations, max_points_per_centroid=samples, min_points_per_centroid=1)
    start = time.monotonic()
    means.train(matrix, init_centroids=first)
    seconds = time.monotonic() - start
    return {"seconds": seconds, "distance": float(means.index.search(matrix, 1)[0].mean())}


def by_raylabel(folder: str, uri: str, k: int, iterations: int, branches: int, keep: bool) -> dict[str, Any]:
    connect()
    features, _ = stored(uri)
    readers.SHARE = readers.SHARE if keep else 0.0
    memory, end = list[int](), readers.Readers.__exit__

    def measured(self: readers.Readers, *error: Any) -> None:
        memory.append(most_resident("ray::_Reader"))
        end(self, *error)

    setattr(readers.Readers, "__exit__", measured)  # noqa: B010  (a type checker refuses the assignment)
    with tempfile.TemporaryDirectory(dir=folder) as root:
        start = time.monotonic()
        made = cluster(Root.open(root), features, KMeans(k=k, iterations=iterations, branches=branches), SEED)
        seconds = time.monotonic() - start
    return {"seconds": seconds, "distance": made.info["distances"][-1], "memory": memory[0]}


def stored(uri: str) -> tuple[Artifact, int]:
    name, _, digest = uri.rpartition("/")[2].rpartition("-")
    found = Artifact(uri, name, digest)
    return found, found.info["scored"]


def most_resident(name: str) -> int:
    """The most memory that one of the processes whose names begin so has had, in bytes."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cmdline").read_bytes().startswith(name.encode()):
                status = (process / "status").read_text()
                found += [1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
    return max(found)


if __name__ == "__main__":
    main()
