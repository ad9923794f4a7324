"""Small copies of pictures, from which near-duplicates are found: pixels → thumbnails, and the descriptors of these.

They need no network, so they do not depend on what a network has learned to see as equal. docs/leaks.md
compares them with the features of a network.

Letters: B pictures, H W pixels, S = SIDE, M clips of a video, T frames of a clip.
"""

from functools import cache
from typing import Any

import numpy as np

from raylabel.schema import THUMBNAIL_SIDE

SIDE = THUMBNAIL_SIDE
"""Pixels of a side. A smaller view has too little detail to tell pictures apart: thousands of different 8 x 8 digits
are as similar as a picture and its JPEG."""
COARSE = 8
"""Pixels of a side of a descriptor: so few that a crop of some percent hardly changes it."""
BLOCK = 512  # thumbnails
POWER, CHROMA = 0.75, 4.0
"""Weights of frequencies, and of colour beside brightness, in a descriptor. Chosen on pairs of `dups-dev`, `flowers`
and `cifar10`: see docs/leaks.md."""


def has_thumbnails(size: int) -> bool:
    """Whether pictures of a view with sides of `size` pixels are large enough."""
    return size >= SIDE


def thumbnails(pixels: Any) -> Any:
    """uint8 [B, S * S * 3], on the device of the pixels uint8 [B, H, W, 3], or [B, M, T, H, W, 3] of videos: of these
    the middle frame of the middle clip."""
    import torch

    if pixels.ndim == 6:
        pixels = pixels[:, pixels.shape[1] // 2, pixels.shape[2] // 2]
    # As `adaptive_avg_pool2d`, to the bit, which takes four times as long: first rows, and of fewer numbers columns.
    rows, columns = (_windows(side) for side in pixels.shape[1:3])
    total = torch.stack([pixels[:, first:end].sum(1, dtype=torch.int32) for first, end in rows], 1)
    total = torch.stack([total[:, :, first:end].sum(2, dtype=torch.int32) for first, end in columns], 2)
    high, wide = (torch.tensor([end - first for first, end in some], device=pixels.device) for some in (rows, columns))
    mean = total.float() / high[:, None, None] / wide[:, None]
    return mean.flatten(1).round().to(torch.uint8)


def _windows(side: int) -> list[tuple[int, int]]:
    """The pixels of each pixel of a thumbnail, along one side of a picture."""
    return [(i * side // SIDE, -(-(i + 1) * side // SIDE)) for i in range(SIDE)]


def descriptors(thumbnails: np.ndarray) -> np.ndarray:
    """float16 [B, 192] of thumbnails uint8 [B, S * S * 3]: the cosine transform of the picture at 8 x 8 pixels,
    weighted and of unit length. It is zero for a picture of one colour.

    Brightness does not change it, nor does contrast. In pictures of nature the amplitude falls with the frequency
    (Field 1987), and colours are nearly the same everywhere, so that the correlation of pixels is mostly that of a few
    large areas, which are alike in thousands of pictures. With these weights all details count, as after whitening: a
    fifth as many pairs of different pictures are as similar as copies are (CIFAR-10)."""
    # In blocks that fit into the caches of a CPU: as floats, a million thumbnails are 7 GB.
    blocks = [thumbnails[first : first + BLOCK] for first in range(0, len(thumbnails), BLOCK)]
    return np.concatenate([np.empty((0, COARSE * COARSE * 3), np.float16), *map(_descriptors, blocks)])


def _descriptors(thumbnails: np.ndarray) -> np.ndarray:
    step = SIDE // COARSE
    small = thumbnails.reshape(-1, COARSE, step, COARSE, step, 3).astype(np.float32).mean(axis=(2, 4))
    flat = small.reshape(len(small), COARSE * COARSE * 3)
    found = flat @ _weighted()
    norm = np.linalg.norm(found, axis=1, keepdims=True)
    # Below a hundredth of a grey level per number there is nothing but rounding.
    return np.where(norm > 0.01 * np.sqrt(flat.shape[1]), found / np.maximum(norm, 1e-6), 0).astype(np.float16)


@cache
def _weighted() -> np.ndarray:
    """float32 [192, 192]: pixels by row, column and colour → weighted amplitudes."""
    along = np.arange(COARSE)
    cosines = np.cos(np.pi * (2 * along + 1) * along[:, None] / (2 * COARSE)) * np.sqrt(2 / COARSE)
    cosines[0] /= np.sqrt(2)
    frequency = np.hypot(along[:, None], along)
    weights = frequency**POWER  # 0 for the mean
    axes = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2]]) / np.sqrt([[3], [2], [6]])  # brightness, and two of colour
    axes *= np.array([[1], [CHROMA], [CHROMA]])
    product = np.einsum("kl,ki,lj,dc->ijckld", weights, cosines, cosines, axes)
    return product.reshape((COARSE * COARSE * 3,) * 2).astype(np.float32)
