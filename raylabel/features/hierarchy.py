"""Two levels of clusters, for many of them: a feature is assigned to the nearest branch, and then to the nearest of the
clusters that this branch has. That takes b + k / b comparisons for each feature, and not k.

As in a vocabulary tree (Nister & Stewenius 2006, §3) of two levels. Caron et al. 2019 (arXiv 1905.01278, §3) cluster
hierarchically to have many pseudo-labels.

Letters: b branches, D numbers of a feature, k clusters, n features that were drawn.
"""

import io
from dataclasses import dataclass

import numpy as np

from raylabel.features.lloyd import Centroids
from raylabel.store.files import list_files, read_file, write_file


@dataclass(frozen=True)
class Branches:
    """The upper level, which does not change any more, and how many clusters each branch has."""

    centroids: np.ndarray
    """float32 [b, D]"""
    first: np.ndarray
    """int64 [b + 1]: branch i has the clusters from first[i] to first[i + 1]."""

    @classmethod
    def of(cls, centroids: np.ndarray, sizes: np.ndarray, k: int) -> "Branches":
        """`sizes`: int64 [b], features of each branch. It gets clusters in proportion to them, and at least one."""
        wanted = 1 + (k - len(sizes)) * sizes / sizes.sum()
        return cls(centroids, np.append(0, np.floor(np.cumsum(wanted) + 0.5)).astype(np.int64))

    @property
    def of_cluster(self) -> np.ndarray:
        """int64 [k]: the branch of each cluster."""
        return np.repeat(np.arange(len(self.centroids)), np.diff(self.first))

    def start(self, drawn: np.ndarray) -> np.ndarray:
        """The first centroids, float32 [k, D]: of each branch, the first ones of `drawn`, float16 [n, D], that are in
        it. If it has too few of these, the others are its own centroid: they are empty, until they are refilled."""
        found = self.centroids[self.of_cluster]
        at, _ = Centroids(self.centroids, "cpu").assigned(drawn.astype(np.float32))
        for branch, (begin, end) in enumerate(zip(self.first[:-1], self.first[1:], strict=True)):
            own = drawn[at == branch][: end - begin]
            found[begin : begin + len(own)] = own
        return found

    def write(self, folder: str, start: np.ndarray) -> None:
        """Writes it, with the first centroids of its clusters."""
        out = io.BytesIO()
        np.savez(out, centroids=self.centroids, first=self.first, start=start)
        write_file(f"{folder}/branches.npz", out.getbuffer())


def read_branches(folder: str) -> tuple[Branches, np.ndarray] | None:
    """What `Branches.write` wrote, if it did."""
    if "branches.npz" not in list_files(folder):
        return None
    with np.load(io.BytesIO(read_file(f"{folder}/branches.npz"))) as found:
        return Branches(found["centroids"], found["first"]), found["start"]
