"""What the page shows of picked samples: small pictures, and for videos a filmstrip and a short clip.

All are encoded again from pixels, in the sandbox: nothing else of a file reaches the page.
"""

import io
import itertools
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from raylabel.media.image import decode_image
from raylabel.media.video_views import segment_of
from raylabel.report.page import RATE, SECONDS, Film

if TYPE_CHECKING:
    from raylabel.media.video import Video  # at run time only the sandbox needs it

SIDE = 112  # pixels: maximum of both sides of a picture, and of the short side of a clip
LONG_SIDE = 2 * SIDE  # pixels: maximum of the long side of a clip
FRAMES = 5  # frames of a filmstrip
FRAME_BOX = (128, 96)  # pixels: maximum size of one of these frames
GAP = 3  # black pixels between two frames

_HEAD = struct.Struct("<dIII")  # seconds; bytes of the strip, of the poster, of the clip


def thumbnail(image: Image.Image, side: int = SIDE) -> bytes:
    """JPEG of at most `side` x `side` pixels, without EXIF, comment, or colour profile.

    Smaller pictures are enlarged by a whole factor, so that the pixels of an 8x8 digit stay square. An EXIF
    orientation that the caller did not apply is not applied here either. Transparent pixels become white.
    """
    pixels = image.convert("RGBA")
    # A new image has no `info`, where Pillow stores comments and profiles, which it would write again.
    clean = Image.new("RGB", pixels.size, "white")
    clean.paste(pixels, mask=pixels.getchannel("A"))
    factor = side // max(clean.size)
    if factor > 1:
        clean = clean.resize((clean.width * factor, clean.height * factor), Image.Resampling.NEAREST)
    else:
        clean.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _jpeg(clean, quality=85, subsampling=0)  # full colour resolution, so that 8x8 squares keep sharp edges


def thumbnail_parser(max_jpeg_pixels: int) -> Callable[[bytes, Sequence[int]], bytes]:
    """The sandbox parser that makes the `thumbnail` of encoded pictures. `max_jpeg_pixels` is that of the view."""
    return lambda data, _: thumbnail(decode_image(data, max_jpeg_pixels))


def film(video: "Video") -> tuple[bytes, Film]:
    """(filmstrip, Film) of a video. The strip is a JPEG of FRAMES frames side by side, from the first to the last.

    Small videos are enlarged by a whole factor, as pictures are.
    """
    from raylabel.media.encode import encode_mp4

    step = max(1, round(video.fps / RATE))
    count = max(1, min(int(SECONDS * video.fps / step), -(-video.frames // step)))
    first = (video.frames - 1 - (count - 1) * step) // 2
    some = np.linspace(0, video.frames - 1, min(FRAMES, video.frames)).round().astype(int)
    scale = min(1, SIDE / min(video.width, video.height), LONG_SIDE / max(video.width, video.height))
    size = max(1, round(video.width * scale)), max(1, round(video.height * scale))
    frames = video.read([*some, *range(first, first + count * step, step)], size)
    if (factor := SIDE // max(size)) > 1:
        frames = frames.repeat(factor, 1).repeat(factor, 2)
    clip = frames[len(some) :]
    return _side_by_side(frames[: len(some)]), Film(
        seconds=video.frames / video.fps,
        poster=_jpeg(Image.fromarray(clip[0]), quality=70),
        clip=encode_mp4(clip, max(1, video.fps / step)),
    )


def film_parser() -> Callable[[bytes, Sequence[float]], bytes]:
    """The sandbox parser that makes the packed `film` of encoded videos. The numbers of a sample are the (start, end)
    of its segment, or ()."""
    from raylabel.media.video import Video, warm_up

    warm_up()
    return lambda data, segment: pack(*film(Video(data, segment_of(segment))))


def pack(strip: bytes, film: Film) -> bytes:
    """The strip and the film as bytes, which the sandbox can return."""
    return _HEAD.pack(film.seconds, len(strip), len(film.poster), len(film.clip)) + strip + film.poster + film.clip


def unpack(data: bytes) -> tuple[bytes, Film] | None:
    """The strip and the film that were packed; None if the data is invalid: the parser of a hostile video may return
    any bytes."""
    if len(data) < _HEAD.size:
        return None
    seconds, *lengths = _HEAD.unpack_from(data)
    ends = list(itertools.accumulate(lengths, initial=_HEAD.size))
    if ends[-1] != len(data) or not 0 <= seconds < 1e9:
        return None
    strip, poster, clip = (data[start:end] for start, end in itertools.pairwise(ends))
    return strip, Film(seconds, poster, clip)


def _side_by_side(frames: np.ndarray) -> bytes:
    pictures = [Image.fromarray(frame) for frame in frames]
    for picture in pictures:
        picture.thumbnail(FRAME_BOX, Image.Resampling.LANCZOS)
    width, height = pictures[0].size
    strip = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, height))
    for index, picture in enumerate(pictures):
        strip.paste(picture, (index * (width + GAP), 0))
    return _jpeg(strip, quality=75)


def _jpeg(image: Image.Image, **settings: int) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", **settings)
    return out.getvalue()
