"""Pretexts whose target is the picture itself: blanked cells, or noise, are to be undone.

The random numbers are those of torch's default generator.

Letters: B batch, C channels, H W pixels, T frames.
"""

from typing import Any

GRID, BLANKED = 4, 8
"""Cells in a row of the grid, and how many of all 16 are blanked. Pathak et al. 2016 blank a quarter of the picture; He
et al. 2022 three quarters, for transformers, which do not see the blanked cells at all."""
NOISE = 0.5
"""Standard deviation of the noise, in units of `View.std`."""
SCALE = 10.0
"""Of the loss. With the learning rates of a classification the squared error alone is learned slowly: of 1, 10, 30 and
100, this restores digits and CIFAR-10 best at a rate of 0.05. No labels were used for that."""
CLOSE = 0.5
"""Restored numbers count as right up to this error, in units of `View.std`."""


def blank_cells(pixels: Any) -> tuple[Any, Any]:
    """Pixels [B, C, H, W], or of clips [B, C, T, H, W], with BLANKED random cells of a grid of GRID x GRID at the mean
    colour, the same in all frames; and the target float32 of the same shape: the pixels, and NaN where none is
    blanked (Pathak et al. 2016, arXiv 1604.07379, §3.3; He et al. 2022, arXiv 2111.06377)."""
    import torch
    from torch.nn import functional

    random = torch.rand(len(pixels), GRID * GRID, device=pixels.device)
    cells = (random.argsort(1) < BLANKED).float().view(-1, 1, GRID, GRID)
    blanked = functional.interpolate(cells, pixels.shape[-2:]) > 0  # [B, 1, H, W]
    blanked = blanked.view(len(pixels), 1, *[1] * (pixels.ndim - 4), *pixels.shape[-2:])
    return pixels.masked_fill(blanked, 0), pixels.float().masked_fill(~blanked, torch.nan)


def add_noise(pixels: Any) -> tuple[Any, Any]:
    """Pixels with Gaussian noise; and the target float32: the pixels (Vincent et al. 2008)."""
    import torch

    return pixels + NOISE * torch.randn_like(pixels), pixels.float()


def measure_restored(output: Any, target: Any) -> tuple[Any, Any]:
    """(loss, right) of restored pixels, summed over the pictures. Loss: SCALE times the mean squared error over the
    numbers of a picture whose target is not NaN; right: the share of these with an error of at most CLOSE."""
    import torch

    counted = ~target.isnan()
    error = torch.where(counted, output - target.nan_to_num(), 0)
    number = counted.flatten(1).sum(1)
    close = counted & (error.detach().abs() <= CLOSE)
    return SCALE * (error.square().flatten(1).sum(1) / number).sum(), (close.flatten(1).sum(1) / number).sum()
