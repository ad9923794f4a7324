"""Readers of FEATURES: actors that assign features to centroids, and keep what they have read as far as memory allows.

Letters: B features of a block, D numbers of a feature, k clusters.
"""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import ray

from raylabel.compute.gpu import use_full_float32
from raylabel.compute.resources import Cluster
from raylabel.compute.tasks import PROCESS_BYTES, fetch
from raylabel.compute.watchdog import heartbeat
from raylabel.features.clusters import ASSIGNED
from raylabel.features.hierarchy import Branches
from raylabel.features.lloyd import Centroids, Sums
from raylabel.prefetch import ahead
from raylabel.rng import mixed
from raylabel.store.artifact import Artifact, File, write_table

BLOCK = 8_192
"""Features that are assigned together. A block is part of one row group, so it does not depend on the readers."""
SHARE = 0.4
"""Of a node's memory that its readers keep features in."""
Block = tuple[np.ndarray, np.ndarray]
"""(keys int64 [B], features float16 [B, D])"""


class Readers:
    """The actors of a clustering, as a context: each reads some files, in each pass again what it could not keep.

    An actor that dies with its node is started again, and reads its files again.
    """

    def __init__(self, features: Artifact, count: int, clusters: int, on_gpus: bool = True) -> None:
        """`count`: of actors; 0: one for each GPU, or else for each CPU. `clusters`: k. `on_gpus`: use those of the
        cluster, if it has some."""
        cluster, files, width = Cluster.now(), features.files("features-"), features.info["p"]
        self.samples: int = features.info["scored"]
        self.width: int = width
        gpus = cluster.gpus if on_gpus else 0
        count = max(1, min(count or gpus or cluster.cpus, len(files)))
        shares = [files[number::count] for number in range(count)]
        whole = max(sum(file.rows for file in share) for share in shares) * 2 * width
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus = min(1.0, int(100 * cluster.cpus / count) / 100)  # all run at once: the sums are added by them
        room = cpus * min(node["memory"] / max(1, node.get("GPU" if gpus else "CPU", 1)) for node in nodes)
        self.kept = int(min(whole, SHARE * room))
        """Bytes of features that an actor keeps."""
        memory = PROCESS_BYTES + self.kept + 4 * 8 * clusters * width
        needs = {"num_cpus": cpus, "num_gpus": 1 if gpus else 0, "memory": int(min(memory, room))}
        remote: Any = ray.remote(_Reader)
        remote = remote.options(max_restarts=-1, max_task_retries=-1, **needs)
        self._actors = [remote.remote(features, share, self.kept) for share in shares]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for actor in self._actors:
            ray.kill(actor)

    def drawn(self, count: int, seed: int) -> Any:
        """A reference to float16 [count, D]: features drawn at random, those whose keys have the lowest hashes, in that
        order. The driver does not hold them."""
        hashes = self._reduced([a.hashes.remote(count, seed) for a in self._actors], "lowest", count)
        limit = fetch(self._actors[0].largest.remote(hashes))
        found = [a.drawn.remote(limit, seed) for a in self._actors]
        memory = int(PROCESS_BYTES + 3 * count * (8 + 2 * self.width))
        return _in_order.options(memory=memory).remote(count, *found)

    def assign(
        self, centroids: np.ndarray, folder: str | None = None, branches: Branches | None = None
    ) -> tuple[Sums, list[File]]:
        """The sums over all features by their nearest centroid, of float32 [k, D]; or by the nearest one of their
        branch. With a folder, ASSIGNED is written to it, one file for each of FEATURES."""
        sent = ray.put((centroids, branches))
        found = [actor.assign.options(num_returns=2).remote(sent, folder) for actor in self._actors]
        files = [file for _, some in found for file in fetch(some)]
        sums = [one for one, _ in found]
        return fetch(self._reduced(sums, "added")), files

    def _reduced(self, found: list[Any], method: str, *more: Any) -> Any:
        """A reference to what a method of the actors makes of all `found`, two at a time."""
        while len(found) > 1:
            pairs = zip(self._actors, found[::2], found[1::2], strict=False)
            made = [getattr(actor, method).remote(*pair, *more) for actor, *pair in pairs]
            found = made + found[len(found) // 2 * 2 :]
        return found[0]


@ray.remote(num_cpus=0, max_retries=3)  # the actors have all CPUs, and wait
def _in_order(count: int, *found: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The features with the `count` lowest hashes, of (hashes uint64 [n], features float16 [n, D])."""
    order = np.argsort(np.concatenate([hashed for hashed, _ in found]), kind="stable")[:count]
    return np.concatenate([feature for _, feature in found])[order]


class _Reader:
    """Reads some files of FEATURES."""

    def __init__(self, features: Artifact, files: Sequence[File], kept: int) -> None:
        self._features, self._files = features, files
        self._room, self._kept = kept, dict[str, list[Block]]()
        self._device = "cuda" if ray.get_gpu_ids() else "cpu"
        if self._device == "cuda":
            use_full_float32()

    def hashes(self, count: int, seed: int) -> np.ndarray:
        """uint64 [<= count]: the lowest hashes of the keys."""
        found = np.empty(0, np.uint64)
        for file in self._files:
            heartbeat()
            with self._features.opened(file) as opened:
                key = opened.read(["key"]).column("key").to_numpy()
            found = self.lowest(found, mixed(key, seed), count)
        return found

    def lowest(self, one: np.ndarray, other: np.ndarray, count: int) -> np.ndarray:
        """The `count` lowest of both, or all if there are fewer, in any order."""
        both = np.concatenate([one, other])
        return np.partition(both, count - 1)[:count] if len(both) > count else both

    def largest(self, hashes: np.ndarray) -> np.uint64:
        return hashes.max()

    def drawn(self, limit: np.uint64, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """(hashes uint64 [n], features float16 [n, D]) up to this hash."""
        hashes, found = [np.empty(0, np.uint64)], [np.empty((0, self._features.info["p"]), np.float16)]
        for _, blocks in self._read():
            for key, feature in blocks:
                hashed = mixed(key, seed)
                hashes.append(hashed[hashed <= limit])
                found.append(feature[hashed <= limit])
        return np.concatenate(hashes), np.concatenate(found)

    def assign(self, given: tuple[np.ndarray, Branches | None], folder: str | None) -> tuple[Sums, list[File]]:
        """See `Readers.assign`."""
        centroids, branches = given
        there = Centroids(centroids, self._device, branches)
        sums, files = Sums.zero(*centroids.shape), list[File]()
        for name, blocks in self._read():
            columns: list[tuple[np.ndarray, ...]] = []
            for key, feature in blocks:
                heartbeat()
                found = there.nearest(feature, sums)
                if folder:
                    columns.append((key, *found))
            if folder:
                joined = [np.concatenate(column) for column in zip(*columns, strict=True)] if columns else [[]] * 3
                table = pa.Table.from_arrays(
                    [pa.array(c, f.type) for c, f in zip(joined, ASSIGNED, strict=True)], schema=ASSIGNED
                )
                files.append(write_table(folder, name.replace("features-", "assigned-"), table))
        return sums, files

    def added(self, one: Sums, other: Sums) -> Sums:
        return one + other

    def _read(self) -> Iterator[tuple[str, list[Block]]]:
        """Each file's name and blocks; the next file is read ahead."""
        yield from ahead(((file.name, self._blocks(file)) for file in self._files), depth=1)

    def _blocks(self, file: File) -> list[Block]:
        heartbeat()
        if file.name in self._kept:
            return self._kept[file.name]
        blocks = list[Block]()
        with self._features.opened(file) as opened:
            for group in range(opened.num_row_groups):
                table = opened.read_row_group(group, ["key", "feature"])
                column = table.column("feature").combine_chunks()
                key = table.column("key").to_numpy()
                feature = column.flatten().to_numpy().reshape(len(key), column.type.list_size)
                blocks += [(key[i : i + BLOCK], feature[i : i + BLOCK]) for i in range(0, len(key), BLOCK)]
        size = sum(feature.nbytes for _, feature in blocks)
        if size <= self._room:
            self._room -= size
            self._kept[file.name] = blocks
        return blocks
