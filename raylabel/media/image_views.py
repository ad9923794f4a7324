"""Views: the uint8 pixels of an encoded picture that a model sees, at evaluation and in training.

Pixels stay uint8 [H, W, 3] until they are on the model's device: a quarter of the bytes of float32 to move.
Letters: B batch, H W pixels (here both are `View.size`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from raylabel.errors import InputError
from raylabel.media.image import decode_draft, decode_image, decode_pixels
from raylabel.media.sandbox.child import CPU_SECONDS
from raylabel.media.video_views import CPU_SECONDS as CLIP_CPU_SECONDS
from raylabel.media.video_views import Clip, eval_clips, part_of, train_clip, with_short_side
from raylabel.rng import rng

if TYPE_CHECKING:
    import torch  # at run time only resizing for evaluation and `normalise` need it; workers start without

# The random crop's aspect ratio w/h and number of tries: torchvision's RandomResizedCrop, after Szegedy et al. 2015.
_MIN_RATIO, _MAX_RATIO = 3 / 4, 4 / 3
_TRIES = 10

# Beyond this ratio of the sides only the crop is computed, not the whole resized picture: a 1 x 30,000 strip would be
# 2 gigapixels with its short side at 256.
_MAX_ASPECT = 16


@dataclass(frozen=True, kw_only=True)
class View:
    """How a picture becomes a model's input. The defaults are ImageNet's."""

    size: int = 224
    """Side of the square input, pixels."""

    resize: int = 256
    """Short side before the centre crop at evaluation, pixels; `size` for small pictures, which are not cropped."""

    dct_scale: bool = False
    """Evaluation decodes upright JPEG at 1/2, 1/4 or 1/8, in the DCT domain: the smallest with a short side of at least
    `resize`. Pictures under twice `resize` and other formats stay as they are. To 256 and 224, against decoding in
    full: 1024 x 768 is 1.2 times as fast, 0.6 of 255 off in the mean and 16 at most (48 dB); 1600 x 1200 is 1.6 times
    as fast, 0.9 and 28 off (44 dB). Photographs at quality 90, 1 core (Zen 5), 2026-11-21; what it does to labels is
    not measured."""

    crop: Literal["random_resized", "padded"] = "random_resized"
    """Training crop. 'random_resized': a random part of the area, resized (Inception crop, Szegedy et al. 2015).
    'padded': short side resized to `size`, zeros on all sides, a random `size` square (He et al. 2016, §4.2)."""

    min_scale: float = 0.08
    """'random_resized': smallest part of the picture's area that is cropped, in (0, 1]; the largest is all of it."""

    padding: int = 4
    """'padded': zeros on each side, pixels, fewer than `size`."""

    flip: bool = True
    """Mirror left and right in half of the training views; off where it changes the class (digits, text)."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Of red, green, blue over the training set, in units of 0 to 1; the default is ImageNet's."""

    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation, likewise."""

    clip: Clip | None = None
    """What of a video the model sees; None: the media are pictures. Of clips `crop` and what belongs to it say nothing:
    after scale jitter, see `Clip.max_resize`, any `size` square is cut."""

    def __post_init__(self) -> None:
        for name, least in (("size", 1), ("resize", self.size), ("padding", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                what = "`size`, a whole number of pixels" if name == "resize" else f"{least}, a whole number of pixels"
                raise InputError(f"View.{name} is {value!r}; give at least {what}")
        if self.crop == "padded" and self.padding >= self.size:
            raise InputError(f"View.padding is {self.padding}; give less than `size`, {self.size}")
        if self.crop not in ("random_resized", "padded"):
            raise InputError(f"View.crop is {self.crop!r}; give 'random_resized' or 'padded'")
        if not 0 < self.min_scale <= 1:
            raise InputError(f"View.min_scale is {self.min_scale!r}; give a part of the area, over 0 and at most 1")
        for name in ("dct_scale", "flip"):
            if type(getattr(self, name)) is not bool:
                raise InputError(f"View.{name} is {getattr(self, name)!r}; give True or False")
        for name, least in (("mean", 0.0), ("std", 1e-6)):
            value = getattr(self, name)
            if not (type(value) is tuple and len(value) == 3 and all(least <= x <= 1 for x in value)):
                raise InputError(f"View.{name} is {value!r}; give a tuple of 3 numbers from {least:g} to 1")
        if self.clip and (self.crop == "padded" or self.dct_scale):
            raise InputError("View.crop 'padded' and View.dct_scale are for pictures, and View.clip is set: leave them")
        if self.clip and 0 < self.clip.max_resize < self.resize:
            raise InputError(
                f"Clip.max_resize is {self.clip.max_resize}; give 0, or at least View.resize, {self.resize}"
            )

    @property
    def inputs(self) -> str:
        """What a model is trained on: 'images', or of videos 'clips'."""
        return "clips" if self.clip else "images"

    @property
    def eval_shape(self) -> tuple[int, ...]:
        """Of one sample's pixels at evaluation: [S, S, 3], or [M, T, S, S, 3] of a video."""
        square = (self.size, self.size, 3)
        return (self.clip.count, self.clip.frames, *square) if self.clip else square

    @property
    def train_shape(self) -> tuple[int, ...]:
        """Of one sample's pixels in training: [S, S, 3], or [T, S, S, 3] of a video."""
        square = (self.size, self.size, 3)
        return (self.clip.frames, *square) if self.clip else square

    @property
    def cpu_seconds(self) -> int:
        """What the sandbox grants a sample."""
        return CLIP_CPU_SECONDS if self.clip else CPU_SECONDS


def _resize_crop(image: Image.Image, to: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """`box` (left, top, right, bottom) of the picture resized to `to` (width, height).

    Resizing only the box (`resize(box=)`) is 1.7 times as fast, but not the same: Pillow chooses the order of its two
    passes, each of which rounds, by the size of the output. 0 to 27 % of the values come out 1 off. So that is kept for
    pictures whose resized whole would be huge.
    """
    if max(to) <= _MAX_ASPECT * min(to):
        resized = image if to == image.size else image.resize(to, Image.Resampling.BILINEAR)
        return resized if box == (0, 0, *to) else resized.crop(box)
    origin, inner = [], []  # what the filter touches, and the box in it: Pillow takes boxes in float32
    for axis in (0, 1):
        side = image.size[axis]
        step = side / to[axis]
        low, high = box[axis] * step, min(box[axis + 2] * step, side)
        reach = math.ceil(max(step, 1)) + 1
        start = max(0, math.floor(low) - reach)
        origin.append((start, min(side, math.ceil(high) + reach)))
        inner.append((low - start, high - start))
    (left, right), (top, bottom) = origin
    part = image.crop((left, top, right, bottom))
    size = (box[2] - box[0], box[3] - box[1])
    return part.resize(size, Image.Resampling.BILINEAR, box=(inner[0][0], inner[1][0], inner[0][1], inner[1][1]))


def eval_pixels(data: bytes, view: View) -> np.ndarray:
    """The centre of the picture, uint8 [H, W, 3]; short side resized to `view.resize`, then the `view.size` square.

    `data` is the encoded picture; raises Reject as `decode_image`. The pixels are torchvision's Resize and CenterCrop
    of a tensor: of photographs 0.1 to 0.3 % of the values are 1 off those of a PIL image (2 at most, rarely, in
    made-up ones). The array may be read-only, or a part of a larger one.
    """
    if view.dct_scale:
        pixels, size = decode_draft(data, view.resize)
    else:
        pixels = decode_pixels(data)
        size = pixels.shape[1], pixels.shape[0]
    to = with_short_side(size, view.resize)
    left, top = (round((n - view.size) / 2) for n in to)
    if max(to) > _MAX_ASPECT * min(to):
        return np.asarray(_resize_crop(Image.fromarray(pixels), to, (left, top, left + view.size, top + view.size)))
    if to != size:
        pixels = _resize(pixels, size, to)
    return pixels[top : top + view.size, left : left + view.size]


def eval_parser(view: dict) -> Callable[[bytes, Sequence[float]], np.ndarray]:
    """`eval_pixels` of a view, given by its fields, for the sandbox; of a view with a clip `eval_clips`, a sample's
    numbers being none, or the start and end of its part in seconds."""
    config = _view_of(view)
    if config.clip:
        from raylabel.media.video import warm_up

        warm_up()
        return lambda data, numbers: eval_clips(data, config, part_of(numbers))

    import torch

    torch.set_num_threads(1)
    # At its first call torch looks in a file what the processor can do. A child opens none, and would take slow ways.
    _resize(np.zeros((2, 2, 3), np.uint8), (2, 2), (4, 4))
    return lambda data, _: eval_pixels(data, config)


def train_parser(view: dict) -> Callable[[bytes, Sequence[int]], np.ndarray]:
    """`train_pixels` of a view, or `train_clip`, for the sandbox; a sample's numbers are those of `rng`."""
    config = _view_of(view)
    if config.clip:
        from raylabel.media.video import warm_up

        warm_up()
        return lambda data, numbers: train_clip(data, config, rng(*numbers))
    return lambda data, numbers: train_pixels(data, config, rng(*numbers))


def _view_of(fields: dict) -> View:
    clip = fields.get("clip")
    return View(**{**fields, "clip": Clip(**clip) if clip else None})


def _resize(pixels: np.ndarray, size: tuple[float, float], to: tuple[int, int]) -> np.ndarray:
    """A picture of `size` (width, height) in uint8 [H, W, 3], resized to `to` by torch: 3 to 6 times as fast as Pillow.

    It is Pillow's filter in integers: the same with AVX2 (then on one thread), without, and on any number of threads.
    """
    import torch

    if not pixels.flags.writeable:  # Pillow's memory, of which torch would warn
        pixels = pixels.copy()
    # The batch of one is put in front first: channels_last is told by the strides, and without it the result would be
    # laid out anew, which takes as long as the filter.
    batch = torch.from_numpy(pixels).unsqueeze(0).permute(0, 3, 1, 2)
    target: dict = {"size": (to[1], to[0])}
    if size != (pixels.shape[1], pixels.shape[0]):  # a draft: by its true scale, which torch multiplies by H, W
        target = {"scale_factor": tuple(to[i] / size[i] * (1 + 1e-12) for i in (1, 0))}  # not rounded down to one less
    out = torch.nn.functional.interpolate(batch, mode="bilinear", antialias=True, **target)
    return out.permute(0, 2, 3, 1)[0].numpy()


def train_pixels(data: bytes, view: View, random: np.random.Generator) -> np.ndarray:
    """A random view of the picture, uint8 [H, W, 3]: a pure function of (data, view, state of `random`).

    Takes from `random` a number of values that depends on `view.crop` alone, so the next picture's view does not depend
    on this one's size. `data` is the encoded picture; raises Reject as `decode_image`, before it draws. The array may
    be read-only or a reversed view. Resizing is Pillow's, whatever evaluation uses.
    """
    if view.crop == "padded":
        return _padded_crop(decode_pixels(data), view, random.random(3).tolist())
    image = decode_image(data)
    draws = random.random(2 * _TRIES + 3).tolist()
    box = _random_box(image.size, view.min_scale, draws)
    size = (view.size, view.size)
    pixels = np.asarray(image.crop(box).resize(size, Image.Resampling.BILINEAR))
    return pixels[:, ::-1] if view.flip and draws[-1] < 0.5 else pixels


def _random_box(size: tuple[int, int], min_scale: float, draws: list[float]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the Inception crop. `draws`: (area, ratio) of each try, then x, y; all in [0, 1).

    The area is uniform, the logarithm of the ratio too; if no try fits, the largest centre box of a fitting ratio.
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
    """The random square of the padded picture. `draws`: x, y, flip. The padding is never built, nor what is cut off."""
    size, pad = view.size, view.padding
    height, width, _ = picture.shape
    to = with_short_side((width, height), size)
    # The square's place in the resized picture, whose corner is (0, 0); it may reach over each edge by the padding.
    x, y = (int(draw * (n + 2 * pad - size + 1)) - pad for draw, n in zip(draws, to, strict=False))
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + size, to[0]), min(y + size, to[1])
    if to == (width, height):  # small pictures, the common case
        inside = picture[top:bottom, left:right]
    else:
        inside = np.asarray(_resize_crop(Image.fromarray(picture), to, (left, top, right, bottom)))
    pixels = np.zeros((size, size, 3), np.uint8)
    target = pixels[:, ::-1] if view.flip and draws[2] < 0.5 else pixels
    target[top - y : bottom - y, left - x : right - x] = inside
    return pixels


def normalise(pixels: "torch.Tensor", view: View) -> "torch.Tensor":
    """(pixels / 255 − mean) / std: uint8 [B, H, W, 3] to float32 [B, 3, H, W] in channels_last, on the same device.

    Clips [B, T, H, W, 3] to [B, 3, T, H, W] in channels_last_3d.
    """
    import torch

    axes = pixels.ndim - 1
    mean, std = _constants(view.mean, view.std, pixels.device, axes)
    layout = torch.channels_last if axes == 3 else torch.channels_last_3d
    out = pixels.permute(0, axes, *range(1, axes)).to(torch.float32, memory_format=layout)
    return out.div_(255).sub_(mean).div_(std)


@lru_cache(maxsize=16)
def _constants(
    mean: tuple[float, float, float], std: tuple[float, float, float], device: "torch.device", axes: int
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Mean and std, [3, 1, 1] or as many `axes`, on the device; kept: a copy waits for all that is queued."""
    import torch

    m, s = (torch.tensor(x, dtype=torch.float32, device=device).view(3, *[1] * (axes - 1)) for x in (mean, std))
    return m, s
