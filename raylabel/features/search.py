"""Exact search for near-duplicates: features → the reference features that are at least as similar as a threshold.

Letters: B features that are searched for, E reference features, D numbers of a feature, n pairs.

Almost no sample of a corpus is similar to one of a test set. So a matrix product in low precision, the screen, finds
the few pairs that may be similar enough, and only these are computed exactly. The error of the screen is bounded, so
no pair is lost. The corpus streams past the references, which are in memory: that needs no index, and has the speed
of the matrix product. (Yalniz et al. 2019 §4.1 search an index of the corpus for each test image.)
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from raylabel.errors import InputError

# More than the largest error of the screen for features of unit length. bf16 rounds each factor by at most 2^-8 of
# it, so the product is off by (2 * 2^-8 + 2^-16) |a| |b| (Cauchy-Schwarz); rounding it, and the number that it is
# compared with, adds 2^-9 each below 1; the sum of D products in float32 adds D * 2^-24, with D <= 2^15.
MARGIN = {"bf16": 2**-6, "fp32": 2**-7}
SCREENED = 1 << 20  # similarities of a block of the screen: they stay in the caches of a CPU
EXACT = 1 << 22  # numbers of the pairs that are computed exactly at a time


@dataclass(frozen=True)
class Pairs:
    """Pairs of similar features, ordered by `at`, then by `reference`."""

    at: np.ndarray
    """int64 [n]: the position of the one that was searched for."""
    reference: np.ndarray
    """int64 [n]: the position of the other."""
    similarity: np.ndarray
    """float32 [n]: their cosine."""


class References:
    """Reference features in memory, to which others are compared."""

    def __init__(self, feature: np.ndarray, threshold: float, precision: str) -> None:
        """`feature`: float16 [E, D], of unit length or zero. `precision`: of the screen, 'bf16' or 'fp32'; the pairs do
        not depend on it."""
        import torch

        if not 0 < threshold <= 1:
            raise InputError(f"the threshold is {threshold}: give a cosine above 0 and up to 1")
        self._type = torch.bfloat16 if precision == "bf16" else torch.float32
        self._all = torch.from_numpy(feature.copy())  # those of a table are read-only
        self._all_screened, self._count = self._all.to(self._type), len(feature)
        self._threshold, self._above = float(np.float32(threshold)), threshold - MARGIN[precision]

    def add(self, feature: np.ndarray) -> None:
        """Adds references float16 [n, D] after the others."""
        import torch

        end = self._count + len(feature)
        if end > len(self._all):  # room for as many again, so that adding one by one is not quadratic
            room = self._all.new_zeros(end, self._all.shape[1])
            self._all = torch.cat([self._feature, room])
            self._all_screened = torch.cat([self._screened, room.to(self._type)])
        self._all[self._count : end] = torch.from_numpy(feature)
        self._all_screened[self._count : end] = self._all[self._count : end].to(self._type)
        self._count = end

    @property
    def _feature(self) -> Any:
        return self._all[: self._count]

    @property
    def _screened(self) -> Any:
        return self._all_screened[: self._count]

    def pairs(self, feature: np.ndarray) -> Pairs:
        """All pairs of a feature float16 [B, D], of unit length or zero, and a reference whose cosine, computed in
        float64 and rounded to float32, is at least the threshold."""
        import torch

        with torch.inference_mode():
            mine = torch.from_numpy(feature.copy())
            screened, step = mine.to(self._type), max(1, SCREENED // max(1, len(mine)))
            found = [
                self._exact(mine, first, self._screen(screened, some))
                for first, some in zip(range(0, self._count, step), self._screened.split(step), strict=False)
            ]
            at, reference, similarity = (
                np.concatenate(column) if found else np.empty(0, kind)
                for column, kind in zip(zip(*found, strict=True) if found else [()] * 3, _KINDS, strict=True)
            )
        order = np.lexsort((reference, at))
        return Pairs(at[order], reference[order], similarity[order])

    def _screen(self, mine: Any, others: Any) -> tuple[Any, Any]:
        """The positions in both of the pairs that may be similar enough."""
        similarity = _product(mine, others)
        rows = (similarity.amax(1) >= self._above).nonzero()[:, 0]  # most blocks have none
        at, other = (similarity[rows] >= self._above).nonzero(as_tuple=True)
        return rows[at], other

    def _exact(self, mine: Any, first: int, pairs: tuple[Any, Any]) -> tuple[np.ndarray, ...]:
        """The pairs among these that are similar enough."""
        import torch

        at, reference = pairs[0], pairs[1] + first
        step = max(1, EXACT // mine.shape[1])
        parts = [
            (mine[a].double() * self._feature[r].double()).sum(1).float()
            for a, r in zip(at.split(step), reference.split(step), strict=True)
        ]
        similarity = torch.cat(parts)
        keep = similarity >= self._threshold
        return tuple(x[keep].numpy() for x in (at, reference, similarity))


def _product(mine: Any, others: Any) -> Any:
    """float [B, E]: all cosines."""
    import torch

    if mine.dtype == torch.float32:  # by the BLAS of numpy: PyTorch's is made for CPUs of Intel, and slower on others
        return torch.from_numpy(mine.numpy() @ others.numpy().T)
    return mine @ others.T


_KINDS = (np.int64, np.int64, np.float32)


def screen_precision() -> str:
    """The fastest one on this machine's CPU."""
    import torch

    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"  # pyright: ignore
