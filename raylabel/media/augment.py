"""Random changes of training pixels besides crop and mirroring: TrivialAugment and random erasing, by torchvision.

TrivialAugment (Müller & Hutter 2021, arXiv 2103.10158): one operation, drawn uniformly from 14, with a uniform strength
in its wide range. Random erasing (Zhong et al. 2017, arXiv 1708.04896): a rectangle of 2 to 33% of the area.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image

from raylabel.media.view import View

Augment = Callable[[np.ndarray, int], np.ndarray]
"""(uint8 pixels [H, W, 3], or [T, H, W, 3] of a clip; seed) → changed pixels of that shape. A pure function."""

_ALL = 100  # seeds with which every operation is drawn


@lru_cache(maxsize=16)
def make_augment(view: View) -> Augment | None:
    """The augmentation of a view; None if it has none.

    All frames of a clip are changed in the same way. Erased pixels get the mean colour, which normalisation turns into
    zeros, except for rounding. Changes the state of torch's default generator.
    """
    if view.augment == "none" and not view.erase:
        return None
    import torch
    from torchvision import tv_tensors
    from torchvision.transforms import InterpolationMode, v2

    trivial = v2.TrivialAugmentWide(interpolation=InterpolationMode(view.interpolation))
    erasing = v2.RandomErasing(p=view.erase, value=[round(255 * mean) for mean in view.mean])  # pyright: ignore

    def on_tensor(transform: v2.Transform, pixels: np.ndarray) -> np.ndarray:
        frames = torch.from_numpy(np.array(pixels)).movedim(-1, -3)
        kind = tv_tensors.Video if pixels.ndim == 4 else tv_tensors.Image
        return transform(kind(frames)).movedim(-3, -1).numpy()

    def augment(pixels: np.ndarray, seed: int) -> np.ndarray:
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed all devices
        if view.augment == "trivial" and pixels.ndim == 3:  # by Pillow, as in torchvision's references
            pixels = np.asarray(trivial(Image.fromarray(np.ascontiguousarray(pixels))))
        elif view.augment == "trivial":
            pixels = on_tensor(trivial, pixels)
        return on_tensor(erasing, pixels) if view.erase else pixels

    return augment


def warm_up(view: View) -> None:
    """Runs every operation, so that nothing is loaded later: a child of the sandbox cannot open files."""
    if augment := make_augment(view):
        import torch

        torch.set_num_threads(1)
        for seed in range(_ALL):
            augment(np.zeros(view.train_shape, np.uint8), seed)
