"""One iteration of k-means (Lloyd 1982) over features, with sums that do not depend on their order.

Features are float16 numbers from -1 to 1, which are multiples of 2^-24. So a sum of fewer than 2^29 of them is exact in
float64, in whatever order and in whatever parts they are added.

Letters: B features of a batch, D numbers of a feature, k clusters, N samples.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from raylabel.features.hierarchy import Branches

SPLIT = 1 / 1024
"""By which the halves of a cluster are moved apart, relative to each number of its centroid (faiss 1.15,
Clustering.cpp)."""
FIXED = 1 << 24
"""Squared distances are added as multiples of 1 / FIXED, so that their sum is exact too."""


@dataclass
class Sums:
    """Sums over some features, by their cluster."""

    feature: np.ndarray
    """float64 [k, D]"""
    count: np.ndarray
    """int64 [k]"""
    squared: int = 0
    """The sum of the squared distances to the centroids, in units of 1 / FIXED."""

    @classmethod
    def zero(cls, k: int, width: int) -> Self:
        return cls(np.zeros((k, width)), np.zeros(k, np.int64))

    def add(self, feature: np.ndarray, at: np.ndarray, squared: np.ndarray) -> None:
        """Adds features [B, D], whose numbers are those of float16, to their clusters int [B]; `squared` float32 [B]
        are the squared distances."""
        from scipy.sparse import csr_array

        clusters, position = np.unique(at, return_inverse=True)
        chosen = (np.ones(len(at)), (position, np.arange(len(at))))
        self.feature[clusters] += csr_array(chosen, shape=(len(clusters), len(at))) @ feature
        self.count += np.bincount(at, minlength=len(self.count))
        self.squared += int(np.round(squared.astype(np.float64) * FIXED).sum())

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.feature + other.feature, self.count + other.count, self.squared + other.squared)

    @property
    def distance(self) -> float:
        """The mean squared distance of a feature to its centroid, which k-means minimizes."""
        return self.squared / FIXED / int(self.count.sum())


class Centroids:
    """The centroids of an iteration on the device that assigns features to them: to the nearest one; or, with branches
    (hierarchy.py), to the nearest one of the nearest branch."""

    def __init__(self, centroids: np.ndarray, device: str, branches: "Branches | None" = None) -> None:
        """`centroids`: float32 [k, D]. `device`: 'cpu' or 'cuda'."""
        self._above, self._below = None, list[Centroids]()
        if branches:
            self._above, self._first = Centroids(branches.centroids, device), branches.first
            cuts = np.split(centroids, branches.first[1:-1])
            self._below = [Centroids(own, device) for own in cuts]
            return
        self._centroids, self._device = centroids, device
        if device == "cuda":
            import torch

            self._there = torch.from_numpy(centroids.copy()).to(device)
            self._half = (self._there**2).sum(1) / 2

    def nearest(self, feature: np.ndarray, sums: Sums) -> tuple[np.ndarray, np.ndarray]:
        """(cluster int32 [B], squared distance float32 [B]) of features float16 [B, D], which are added to `sums`."""
        single = feature.astype(np.float32)
        at, squared = self.assigned(single)
        sums.add(single, at, squared)
        return at.astype(np.int32), squared

    def assigned(self, feature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(cluster int64 [B], squared distance float32 [B]) of features float32 [B, D]."""
        if self._above is None:
            return self._on_gpu(feature) if self._device == "cuda" else self._on_cpu(feature)
        branch, squared = self._above.assigned(feature)
        at = np.empty_like(branch)
        for one in np.unique(branch):
            own = branch == one
            found, squared[own] = self._below[one].assigned(feature[own])
            at[own] = self._first[one] + found
        return at, squared

    def _on_cpu(self, feature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import faiss

        faiss.omp_set_num_threads(1)  # a reader has one CPU
        squared, at = faiss.knn(feature, self._centroids, 1)
        return at[:, 0], np.maximum(squared[:, 0], 0)

    def _on_gpu(self, feature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import torch

        x = torch.from_numpy(feature).to(self._device)
        # |x - c|^2 is least where x.c - |c|^2 / 2 is largest.
        found, at = (x @ self._there.T - self._half).max(1)
        squared = ((x**2).sum(1) - 2 * found).clamp(min=0)
        return at.cpu().numpy(), squared.cpu().numpy()


def updated(
    sums: Sums,
    spherical: bool,
    random: np.random.Generator,
    kept: np.ndarray | None = None,
    branch: np.ndarray | None = None,
) -> np.ndarray:
    """The next centroids, float32 [k, D]: the means of the clusters, of unit length if `spherical`.

    A cluster that is empty gets half of another one, as in faiss: that of a donor drawn with a probability
    proportional to its size less one; both have its centroid, moved apart by `SPLIT`. With the branch of each cluster,
    int [k], the donor is one of the same branch, and there may be none. Or else it keeps its own one of `kept`, float32
    [k, D].
    """
    found, size = sums.feature / np.maximum(sums.count, 1)[:, None], sums.count.astype(np.float64)
    if kept is not None:
        found[size == 0] = kept[size == 0]
    for empty in np.flatnonzero(size == 0) if kept is None else ():
        share = np.maximum(size - 1, 0) * (1 if branch is None else branch == branch[empty])
        if not share.any():
            continue
        donor = random.choice(len(size), p=share / share.sum())
        signs = np.where(np.arange(found.shape[1]) % 2, -SPLIT, SPLIT)
        found[empty], found[donor] = found[donor] * (1 + signs), found[donor] * (1 - signs)
        size[empty], size[donor] = size[donor] / 2, size[donor] / 2
    if spherical:
        found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return found.astype(np.float32)
