"""Which frames of a video make a clip, and the uint8 pixels of clips that a model sees.

Letters: M clips of a video, T frames of a clip, n frames of a video, H W pixels.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from raylabel.errors import InputError

Reader = Literal["auto", "decord", "pyav"]


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

    reader: Reader = "auto"
    """'decord' reads what it can and PyAV the rest, 'pyav' reads all. 'auto': decord where it is installed; a run says
    which in its identity, since their pixels differ by 1 or 2 of 255."""

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("stride", 1), ("count", 1), ("max_resize", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise InputError(f"Clip.{name} is {value!r}; give a whole number of at least {least}")
        if self.reader not in get_args(Reader):
            raise InputError(f"Clip.reader is {self.reader!r}; give 'auto', 'decord' or 'pyav'")
