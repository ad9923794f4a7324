"""How much two labelings of the same samples have in common: clusters of two rounds, or clusters and true labels.

Letters: N samples, n(a, b) those with the label a in the first and b in the second labeling.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

HELD = 1 << 22  # pairs of labels that are held before equal ones are counted together


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """By the number of samples of each pair of labels."""

    nmi: float
    """Normalised mutual information, I(A; B) / sqrt(H(A) H(B)), from 0 to 1 (Caron et al. 2018 §4.1); 1 if both have a
    single label."""
    moved: float
    """Share of the samples that are not in the second label which most samples of their first label have."""

    @classmethod
    def of(cls, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> Self:
        """That of arrays of labels, int [n] each, which together have all samples in the same order."""
        codes, counts, held = np.empty(0, np.int64), np.empty(0, np.int64), list[np.ndarray]()

        def merge() -> None:
            nonlocal codes, counts
            some, each = np.unique(np.concatenate(held), return_counts=True)
            found, place = np.unique(np.concatenate([codes, some]), return_inverse=True)
            counts = np.bincount(place, np.concatenate([counts, each]), len(found)).astype(np.int64)
            codes = found
            held.clear()

        for first, second in pairs:
            held.append(first.astype(np.int64) << 32 | second.astype(np.int64))
            if sum(map(len, held)) >= HELD:
                merge()
        if held:
            merge()
        return cls._of_counts(codes >> 32, codes & 0xFFFFFFFF, counts)

    @classmethod
    def _of_counts(cls, first: np.ndarray, second: np.ndarray, counts: np.ndarray) -> Self:
        total = counts.sum()
        of_first, of_second = (np.bincount(side, counts) for side in (first, second))
        share = counts / total
        information = (share * np.log(counts * total / (of_first[first] * of_second[second]))).sum()
        entropies = [-(p * np.log(p)).sum() for p in (side[side > 0] / total for side in (of_first, of_second))]
        scale = np.sqrt(np.prod(entropies))
        nmi = float(np.clip(information / scale, 0, 1)) if scale > 0 else float(max(entropies) == 0)
        largest = np.zeros(len(of_first))
        np.maximum.at(largest, first, counts)
        return cls(nmi=nmi, moved=float(1 - largest.sum() / total))

    @property
    def info(self) -> Mapping[str, float]:
        return vars(self)
