"""Converts encoded pictures to the uint8 pixels that a model gets, at evaluation and in training.

Pixels stay uint8 [H, W, 3] until they are on the model's device, since float32 takes four times the bytes.
Letters: B batch, H W pixels (here both are `View.size`).
"""

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from raylabel.media.augment import make_augment
from raylabel.media.image import decode_draft, decode_image, decode_pixels
from raylabel.media.video_views import with_short_side
from raylabel.media.view import View

if TYPE_CHECKING:
    import torch  # at run time only the functions that use torch import it, so that workers start without it

# The random crop's aspect ratio w/h and number of tries: torchvision's RandomResizedCrop, after Szegedy et al. 2015.
_MIN_RATIO, _MAX_RATIO = 3 / 4, 4 / 3
_TRIES = 10

# Above this ratio of the sides only the crop is computed, not the whole resized picture: a picture of 1 x 30,000 pixels
# would have 2 gigapixels with a short side of 256.
_MAX_ASPECT = 16

_CACHED = 1 << 18  # values that are normalised together on a CPU: 2 MB with their float32


# Of `View.interpolation`: Pillow's filter, and the pixels that it reaches on each side if nothing is made smaller.
_FILTERS = {"bilinear": (Image.Resampling.BILINEAR, 1), "bicubic": (Image.Resampling.BICUBIC, 2)}


def _resize_crop(
    image: Image.Image, to: tuple[int, int], box: tuple[int, int, int, int], interpolation: str
) -> Image.Image:
    """Crops `box` (left, top, right, bottom) out of the picture resized to `to` (width, height).

    Resizing only the box (`resize(box=)`) is 1.7 times as fast but gives other values: Pillow orders its two passes,
    each of which rounds, by the size of the output, and 0 to 27 % of the values are 1 off. It is used only where the
    whole resized picture would be huge.
    """
    resampling, support = _FILTERS[interpolation]
    if max(to) <= _MAX_ASPECT * min(to):
        resized = image if to == image.size else image.resize(to, resampling)
        return resized if box == (0, 0, *to) else resized.crop(box)
    origin, inner = [], []  # the pixels that the filter reads, and the box in them: Pillow takes boxes in float32
    for axis in (0, 1):
        side = image.size[axis]
        step = side / to[axis]
        low, high = box[axis] * step, min(box[axis + 2] * step, side)
        reach = support * math.ceil(max(step, 1)) + 1
        start = max(0, math.floor(low) - reach)
        origin.append((start, min(side, math.ceil(high) + reach)))
        inner.append((low - start, high - start))
    (left, right), (top, bottom) = origin
    cropped = image.crop((left, top, right, bottom))
    size = (box[2] - box[0], box[3] - box[1])
    return cropped.resize(size, resampling, box=(inner[0][0], inner[1][0], inner[0][1], inner[1][1]))


def eval_pixels(data: bytes, view: View) -> np.ndarray:
    """The centre of the picture, uint8 [H, W, 3]: short side (with `view.squash` both sides) resized to `view.resize`,
    then a square of `view.tested_size`.

    `data` is the encoded picture. Raises Reject as `decode_image` does. The pixels equal those of torchvision's
    Resize and CenterCrop on a tensor. Compared with these on a PIL image, 0.1 to 0.3 % of the values are 1 off in
    photographs (rarely 2 in synthetic pictures). The array may be read-only or a view of a larger one.
    """
    if view.dct_scale:
        pixels, size = decode_draft(data, view.resize, view.max_jpeg_pixels)
    else:
        pixels = decode_pixels(data, view.max_jpeg_pixels)
        size = pixels.shape[1], pixels.shape[0]
    return _center(pixels, size, view, view.tested_size)


def _center(pixels: np.ndarray, size: tuple[float, float], view: View, side: int) -> np.ndarray:
    """The centre of a picture of `size` (width, height), uint8 [side, side, 3]."""
    to = (view.resize, view.resize) if view.squash else with_short_side(size, view.resize)
    left, top = (round((n - side) / 2) for n in to)
    if max(to) > _MAX_ASPECT * min(to):
        box = (left, top, left + side, top + side)
        return np.asarray(_resize_crop(Image.fromarray(pixels), to, box, view.interpolation))
    if to != size:
        pixels = resize(pixels, size, to, view.interpolation)
    return pixels[top : top + side, left : left + side]


def resize(
    pixels: np.ndarray, size: tuple[float, float], to: tuple[int, int], interpolation: str = "bilinear"
) -> np.ndarray:
    """A picture of `size` (width, height) in uint8 [H, W, 3], resized to `to` by torch: 3 to 6 times as fast as Pillow.

    The filter is Pillow's, in integers. With AVX2 torch uses one thread. The result does not depend on AVX2 or on the
    number of threads.
    """
    import torch

    if not pixels.flags.writeable:  # Pillow's memory; torch would warn
        pixels = pixels.copy()
    # The batch axis is added before the permutation: torch detects channels_last by the strides. Otherwise it would
    # convert the layout of the result, which takes as long as the filter.
    batch = torch.from_numpy(pixels).unsqueeze(0).permute(0, 3, 1, 2)
    target: dict = {"size": (to[1], to[0])}
    if size != (pixels.shape[1], pixels.shape[0]):  # a draft: torch multiplies H, W by its exact scale
        # Without the last factor the result may be rounded down by one pixel.
        target = {"scale_factor": tuple(to[i] / size[i] * (1 + 1e-12) for i in (1, 0))}
    out = torch.nn.functional.interpolate(batch, mode=interpolation, antialias=True, **target)
    return out.permute(0, 2, 3, 1)[0].numpy()


def train_pixels(data: bytes, view: View, random: np.random.Generator) -> np.ndarray:
    """A random view of the picture, uint8 [H, W, 3]: a pure function of (data, view, state of `random`).

    The number of values taken from `random` depends only on `view`, so the next picture's view does not depend on
    this picture's size. `data` is the encoded picture. Raises Reject as `decode_image` does, before drawing a value.
    The array may be read-only or a reversed view. Pillow resizes the picture, unlike at evaluation, but not the centre.
    """
    if view.crop == "center":
        pixels = decode_pixels(data, view.max_jpeg_pixels)
        pixels = _center(pixels, (pixels.shape[1], pixels.shape[0]), view, view.size)
        pixels = pixels[:, ::-1] if random.random() < 0.5 and view.flip else pixels
    elif view.crop == "padded":
        pixels = _padded_crop(decode_pixels(data, view.max_jpeg_pixels), view, random.random(3).tolist())
    else:
        image = decode_image(data, view.max_jpeg_pixels)
        draws = random.random(2 * _TRIES + 3).tolist()
        box = _random_box(image.size, view.min_scale, draws)
        pixels = np.asarray(image.crop(box).resize((view.size, view.size), _FILTERS[view.interpolation][0]))
        pixels = pixels[:, ::-1] if view.flip and draws[-1] < 0.5 else pixels
    augment = make_augment(view)
    return augment(pixels, int(random.integers(1 << 63))) if augment else pixels


def _random_box(size: tuple[int, int], min_scale: float, draws: list[float]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the Inception crop. `draws`: (area, ratio) of each try, then x, y; all in [0, 1).

    The area and the logarithm of the ratio are uniform. If no try fits, the box is the largest centred one of a valid
    ratio.
    """
    width, height = size
    for i in range(_TRIES):
        area = width * height * (min_scale + (1 - min_scale) * draws[2 * i])
        ratio = _MIN_RATIO * (_MAX_RATIO / _MIN_RATIO) ** draws[2 * i + 1]
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(draws[2 * _TRIES] * (width - w + 1)), int(draws[2 * _TRIES + 1] * (height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * _MAX_RATIO)), min(height, round(width / _MIN_RATIO))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _padded_crop(picture: np.ndarray, view: View, draws: list[float]) -> np.ndarray:
    """A random square of the padded picture, computed without padding all of it. `draws`: x, y, flip."""
    size, pad = view.size, view.padding
    height, width, _ = picture.shape
    to = with_short_side((width, height), size)
    # The square's position in the resized picture, whose corner is (0, 0); it may exceed each edge by the padding.
    x, y = (int(draw * (n + 2 * pad - size + 1)) - pad for draw, n in zip(draws, to, strict=False))
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + size, to[0]), min(y + size, to[1])
    if to == (width, height):  # small pictures, the common case
        inside = picture[top:bottom, left:right]
    else:
        box = (left, top, right, bottom)
        inside = np.asarray(_resize_crop(Image.fromarray(picture), to, box, view.interpolation))
    pixels = np.zeros((size, size, 3), np.uint8)
    target = pixels[:, ::-1] if view.flip and draws[2] < 0.5 else pixels
    target[top - y : bottom - y, left - x : right - x] = inside
    return pixels


def normalise(pixels: "torch.Tensor", view: View, dtype: "torch.dtype | None" = None) -> "torch.Tensor":
    """(pixels / 255 − mean) / std: uint8 [B, H, W, 3] to [B, 3, H, W] in channels_last, on the same device.

    Clips: [B, T, H, W, 3] to [B, 3, T, H, W] in channels_last_3d. Computed in float32, and rounded at the end if
    `dtype` is another one (None: float32).
    """
    import torch

    # On rows of pixels, not on channels: a loop over 3 values takes longer than their arithmetic. On a CPU a block of
    # rows stays in the cache, instead of one pass over memory for each operation.
    rows = pixels.flatten(-2).flatten(0, -2)
    mean, std = _constants(view.mean, view.std, pixels.device, pixels.shape[-2])
    out = torch.empty_like(rows, dtype=dtype or torch.float32)
    step = max(1, len(rows) if pixels.is_cuda else _CACHED // rows.shape[1])
    block = torch.empty_like(rows[:step], dtype=torch.float32) if out.dtype != torch.float32 else None
    for some, into in zip(rows.split(step), out.split(step), strict=True):
        values = into if block is None else block[: len(some)]
        values.copy_(some).div_(255).sub_(mean).div_(std)
        if block is not None:
            into.copy_(values)
    axes = pixels.ndim - 1
    return out.view(pixels.shape).permute(0, axes, *range(1, axes))


@lru_cache(maxsize=16)
def _constants(
    mean: tuple[float, float, float], std: tuple[float, float, float], device: "torch.device", width: int
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Mean and std of each value of a row of pixels, float32 [3 W], on the device. Cached, since a copy to the device
    waits for all work in its queue."""
    import torch

    m, s = (torch.tensor(x, dtype=torch.float32, device=device).repeat(width) for x in (mean, std))
    return m, s
