"""Small copies of pictures, from which near-duplicates are found: pixels → thumbnails, and the descriptors of these.

They need no network, so they do not depend on what a network has learned to see as equal. docs/leaks.md
compares them with the features of a network.

Letters: B pictures, H W pixels, S = SIDE, M clips of a video, T frames of a clip.
"""

from typing import Any

import numpy as np

from raylabel.schema import THUMBNAIL_SIDE

SIDE = THUMBNAIL_SIDE
"""Pixels of a side. A smaller view has too little detail to tell pictures apart: thousands of different 8 x 8 digits
are as similar as a picture and its JPEG."""
COARSE = 8
"""Pixels of a side of a descriptor: so few that a crop of some percent hardly changes it."""


def has_thumbnails(size: int) -> bool:
    """Whether pictures of a view with sides of `size` pixels are large enough."""
    return size >= SIDE


def thumbnails(pixels: Any) -> Any:
    """uint8 [B, S * S * 3], on the device of the pixels uint8 [B, H, W, 3], or [B, M, T, H, W, 3] of videos: of these
    the middle frame of the middle clip."""
    import torch

    if pixels.ndim == 6:
        pixels = pixels[:, pixels.shape[1] // 2, pixels.shape[2] // 2]
    mean = torch.nn.functional.adaptive_avg_pool2d(pixels.permute(0, 3, 1, 2).float(), SIDE)
    return mean.permute(0, 2, 3, 1).flatten(1).round().to(torch.uint8)


def descriptors(thumbnails: np.ndarray) -> np.ndarray:
    """float16 [B, 192] of thumbnails uint8 [B, S * S * 3]: means of 3 x 3 pixels, without the mean of each colour, of
    unit length. It is zero for a picture of one colour. The cosine of two of them is the correlation of the pictures
    at 8 x 8 pixels, which does not depend on brightness and contrast."""
    step = SIDE // COARSE
    small = thumbnails.reshape(-1, COARSE, step, COARSE, step, 3).astype(np.float32).mean(axis=(2, 4))
    small -= small.mean(axis=(1, 2), keepdims=True)
    flat = small.reshape(len(small), COARSE * COARSE * 3)
    norm = np.linalg.norm(flat, axis=1, keepdims=True)
    # Below a hundredth of a grey level per number there is nothing but rounding.
    return np.where(norm > 0.01 * np.sqrt(flat.shape[1]), flat / np.maximum(norm, 1e-6), 0).astype(np.float16)
