"""Labels that a picture makes itself: it is changed in one of several ways, and the network learns to say in which.

The way is drawn whenever a sample is trained on. The random numbers are those of torch's default generator.

Letters: B batch, C channels, H W pixels, T frames.
"""

import itertools
from collections.abc import Callable
from typing import Any

from raylabel.training.config import PRETEXTS, RESTORING, Pretext
from raylabel.training.restoration import add_noise, blank_cells

TILES = 2
"""Tiles in a row of a puzzle: of 2 x 2 tiles all 24 orders are classes."""
NEIGHBOURS = [(row, column) for row in range(3) for column in range(3) if (row, column) != (1, 1)]
"""Cells of a grid of 3 x 3 around the middle one."""


def make_pretext(pretext: Pretext) -> Callable[[Any, Any], tuple[Any, Any]]:
    """A function (pixels [B, C, H, W] or of clips [B, C, T, H, W], labels int64 [B]) → (changed pixels, the labels of
    the changes); both as they are without a pretext.

    rotation: by 0, 90, 180 or 270 degrees (Gidaris et al. 2018, arXiv 1803.07728; they show all four of a picture in
    one batch). jigsaw: the tiles of the picture in another order, each with a border of zeros, so that edges do not
    tell it (Noroozi & Favaro 2016, arXiv 1603.09246; they have 3 x 3 tiles, and a network for each). position: of the
    cells of a grid of 3 x 3, the middle one in the left half of the picture, and one of its neighbours in the right
    half (Doersch et al. 2015, arXiv 1505.05192; they have a network for each). completion, denoising: in place of the
    labels the target float32 of the shape of the pixels (restoration.py).
    """
    if pretext == "none":
        return lambda pixels, labels: (pixels, labels)
    if pretext in RESTORING:
        spoil = blank_cells if pretext == "completion" else add_noise
        return lambda pixels, _: spoil(pixels)
    change, classes = {"rotation": _rotated, "jigsaw": _reordered, "position": _beside}[pretext], PRETEXTS[pretext]

    def apply(pixels: Any, labels: Any) -> tuple[Any, Any]:
        import torch

        drawn = torch.randint_like(labels, classes)
        changed = torch.empty_like(pixels)
        for way in drawn.unique().tolist():
            changed[drawn == way] = change(pixels[drawn == way], way)
        return changed, drawn

    return apply


def _rotated(pixels: Any, way: int) -> Any:
    return pixels.rot90(way, (-2, -1))


def _reordered(pixels: Any, way: int) -> Any:
    import torch

    side = pixels.shape[-1] // TILES
    places = list(itertools.product(range(TILES), repeat=2))
    order = list(itertools.permutations(places))[way]
    found, border = torch.zeros_like(pixels), max(1, side // 8)
    for (to_row, to_column), (row, column) in zip(places, order, strict=True):
        tile = pixels[..., row * side + border : (row + 1) * side - border, :]
        tile = tile[..., column * side + border : (column + 1) * side - border]
        rows = slice(to_row * side + border, (to_row + 1) * side - border)
        found[..., rows, to_column * side + border : (to_column + 1) * side - border] = tile
    return found


def _beside(pixels: Any, way: int) -> Any:
    import torch
    from torch.nn import functional

    height, width = pixels.shape[-2:]
    flat = pixels.transpose(1, 2).flatten(0, 1) if pixels.ndim == 5 else pixels
    halves = []
    for row, column in ((1, 1), NEIGHBOURS[way]):
        cell = flat[..., row * height // 3 : (row + 1) * height // 3, column * width // 3 : (column + 1) * width // 3]
        own = width // 2 if not halves else width - width // 2
        halves.append(functional.interpolate(cell.float(), (height, own), mode="bilinear", align_corners=False))
    found = torch.cat(halves, -1).to(pixels.dtype)
    if pixels.ndim == 5:
        return found.unflatten(0, (len(pixels), pixels.shape[2])).transpose(1, 2)
    return found
