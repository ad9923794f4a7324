"""Partitions of a feature space: similar features are in a common partition, so that only its own are compared.

A feature belongs to the PROBES nearest of k centroids. K-means alone separates 7 to 11% of the near-duplicates; nearly
all of them have one of three centroids in common: docs/leaks.md has the figures.

Letters: B features, D numbers of a feature, k centroids.
"""

import numpy as np

PROBES = 3
TRAINED = 64  # features per centroid that k-means learns from
ITERATIONS = 10


def centroids_of(feature: np.ndarray, k: int) -> np.ndarray:
    """float32 [k, D] of unit length, by spherical k-means over features float16 [B, D]."""
    import faiss

    faiss.omp_set_num_threads(1)  # a task has one CPU; and the sums do not depend on the number of threads
    count, width = feature.shape
    k = min(k, count)
    means = faiss.Kmeans(
        width, k, niter=ITERATIONS, seed=0, spherical=True, min_points_per_centroid=1, max_points_per_centroid=TRAINED
    )
    means.train(np.ascontiguousarray(feature, np.float32))
    return np.array(means.centroids).reshape(k, width)


def nearest(feature: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """int64 [B, min(PROBES, k)]: the partitions of each feature, the nearest one first."""
    import faiss

    faiss.omp_set_num_threads(1)
    probes = min(PROBES, len(centroids))
    asked = np.ascontiguousarray(feature, np.float32)
    return faiss.knn(asked, centroids, probes, metric=faiss.METRIC_INNER_PRODUCT)[1]
