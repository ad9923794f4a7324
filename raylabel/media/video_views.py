"""Converts encoded videos to the uint8 clips that a model gets, at evaluation and in training.

Letters: M clips of a video, T frames of a clip, n frames of a video, H W pixels, S side of the crop (`View.size`).
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from raylabel.errors import InputError
from raylabel.media.augment import make_augment
from raylabel.media.view import Clip

if TYPE_CHECKING:
    from raylabel.media.view import View


def with_short_side(size: tuple[float, float], side: int) -> tuple[int, int]:
    """`size` (width, height) scaled to the short side `side`; the long side is rounded down, as in torchvision."""
    width, height = size
    if width <= height:
        return side, int(side * height // width)
    return int(side * width // height), side


def eval_indices(frames: int, clip: Clip) -> np.ndarray:
    """The frames of each clip of a video of n `frames`, int64 [M, T].

    A clip spans (T - 1) stride + 1 frames. The first begins at frame 0, the last ends at frame n - 1, and the others
    begin at equal distances, rounded half up. A single clip is centred, rounded down. In a video shorter than the span
    all clips begin at 0. Frames repeat from the beginning: index i is frame i mod n.
    """
    room, steps = _room(frames, clip), clip.count - 1
    starts = (2 * room * np.arange(clip.count) + steps) // (2 * steps) if steps else np.array([room // 2])
    return (starts[:, None] + clip.stride * np.arange(clip.frames)) % frames


def _room(frames: int, clip: Clip) -> int:
    """The last frame at which a clip may begin."""
    return max(frames - (clip.frames - 1) * clip.stride - 1, 0)


def eval_clips(data: bytes, view: "View", segment: tuple[float, float] | None = None) -> np.ndarray:
    """The centres of M clips, uint8 [M, T, S, S, 3]: short side resized to `view.resize`, then a square of
    `view.tested_size`.

    `data` is the encoded video, `segment` the start and end in seconds of the sample, None for all of the video. Raises
    Reject as `Video` does. The clips are those of `eval_indices`. Every frame is decoded once, and the reader
    resizes it with bilinear interpolation.
    """
    from raylabel.media.video import Video

    clip = _clip_of(view)
    video = Video(data, segment)
    wanted, positions = np.unique(eval_indices(video.frames, clip), return_inverse=True)
    to = with_short_side((video.width, video.height), view.resize)
    side = view.tested_size
    left, top = (round((n - side) / 2) for n in to)
    frames = video.read(wanted, to, (left, top, left + side, top + side))
    return frames[positions.reshape(clip.count, clip.frames)]


def train_clip(data: bytes, view: "View", random: np.random.Generator) -> np.ndarray:
    """A random clip of the video, uint8 [T, S, S, 3]: a pure function of (data, view, state of `random`).

    The first frame is uniform among those for which the clip ends within the video. The short side is uniform from
    `view.resize` to `clip.max_resize`, the position of the crop is uniform, and with `view.flip` half of the clips are
    mirrored. With `view.crop` 'center' it is one of the clips of `eval_clips`, of `view.size` pixels. Size, crop,
    mirroring and augmentation are the same for all frames of a clip. Takes five values from `random`, and one with an
    augmentation, for every video.
    """
    from raylabel.media.video import Video

    clip = _clip_of(view)
    start, side, x, y, flip = random.random(5).tolist()
    video = Video(data)
    if view.crop == "center":
        indices = eval_indices(video.frames, clip)[int(start * clip.count)]
        to = with_short_side((video.width, video.height), view.resize)
        left, top = (round((n - view.size) / 2) for n in to)
    else:
        first = int(start * (_room(video.frames, clip) + 1))
        indices = (first + clip.stride * np.arange(clip.frames)) % video.frames
        largest = max(clip.max_resize, view.resize)
        to = with_short_side((video.width, video.height), view.resize + int(side * (largest - view.resize + 1)))
        left, top = (int(draw * (n - view.size + 1)) for draw, n in zip((x, y), to, strict=True))
    frames = video.read(indices, to, (left, top, left + view.size, top + view.size))
    frames = frames[:, :, ::-1] if view.flip and flip < 0.5 else frames
    augment = make_augment(view)
    return augment(frames, int(random.integers(1 << 63))) if augment else frames


def cut_parser(short_side: int, quality: int) -> Callable[[bytes, Sequence[float]], bytes]:
    """A parser for the sandbox that makes the training file of a video. A sample's numbers are (start, end) of its
    segment in seconds, or none.

    The result is empty for a whole video that need not be made smaller: training uses the bytes of the corpus. All its
    frames are decoded once here, so that training never reads a video that it cannot decode. Otherwise the result is an
    MP4 file: the segment as H.264 with the given `short_side` (0, or more than the video has: unchanged), at the
    video's frame rate. `quality` is x264's constant rate factor.
    """
    from raylabel.media.encode import encode_mp4
    from raylabel.media.video import Video, warm_up

    warm_up()

    def cut(data: bytes, numbers: Sequence[float]) -> bytes:
        video = Video(data, segment_of(numbers))
        size = video.width, video.height
        smaller = 0 < short_side < min(size)
        if not numbers and not smaller:
            video.check()
            return b""
        return encode_mp4(video.each(with_short_side(size, short_side) if smaller else size), video.fps, quality)

    return cut


def segment_of(numbers: Sequence[float]) -> tuple[float, float] | None:
    """The segment that a sample's numbers give: its start and end in seconds, or None if there are no numbers."""
    if not numbers:
        return None
    start, end = numbers
    return start, end


def _clip_of(view: "View") -> Clip:
    if view.clip is None:
        raise InputError("view.clip is not set, so the view is for pictures and not for videos: set view.clip")
    return view.clip
