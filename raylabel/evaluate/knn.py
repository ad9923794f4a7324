"""k nearest neighbours in features: the votes of the most similar labeled samples (Wu et al. 2018, arXiv 1805.01978
§3.4, as in DINO).

Letters: N labeled samples, B queries, D numbers of a feature, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from raylabel.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Knn:
    """How the labels of the nearest neighbours are counted."""

    k: int = 20
    """Neighbours, at most all labeled samples."""
    temperature: float = 0.07
    """A neighbour's vote is exp(similarity / temperature), with the cosine of both features as their similarity."""

    def check(self, name: str) -> None:
        """InputError if a field is invalid. `name` is that of this config in the recipe."""
        if self.k < 1:
            raise InputError(f"{name}.k is {self.k}: give at least 1 neighbour")
        if not self.temperature > 0:
            raise InputError(f"{name}.temperature is {self.temperature}: give a positive number")


def knn_classifier(
    feature: np.ndarray, label: np.ndarray, classes: int, config: Knn, gpu: bool = False
) -> Callable[[np.ndarray], np.ndarray]:
    """A function from features of unit length [B, D] to log probabilities float32 [B, C]: the share of each class in
    the votes, whose logarithm is -inf without a vote. `feature`: of unit length [N, D]; `label`: int64 [N]. The search
    is exact."""
    import faiss

    labeled, k = np.ascontiguousarray(feature, np.float32), min(config.k, len(feature))

    def classify(queries: np.ndarray) -> np.ndarray:
        asked = np.ascontiguousarray(queries, np.float32)
        if gpu:
            metric, resources = faiss.METRIC_INNER_PRODUCT, faiss.StandardGpuResources()
            similarity, at = faiss.knn_gpu(resources, asked, labeled, k, metric=metric)
        else:
            similarity, at = faiss.knn(asked, labeled, k, metric=faiss.METRIC_INNER_PRODUCT)
        votes = np.exp((similarity.astype(np.float64) - similarity[:, :1]) / config.temperature)
        total = np.zeros((len(asked), classes))
        np.add.at(total, (np.arange(len(asked))[:, None], label[at]), votes)
        with np.errstate(divide="ignore"):
            return np.log(total / total.sum(1, keepdims=True)).astype(np.float32)

    return classify
