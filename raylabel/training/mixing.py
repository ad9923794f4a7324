"""Batches of mixed pictures: mixup (Zhang et al. 2017, arXiv 1710.09412) and CutMix (Yun et al. 2019, 1905.04899)."""

from collections.abc import Callable
from typing import Any

from raylabel.training.config import Train


def make_mix(config: Train, classes: int) -> Callable[[Any, Any], tuple[Any, Any]]:
    """A function (pixels [B, C, H, W] or of clips [B, C, T, H, W], labels [B] or targets [B, classes]) → (mixed pixels,
    targets [B, classes]); both as they are if nothing is mixed.

    Each picture is mixed with its neighbor in the worker's share of the batch, all of a share by the same proportion.
    If both kinds are given, each share is of one of them, with equal chances, as in torchvision's references. The
    random numbers are those of torch's default generator.
    """
    if not (config.mixup or config.cutmix):
        return lambda pixels, labels: (pixels, labels)
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    kinds = [
        kind(alpha=alpha, num_classes=classes)
        for kind, alpha in ((v2.MixUp, config.mixup), (v2.CutMix, config.cutmix))
        if alpha
    ]
    either = v2.RandomChoice(kinds)

    def mix(pixels: Any, labels: Any) -> tuple[Any, Any]:
        clips = pixels.ndim == 5
        mixed, targets = either(tv_tensors.Video(pixels) if clips else pixels, labels)
        return (mixed.as_subclass(type(pixels)) if clips else mixed), targets

    return mix
