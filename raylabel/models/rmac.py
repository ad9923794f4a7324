"""R-MAC, a feature of a picture for the retrieval of others that show the same thing: regional maximum activations of a
convolution, summed (Tolias, Sicre & Jegou 2016, arXiv 1511.05879, §3.2).

Letters: B batch, K channels, H W positions of the map, R regions, D numbers of the feature.
"""

import torch
from torch import Tensor
from torch.nn import functional

LEVELS = 3
OVERLAP = 0.4
"""Of neighbouring regions of the first level, as near to it as whole numbers of regions allow."""
MOST = 7
"""Regions along the longer side in the first level, at most."""


def regions(height: int, width: int, levels: int = LEVELS) -> list[tuple[int, int, int]]:
    """(top, left, side) of the square regions of a map, level by level, from the top left on.

    A region of level l has a side of 2 min(H, W) / (l + 1), rounded down. Along the shorter side there are l of them,
    along the longer one l + m - 1, evenly from one end to the other. m is 1 for a square map, or else the number from 2
    to MOST that gives an overlap nearest to OVERLAP in the first level; of two equally near ones the larger.
    """
    short, long = sorted((height, width))
    more = 0
    if long > short:
        overlaps = [1 - (long - short) / (count - 1) / short for count in range(2, MOST + 1)]
        more = 1 + min(range(len(overlaps)), key=lambda at: (round(abs(overlaps[at] - OVERLAP), 9), -at))
    found = list[tuple[int, int, int]]()
    for level in range(1, levels + 1):
        side = max(1, 2 * short // (level + 1))
        tops, lefts = (_starts(length, side, level + (more if length > short else 0)) for length in (height, width))
        found += [(top, left, side) for top in tops for left in lefts]
    return found


def _starts(length: int, side: int, count: int) -> list[int]:
    return [(length - side) * number // (count - 1) if count > 1 else 0 for number in range(count)]


def region_vectors(x: Tensor, levels: int = LEVELS) -> Tensor:
    """[B, R, K] of a map [B, K, H, W]: the maximum of each channel in each region, of unit length."""
    boxes = regions(x.shape[-2], x.shape[-1], levels)
    found = [x[..., top : top + side, left : left + side].amax((-2, -1)) for top, left, side in boxes]
    return functional.normalize(torch.stack(found, 1), dim=2)


def rmac(vectors: Tensor, mean: Tensor | None = None, matrix: Tensor | None = None) -> Tensor:
    """[B, D] of region vectors [B, R, K], of unit length: their sum. With mean [K] and matrix [K, D] each is whitened
    before, and of unit length again."""
    if mean is not None and matrix is not None:
        vectors = functional.normalize((vectors - mean) @ matrix, dim=2)
    return functional.normalize(vectors.sum(1), dim=1)
