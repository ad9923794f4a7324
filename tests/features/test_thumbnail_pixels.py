"""Thumbnails and their descriptors, against means and correlations of pixels."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from raylabel.features.thumbnails import COARSE, SIDE, descriptors, has_thumbnails, thumbnails


def means(picture: np.ndarray, side: int) -> np.ndarray:
    """float64 [side, side, 3]: the mean of the pixels that each of them touches."""
    edges = [[(size * i // side, -(-size * (i + 1) // side)) for i in range(side)] for size in picture.shape[:2]]
    return np.array([[picture[a:b, c:d].mean((0, 1)) for c, d in edges[1]] for a, b in edges[0]])


@pytest.mark.parametrize("height, width", [(24, 24), (32, 32), (50, 31), (224, 224)])
def test_a_thumbnail_has_the_means_of_the_pixels(height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (3, height, width, 3), np.uint8)
    found = thumbnails(torch.from_numpy(pixels)).numpy()
    assert found.dtype == np.uint8 and found.shape == (3, SIDE * SIDE * 3)
    for picture, thumbnail in zip(pixels, found.reshape(3, SIDE, SIDE, 3), strict=True):
        assert np.abs(means(picture.astype(float), SIDE) - thumbnail).max() < 0.5 + 1e-3


@pytest.mark.parametrize("clips, frames", [(1, 1), (3, 8), (10, 4)])
def test_of_a_video_it_is_the_middle_frame_of_the_middle_clip(clips, frames):
    pixels = np.random.default_rng(0).integers(0, 256, (2, clips, frames, 30, 30, 3), np.uint8)
    expected = thumbnails(torch.from_numpy(pixels[:, clips // 2, frames // 2]))
    assert torch.equal(thumbnails(torch.from_numpy(pixels)), expected)


@pytest.mark.parametrize("size", [SIDE, 25, 32, 47, 48, 64, 100, 224, 331])
def test_thumbnails_are_those_of_adaptive_pooling(size):
    pixels = torch.from_numpy(np.random.default_rng(size).integers(0, 256, (3, size, size, 3), np.uint8))
    pooled = torch.nn.functional.adaptive_avg_pool2d(pixels.permute(0, 3, 1, 2).float(), SIDE)
    expected = pooled.permute(0, 2, 3, 1).flatten(1).round().to(torch.uint8)
    assert torch.equal(thumbnails(pixels), expected)


def test_descriptors_are_weighted_cosine_transforms():
    """Against scipy's transform."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 200, (20, SIDE, SIDE, 3), np.uint8)
    pictures[1] = pictures[0] // 2 + 40  # half the contrast, and brighter
    small = np.array([means(picture.astype(float), COARSE) for picture in pictures])
    red, green, blue = np.moveaxis(small, -1, 0)
    colours = [(red + green + blue) / 3**0.5, (red - green) / 2**0.5, (red + green - 2 * blue) / 6**0.5]
    amplitudes = np.asarray(dctn(np.stack(colours, -1), axes=(1, 2), norm="ortho")) * np.array([1, 4, 4])
    numbers = np.arange(COARSE)
    weights = np.sqrt(numbers[:, None] ** 2 + numbers**2) ** 0.75
    flat = (amplitudes * weights[:, :, None]).reshape(20, -1)
    expected = flat @ flat.T / np.outer(*[np.linalg.norm(flat, axis=1)] * 2)
    found = descriptors(pictures.reshape(20, -1)).astype(np.float64)
    assert found.shape == (20, COARSE * COARSE * 3)
    np.testing.assert_allclose(found @ found.T, expected, atol=2e-3)
    assert found[0] @ found[1] > 0.99


def test_a_picture_of_one_colour_is_like_no_other():
    flat = np.full((4, SIDE * SIDE * 3), 7, np.uint8)
    flat[1], flat[2, 5] = np.tile([255, 0, 9], SIDE * SIDE), 8  # one colour; one pixel that differs by one grey level
    flat[3, : SIDE * SIDE] = 9
    norms = np.linalg.norm(descriptors(flat).astype(float), axis=1)
    assert norms[:2].tolist() == [0, 0] and norms[3] == pytest.approx(1, abs=1e-3)


def test_small_views_have_none():
    assert [has_thumbnails(size) for size in (8, SIDE - 1, SIDE, 224)] == [False, False, True, True]
