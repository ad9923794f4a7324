"""The configuration of a model's input: sizes and crops of pictures (`View`), clips of videos (`Clip`)."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from raylabel.errors import InputError
from raylabel.media.sandbox.child import CPU_SECONDS

# Pixels of a picture that is decoded in full, read from its header before anything is decoded. At the limit the peak of
# memory was 0.6 GB for PNG and TIFF and 0.95 GB for WebP (measured, Pillow 13), within the sandbox's 1 GB.
MAX_PIXELS = 50_000_000
MAX_JPEG_PIXELS = 200_000_000  # default of `View.max_jpeg_pixels`
# That of store/artifact.py, whose import would take half of the start of a sandbox process.
_ADDED_LATER = {"added_later": True}

# Limit of CPU time for one video in the sandbox. It is enough to decode five minutes of 1920 x 1080 or two hours of
# 320 x 240 in full (H.264, about 150 and 3,000 frames per second on a core). Ten clips of a video with a keyframe every
# 10 s need less.
CLIP_CPU_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Which frames of a video are a model's input. The defaults are those of R(2+1)D on Kinetics with 8 frames."""

    frames: int = 8
    """T, frames per clip."""

    stride: int = 1
    """Distance between two frames of the clip, in frames of the video. A clip that is longer than the video
    continues at its beginning, as if the video were looped."""

    count: int = 10
    """M, clips per video at scoring and testing, uniformly spaced from the first frame to the last (Yalniz et al. 2019
    §5.1: 10). Training draws one clip at a random position; with `view.crop` 'center' one of these M."""

    max_resize: int = 0
    """Scale jitter: in training the short side is drawn between `view.resize` and this value, in pixels, before the
    random crop. 0: it is always `view.resize`."""

    def check(self, name: str) -> None:
        """InputError if a field is invalid. `name` is that of this config in the recipe, for example 'view.clip'."""
        for field, least in (("frames", 1), ("stride", 1), ("count", 1), ("max_resize", 0)):
            value = getattr(self, field)
            if type(value) is not int or value < least:
                raise InputError(f"{name}.{field} is {value!r}: give a whole number of at least {least}")


@dataclass(frozen=True, kw_only=True)
class View:
    """How a picture or a frame becomes a model's input. The defaults are ImageNet's."""

    size: int = 224
    """Side of the square input, pixels."""

    eval_size: int = dataclasses.field(default=0, metadata=_ADDED_LATER)
    """Side of the square at evaluation, pixels, if it is another one: a network is more accurate on somewhat larger
    pictures than it was trained on (Touvron et al. 2019, arXiv 1906.06423). 0: `size`."""

    resize: int = 256
    """Short side before the centre crop at evaluation, pixels. Set it to `size` for small pictures that should not be
    cropped."""

    interpolation: Literal["bilinear", "bicubic"] = dataclasses.field(default="bilinear", metadata=_ADDED_LATER)
    """Filter with which pictures are resized, in training and at evaluation. Frames of videos are always resized
    bilinearly."""

    squash: bool = dataclasses.field(default=False, metadata=_ADDED_LATER)
    """At evaluation, resize a picture to a square of `resize` pixels before the centre crop, whatever its shape, as
    some networks of timm expect; otherwise its short side is resized. Only for pictures."""

    dct_scale: bool = False
    """Evaluation decodes an upright JPEG at 1/2, 1/4 or 1/8 of its size, in the DCT domain: the smallest of these with
    a short side of at least `resize`. Pictures under twice `resize` and other formats are decoded in full. Measured for
    `resize` 256 and `size` 224 against decoding in full: 1024 x 768 is 1.2 times as fast, with pixel values 0.6 of 255
    off on average and 16 at most (48 dB); 1600 x 1200 is 1.6 times as fast, 0.9 and 28 off (44 dB). Photographs at
    quality 90, 1 core (Zen 5), 2026-11-21. The effect on labels has not been measured."""

    max_jpeg_pixels: int = dataclasses.field(default=MAX_JPEG_PIXELS, metadata=_ADDED_LATER)
    """The largest JPEG that is used, in pixels, 50,000,000 to 1,000,000,000; a larger one is a reject. A JPEG of more
    than 50 million pixels is decoded at 1/2, 1/4 or 1/8 of its size, in the DCT domain: the largest of these with at
    most 50 million pixels. If it is progressive, its decoder also needs about 3 bytes per pixel (6 without chroma
    subsampling) of the sandbox's 1 GB. The limit of other formats is always 50 million pixels."""

    crop: Literal["random_resized", "padded", "center"] = "random_resized"
    """Training crop. 'random_resized': a random fraction of the area, resized (Inception crop, Szegedy et al. 2015); of
    clips a random `size` square, after they are resized as `clip.max_resize` describes. 'padded': short side resized to
    `size`, padding with zeros, a random `size` square (He et al. 2016, §4.2); not of clips. 'center': the square of
    evaluation, of `size` pixels, and of a video one of the clips of evaluation."""

    min_scale: float = 0.08
    """'random_resized': the smallest fraction of the picture's area that a crop may cover, in (0, 1]; the largest is
    1."""

    padding: int = 4
    """'padded': zeros on each side, pixels, fewer than `size`."""

    flip: bool = True
    """Mirror half of the training views left to right. Turn it off if mirroring changes the class (digits, text)."""

    augment: Literal["none", "trivial"] = dataclasses.field(default="none", metadata=_ADDED_LATER)
    """trivial: TrivialAugment after crop and mirroring, see media/augment.py. Some of its operations rotate and shift,
    others change colours."""

    erase: float = dataclasses.field(default=0.0, metadata=_ADDED_LATER)
    """Probability that a random rectangle of a training view is erased, see media/augment.py."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of red, green and blue over the training set, on a scale of 0 to 1. The default is ImageNet's."""

    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of red, green and blue, on the same scale."""

    clip: Clip | None = None
    """Which frames of a video are the model's input; None: the media are pictures."""

    def check(self, name: str) -> None:
        """InputError if a field is invalid. `name` is that of this config in the recipe, for example 'view'."""
        for field, least in (("size", 1), ("eval_size", 0), ("resize", self.tested_size), ("padding", 0)):
            value = getattr(self, field)
            if type(value) is not int or value < least:
                of_test = f"{name}.eval_size" if self.eval_size else f"{name}.size"
                limit = f"{of_test}, {least}" if field == "resize" else least
                raise InputError(f"{name}.{field} is {value!r}: give a whole number of pixels, at least {limit}")
        limit = self.max_jpeg_pixels
        if type(limit) is not int or not MAX_PIXELS <= limit <= 1_000_000_000:
            raise InputError(
                f"{name}.max_jpeg_pixels is {limit!r}: give a whole number from {MAX_PIXELS} to 1000000000"
            )
        if self.crop == "padded" and self.padding >= self.size:
            raise InputError(f"{name}.padding is {self.padding}: give less than {name}.size, {self.size}")
        choices = {"crop": ("random_resized", "padded", "center"), "interpolation": ("bilinear", "bicubic")}
        for field, known in (choices | {"augment": ("none", "trivial")}).items():
            if getattr(self, field) not in known:
                raise InputError(f"{name}.{field} is {getattr(self, field)!r}: give {' or '.join(map(repr, known))}")
        if not 0 < self.min_scale <= 1:
            raise InputError(
                f"{name}.min_scale is {self.min_scale!r}: give a fraction of the area, over 0 and at most 1"
            )
        if not 0 <= self.erase <= 1:
            raise InputError(f"{name}.erase is {self.erase!r}: give a probability from 0 to 1")
        if self.clip and self.interpolation != "bilinear":
            raise InputError(f"{name}.interpolation is {self.interpolation!r}, but {name}.clip is set: leave it out")
        for field in ("dct_scale", "flip", "squash"):
            if type(getattr(self, field)) is not bool:
                raise InputError(f"{name}.{field} is {getattr(self, field)!r}: give True or False")
        for field, least in (("mean", 0.0), ("std", 1e-6)):
            value = getattr(self, field)
            if not (type(value) is tuple and len(value) == 3 and all(least <= x <= 1 for x in value)):
                raise InputError(f"{name}.{field} is {value!r}: give a tuple of 3 numbers from {least:g} to 1")
        if self.clip:
            self.clip.check(f"{name}.clip")
        if self.clip and (self.crop == "padded" or self.dct_scale or self.squash):
            raise InputError(
                f"{name}.crop 'padded', {name}.dct_scale and {name}.squash are only for pictures, but {name}.clip is "
                "set: leave them out"
            )
        if self.clip and 0 < self.clip.max_resize < self.resize:
            raise InputError(
                f"{name}.clip.max_resize is {self.clip.max_resize}: give 0, or at least {name}.resize, {self.resize}"
            )
        if self.clip and self.clip.max_resize and self.crop == "center":
            raise InputError(
                f"{name}.clip.max_resize is {self.clip.max_resize}, but {name}.crop is 'center': leave it out"
            )

    @property
    def tested_size(self) -> int:
        """Side of the square at evaluation, pixels."""
        return self.eval_size or self.size

    @property
    def inputs(self) -> str:
        """What a model is trained on: 'images', or 'clips' of videos."""
        return "clips" if self.clip else "images"

    @property
    def eval_shape(self) -> tuple[int, ...]:
        """Shape of one sample's pixels at evaluation: [S, S, 3], or [M, T, S, S, 3] of a video."""
        square = (self.tested_size, self.tested_size, 3)
        return (self.clip.count, self.clip.frames, *square) if self.clip else square

    @property
    def train_shape(self) -> tuple[int, ...]:
        """Shape of one sample's pixels in training: [S, S, 3], or [T, S, S, 3] of a video."""
        square = (self.size, self.size, 3)
        return (self.clip.frames, *square) if self.clip else square

    @property
    def evaluation_identity(self) -> dict[str, Any]:
        """What evaluation pixels depend on, as plain JSON. The crop of training is left out."""
        shown: dict[str, Any] = {"size": self.tested_size, "resize": self.resize, "dct_scale": self.dct_scale}
        shown |= {"mean": list(self.mean), "std": list(self.std), "clip": None}
        if clip := self.clip:
            shown["clip"] = {"frames": clip.frames, "stride": clip.stride, "count": clip.count, "max_resize": 0}
        return shown | self._given("interpolation", "squash")

    @property
    def training_identity(self) -> dict[str, Any]:
        """What training pixels depend on, as plain JSON. `max_jpeg_pixels` is left out: a larger JPEG is an error."""
        shown = {"size": self.size, "flip": self.flip, "mean": list(self.mean), "std": list(self.std)}
        shown |= self._given("interpolation", "augment", "erase")
        if self.crop == "center":
            clip = self.clip and {name: getattr(self.clip, name) for name in ("frames", "stride", "count")}
            return shown | self._given("squash") | {"crop": self.crop, "resize": self.resize, "clip": clip}
        if self.clip:
            largest = max(self.resize, self.clip.max_resize)
            clip = {"frames": self.clip.frames, "stride": self.clip.stride, "max_resize": largest}
            return shown | {"resize": self.resize, "clip": clip}
        only = "min_scale" if self.crop == "random_resized" else "padding"
        return shown | {"crop": self.crop, only: getattr(self, only)}

    def _given(self, *names: str) -> dict[str, Any]:
        """Those of the fields, added later, that do not have their defaults."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name in names}
        return {name: value for name, value in given.items() if value != getattr(View, name)}

    @property
    def cpu_seconds(self) -> int:
        """The sandbox's limit of CPU time for one sample."""
        return CLIP_CPU_SECONDS if self.clip else CPU_SECONDS
