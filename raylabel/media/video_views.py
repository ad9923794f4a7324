"""Which frames of a video make a clip, and the uint8 pixels of clips that a model sees.

Letters: M clips of a video, T frames of a clip, n frames of a video, H W pixels, S side of the crop (`View.size`).
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from raylabel.errors import InputError
from raylabel.media.view import Clip

if TYPE_CHECKING:
    from raylabel.media.view import View


def with_short_side(size: tuple[float, float], side: int) -> tuple[int, int]:
    """`size` (width, height) with its short side at `side`; the long side is rounded down, as torchvision."""
    width, height = size
    if width <= height:
        return side, int(side * height // width)
    return int(side * width // height), side


def eval_indices(frames: int, clip: Clip) -> np.ndarray:
    """The frames of each clip of a video of n `frames`, int64 [M, T].

    A clip spans (T - 1) stride + 1 frames. The first begins at frame 0, the last one ends at frame n - 1, and those
    between begin at equal distances, rounded half up; a single clip stands in the middle, rounded down. Of a video that
    is shorter than the span all begin at 0. Index i is frame i mod n.
    """
    room, steps = _room(frames, clip), clip.count - 1
    starts = (2 * room * np.arange(clip.count) + steps) // (2 * steps) if steps else np.array([room // 2])
    return (starts[:, None] + clip.stride * np.arange(clip.frames)) % frames


def _room(frames: int, clip: Clip) -> int:
    """The last frame at which a clip may begin."""
    return max(frames - (clip.frames - 1) * clip.stride - 1, 0)


def eval_clips(data: bytes, view: "View", part: tuple[float, float] | None = None) -> np.ndarray:
    """The centres of M clips, uint8 [M, T, S, S, 3]; short side resized to `view.resize`, then the `view.size` square.

    `data` is the encoded video, `part` its start and end in seconds; raises Reject as `Video`. The clips are those of
    `eval_indices`. Every frame is decoded once and resized by the reader, bilinear.
    """
    from raylabel.media.video import Video

    clip = _clip_of(view)
    video = Video(data, part)
    wanted, places = np.unique(eval_indices(video.frames, clip), return_inverse=True)
    to = with_short_side((video.width, video.height), view.resize)
    left, top = (round((n - view.size) / 2) for n in to)
    frames = video.read(wanted, to, (left, top, left + view.size, top + view.size))
    return frames[places.reshape(clip.count, clip.frames)]


def train_clip(data: bytes, view: "View", random: np.random.Generator) -> np.ndarray:
    """A random clip of the video, uint8 [T, S, S, 3]: a pure function of (data, view, state of `random`).

    It begins anywhere from frame 0 to where it still ends within the video; its short side is uniform from
    `view.resize` to `clip.max_resize`, its crop anywhere, and it is mirrored in half of the cases where `view.flip`.
    Size, crop and mirroring are the same for all its frames. Takes five values from `random`, whatever the video.
    """
    from raylabel.media.video import Video

    clip = _clip_of(view)
    start, side, x, y, flip = random.random(5).tolist()
    video = Video(data)
    first = int(start * (_room(video.frames, clip) + 1))
    indices = (first + clip.stride * np.arange(clip.frames)) % video.frames
    most = max(clip.max_resize, view.resize)
    to = with_short_side((video.width, video.height), view.resize + int(side * (most - view.resize + 1)))
    left, top = (int(draw * (n - view.size + 1)) for draw, n in zip((x, y), to, strict=True))
    frames = video.read(indices, to, (left, top, left + view.size, top + view.size))
    return frames[:, :, ::-1] if view.flip and flip < 0.5 else frames


def cut_parser(short_side: int, quality: int) -> Callable[[bytes, Sequence[float]], bytes]:
    """What to train on of a video, or of the part that a sample's numbers (start, end) name; for the sandbox.

    No bytes where those of the corpus will do: of a whole video that is not to be made smaller. Then every frame has
    been decoded once, so that training meets no video that it cannot read. Else an MP4 file of the part, H.264 of that
    `short_side` (0, or more than it has: as it is), at the video's frame rate. `quality`: x264's constant rate factor.
    """
    from raylabel.media.encode import encode_mp4
    from raylabel.media.video import Video, warm_up

    warm_up()

    def cut(data: bytes, numbers: Sequence[float]) -> bytes:
        video = Video(data, part_of(numbers))
        size = video.width, video.height
        smaller = 0 < short_side < min(size)
        if not numbers and not smaller:
            video.check()
            return b""
        return encode_mp4(video.each(with_short_side(size, short_side) if smaller else size), video.fps, quality)

    return cut


def part_of(numbers: Sequence[float]) -> tuple[float, float] | None:
    """The part of the video that a sample's numbers name: none, or its start and end in seconds."""
    if not numbers:
        return None
    start, end = numbers
    return start, end


def _clip_of(view: "View") -> Clip:
    if view.clip is None:
        raise InputError("the view has no `clip`, so it is one of pictures and not of videos")
    return view.clip
