"""How similar two pictures are once they lie on each other: the second test of a near-duplicate.

A crop moves every edge, so the pixels of a copy differ from those of its original. One picture is therefore scaled and
shifted, along x and y, until its correlation with the other has a maximum (Gauss-Newton, as Evangelidis and Psarakis
2008 do for other motions). What is compared then are differences of neighbouring pixels. Pixels themselves are alike in
all pictures with a bright sky; edges at the same places are not found by chance.

Letters: n pairs, S = SIDE of a thumbnail, s pixels of a side at which pictures are aligned.
"""

from typing import Any

import numpy as np

from raylabel.features.thumbnails import SIDE

PAIRS = 1024  # aligned at a time: the slopes of their pixels are 28 MB
LEVELS = (SIDE // 2, 4, 0.9), (SIDE, 3, 0.0)
"""(s, steps, correlation below which a pair is given up) of each level. The first has a quarter of the pixels, and half
of the pairs are given up there (candidates of dups-dev)."""
OVERLAP = 0.6  # share of the pixels that both pictures must have
STEP, SCALE, SHIFT = 0.15, (0.7, 1.4), 0.3  # limits of a step, of the scale, and of the shift in halves of a side


def similarities(thumbnails: np.ndarray, references: np.ndarray) -> np.ndarray:
    """float32 [n], -1 to 1, of pairs of thumbnails uint8 [n, S * S * 3]. It is 0 for a pair that is given up, and if
    one of the two has no edges."""
    import torch

    found = np.zeros(len(thumbnails), np.float32)
    with torch.inference_mode():
        for first in range(0, len(found), PAIRS):
            some = slice(first, first + PAIRS)
            found[some] = _similarities(_pixels(thumbnails[some]), _pixels(references[some])).numpy()
    return found


def _pixels(thumbnails: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(thumbnails.reshape(-1, SIDE, SIDE, 3).copy()).permute(0, 3, 1, 2).float()


def _similarities(fixed: Any, moving: Any) -> Any:
    """Of pictures float32 [n, 3, S, S]."""
    import torch

    place = torch.tensor([1.0, 0.0, 1.0, 0.0]).repeat(len(fixed), 1)  # scale and shift along x, scale and shift along y
    left = torch.arange(len(fixed))
    for side, steps, least in LEVELS:
        mine, others = (torch.nn.functional.adaptive_avg_pool2d(x[left], side) for x in (fixed, moving))
        correlation, place = _align(mine, others, place, steps)
        keep = correlation >= least
        left, place = left[keep], place[keep]
    found = torch.zeros(len(fixed))
    if len(left):
        moved, both = _move(moving[left], place)
        found[left] = _correlation_of_edges(fixed[left], moved, both)
    return found


def _align(fixed: Any, moving: Any, place: Any, steps: int) -> tuple[Any, Any]:
    """(the largest correlation float32 [n], the place float32 [n, 4] that has it) after some steps from `place`."""
    import torch

    best, at = torch.full((len(fixed),), -1.0), place
    for step in range(steps + 1):
        moved, both = _move(moving, place)
        count = both.sum((2, 3), keepdim=True).clamp_min(1)
        mine, others = (_centred(x, both, count) for x in (fixed, moved))
        product, length = (mine * others).flatten(1).sum(1), others.flatten(1).norm(dim=1).clamp_min(1e-6)
        correlation = product / (mine.flatten(1).norm(dim=1).clamp_min(1e-6) * length)
        better = (correlation > best) & (count[:, 0, 0, 0] >= OVERLAP * both.shape[1:].numel())
        best, at = torch.where(better, correlation, best), torch.where(better[:, None], place, at)
        if step < steps:
            contrast = (product / length**2)[:, None, None, None]
            place = _step(place, mine - contrast * others, contrast * moved, both, count)
    return best, at


def _move(moving: Any, place: Any) -> tuple[Any, Any]:
    """(the pictures at these places, which pixels are inside of them: float32 [n, 1, s, s], 0 or 1)."""
    import torch

    n, side = len(moving), moving.shape[-1]
    centres = _centres(side)
    x, y = (place[:, i, None] * centres + place[:, i + 1, None] for i in (0, 2))  # [n, s], from -1 to 1
    grid = torch.stack([x[:, None].expand(n, side, side), y[:, :, None].expand(n, side, side)], -1)
    inside = [axis.abs() <= 1 - 1 / side + 1e-3 for axis in (x, y)]
    moved = torch.nn.functional.grid_sample(moving, grid, padding_mode="border", align_corners=False)
    return moved, (inside[0][:, None, None] & inside[1][:, None, :, None]).float()


def _centres(side: int) -> Any:
    import torch

    return (torch.arange(side) + 0.5) / side * 2 - 1


def _centred(x: Any, both: Any, count: Any) -> Any:
    """Without the mean of each colour over the pixels that both have; 0 elsewhere."""
    return (x - (x * both).sum((2, 3), keepdim=True) / count) * both


def _step(place: Any, error: Any, moved: Any, both: Any, count: Any) -> Any:
    """The next place: the one that explains the error best if the pictures were linear between pixels."""
    import torch

    n, side = len(moved), moved.shape[-1]
    centres, half = _centres(side), side / 2
    dx, dy = torch.zeros_like(moved), torch.zeros_like(moved)
    dx[..., 1:-1] = (moved[..., 2:] - moved[..., :-2]) / 2
    dy[..., 1:-1, :] = (moved[..., 2:, :] - moved[..., :-2, :]) / 2
    dx, dy = (d * half / place[:, i].view(n, 1, 1, 1) for d, i in ((dx, 0), (dy, 2)))
    slopes = [_centred(d, both, count).flatten(1) for d in (dx * centres, dx, dy * centres[:, None], dy)]
    slopes = torch.stack(slopes, 2)  # [n, 3 * s * s, 4]
    square = slopes.transpose(1, 2) @ slopes
    damping = 1e-3 / 4 * square.diagonal(dim1=1, dim2=2).sum(1) + 1e-6  # a picture without edges does not move
    square = square + damping[:, None, None] * torch.eye(4)
    change = torch.linalg.solve(square, slopes.transpose(1, 2) @ error.flatten(1)[:, :, None])[:, :, 0]
    moved_to = place + change.clamp(-STEP, STEP)
    limits = torch.tensor([[SCALE[0], -SHIFT] * 2, [SCALE[1], SHIFT] * 2])
    return torch.minimum(torch.maximum(moved_to, limits[0]), limits[1])


def _correlation_of_edges(fixed: Any, moved: Any, both: Any) -> Any:
    """float32 [n]: the cosine of the differences of neighbouring pixels that both pictures have. Both are smoothed,
    since a picture that was moved by half a pixel is less sharp: without it, many more crops are missed."""
    pairs = both[..., 1:] * both[..., :-1], both[..., 1:, :] * both[..., :-1, :]
    mine, others = (_differences(_smooth(x), *pairs) for x in (fixed, moved))
    return (mine * others).sum(1) / (mine.norm(dim=1) * others.norm(dim=1)).clamp_min(1e-6)


def _smooth(x: Any) -> Any:
    """Weights 1, 2, 1 of each pixel and its neighbours, along both axes."""
    import torch

    x = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    x = (x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]) / 4
    return (x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]) / 4


def _differences(x: Any, along_x: Any, along_y: Any) -> Any:
    """float32 [n, differences], 0 where a mask is."""
    import torch

    across, down = (x[..., 1:] - x[..., :-1]) * along_x, (x[..., 1:, :] - x[..., :-1, :]) * along_y
    return torch.cat([across.flatten(1), down.flatten(1)], 1)
