"""What a model sees of an image or a video: sizes, crops, clips."""

from dataclasses import dataclass
from typing import Literal

from raylabel.errors import InputError
from raylabel.media.sandbox.child import CPU_SECONDS

# Of one video in the sandbox: to decode all of five minutes of 1920 x 1080, or of two hours of 320 x 240 (H.264, about
# 150 and 3,000 frames per second on a core); ten clips of a video need less, where its keyframes are 10 s apart.
CLIP_CPU_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What of a video a model sees. The defaults are those of R(2+1)D on Kinetics with 8 frames."""

    frames: int = 8
    """T, frames of a clip."""

    stride: int = 1
    """Frames of the video from one frame of the clip to the next. A clip that reaches over the video's end goes on at
    its beginning, as if it were looped."""

    count: int = 10
    """M, clips of a video at scoring and testing, from its first frame to its last, uniformly spaced (Yalniz et al.
    2019 §5.1: 10). In training one clip is drawn, from anywhere."""

    max_resize: int = 0
    """Scale jitter: in training the short side is drawn from `View.resize` to this, pixels, before the random crop; 0:
    it is `View.resize`."""

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("stride", 1), ("count", 1), ("max_resize", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise InputError(f"Clip.{name} is {value!r}; give a whole number of at least {least}")


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
