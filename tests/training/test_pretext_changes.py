"""Pretexts: pixels that can be followed by hand, labels that say what was done, and both after a restart."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from raylabel.training.config import PRETEXTS, RESTORING, Pretext
from raylabel.training.pretexts import make_pretext

SIDE = 24


def pictures(count: int, clips: bool = False) -> Tensor:
    """Each pixel has a number of its own."""
    shape = (count, 3, 2, SIDE, SIDE) if clips else (count, 3, SIDE, SIDE)
    return torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape)


def applied(pretext: Pretext, pixels: Tensor, seed: int = 0) -> tuple[Tensor, list[int]]:
    torch.manual_seed(seed)
    found, labels = make_pretext(pretext)(pixels, torch.zeros(len(pixels), dtype=torch.int64))
    assert found.shape == pixels.shape and found.dtype == pixels.dtype
    return found, labels.tolist()


@pytest.mark.parametrize("clips", [False, True])
def test_rotations_are_numpys(clips: bool):
    pixels = pictures(16, clips)
    found, labels = applied("rotation", pixels)
    assert set(labels) == {0, 1, 2, 3}
    for one, turned, label in zip(pixels.numpy(), found.numpy(), labels, strict=True):
        assert np.array_equal(turned, np.rot90(one, label, (-2, -1)))


@pytest.mark.parametrize("clips", [False, True])
def test_tiles_are_in_the_order_of_the_label(clips: bool):
    pixels = pictures(200, clips)
    found, labels = applied("jigsaw", pixels)
    assert set(labels) == set(range(24))
    half, border = SIDE // 2, 1
    orders = list(itertools.permutations([(0, 0), (0, 1), (1, 0), (1, 1)]))
    for one, mixed, label in zip(pixels.numpy(), found.numpy(), labels, strict=True):
        tiles = [
            one[..., r * half + border : (r + 1) * half - border, c * half + border : (c + 1) * half - border]
            for r, c in orders[label]
        ]
        padded = [np.pad(tile, [(0, 0)] * (tile.ndim - 2) + [(border, border)] * 2) for tile in tiles]
        wanted = np.concatenate([np.concatenate(padded[:2], -1), np.concatenate(padded[2:], -1)], -2)
        assert np.array_equal(mixed, wanted)


@pytest.mark.parametrize("clips", [False, True])
def test_the_right_half_is_the_neighbour_of_the_label(clips: bool):
    """Pixels are the numbers of their cells, which resizing does not change."""
    cells = torch.arange(9.0).reshape(3, 3).repeat_interleave(8, 0).repeat_interleave(8, 1)
    pixels = cells.expand(100, 3, 2, SIDE, SIDE) if clips else cells.expand(100, 3, SIDE, SIDE)
    found, labels = applied("position", pixels)
    assert set(labels) == set(range(8))
    for one, label in zip(found, labels, strict=True):
        torch.testing.assert_close(one[..., : SIDE // 2], torch.tensor(4.0).expand(one[..., : SIDE // 2].shape))
        wanted = torch.tensor(float(label if label < 4 else label + 1))
        torch.testing.assert_close(one[..., SIDE // 2 :], wanted.expand(one[..., SIDE // 2 :].shape))


@pytest.mark.parametrize("pretext", [one for one in PRETEXTS if one not in RESTORING])
def test_ways_are_drawn_uniformly_and_again_by_the_same_seed(pretext: Pretext):
    pixels = torch.zeros(4_000, 3, 6, 6)
    _, labels = applied(pretext, pixels)
    assert stats.chisquare(np.bincount(labels, minlength=PRETEXTS[pretext])).pvalue > 1e-3
    assert applied(pretext, pixels)[1] == labels != applied(pretext, pixels, 1)[1]


def test_without_a_pretext_nothing_changes():
    pixels, labels = pictures(3), torch.tensor([5, 6, 7])
    assert make_pretext("none")(pixels, labels) == (pixels, labels)
