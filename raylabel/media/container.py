"""Opens the file of a video and reads its header: size, rotation, timestamps, keyframes.

Letters: N frames of the whole video.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import av
import av.logging
import av.subtitles.codeccontext  # PyAV imports it at the first file with subtitles, when a child cannot open files
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from raylabel.media.formats import known_format
from raylabel.media.rejects import Reject

MAX_FRAME_PIXELS = 10_000_000  # a little over 4096 x 2304; a decoder keeps up to 17 frames of 1.5 or 3 bytes per pixel
MAX_ASPECT = 16  # largest ratio of a frame's sides; with a short side of 256 it gives a million pixels

# From a format's name to libavformat's name of its demuxer. The demuxer is set explicitly, since libavformat's own
# detection would also open playlists. (In QuickTime and MP4, references to other files are off by default.)
_DEMUXERS = {
    "Matroska or WebM": "matroska",
    "AVI": "avi",
    "Flash video": "flv",
    "MPEG transport stream": "mpegts",
    "MPEG program stream": "mpeg",
    "ASF or WMV": "asf",
    "Ogg": "ogg",
    "GIF": "gif",
}

# Containers and codecs in which every packet has the time at which its frame is shown. For others the number of frames
# is known only after decoding: an AVI packet may contain no frame or two, a packet of an interlaced broadcast half a
# frame.
_TIMED = frozenset(("mov", "matroska", "flv"))
_PICTURES = frozenset(("mjpeg", "png", "apng", "bmp", "gif", "tiff", "webp"))  # codecs of covers
_TIMED_CODECS = frozenset(("h264", "hevc", "vp8", "vp9", "av1", "mpeg4"))

av.logging.set_level(av.logging.PANIC)  # errors are reported by a Reject


@dataclass(frozen=True, kw_only=True)
class Header:
    """The properties of a video. All of it is decoded only if they cannot be read in another way."""

    stream: int
    """Index of the stream that is read."""
    width: int
    height: int
    """Size of an upright frame, pixels."""
    turns: int
    """Rotations by 90 degrees, counterclockwise, that make a stored frame upright."""
    times: np.ndarray
    """Seconds from the first frame to each frame, float64 [N]."""
    fps: float
    """Frames per second from the first frame to the last; for one frame or invalid timestamps, the header's value."""
    pts: list[int] | None
    """The timestamp of each frame, ascending, in the container's unit; None where they do not identify frames."""
    keys: list[int]
    """The frames at which decoding may begin, ascending; empty where `pts` is None."""
    codec: str
    """libavcodec's name of the codec."""


def demuxer_of(data: bytes) -> str:
    """libavformat's name of the demuxer, from the first bytes only; Reject if the file is not a video."""
    name = known_format(data)
    if name.startswith(("ISO media", "QuickTime")):
        return "mov"
    if name not in _DEMUXERS:
        raise Reject("format_not_allowed", name)
    return _DEMUXERS[name]


@contextmanager
def _container(data: bytes) -> Iterator[InputContainer]:
    """The opened file. A libav error in the block becomes a Reject with the same text in every run."""
    demuxer = demuxer_of(data)
    try:
        # Titles and names may be in any encoding, and are not used.
        with av.open(io.BytesIO(data), "r", format=demuxer, metadata_errors="replace") as container:
            yield container
    except (Reject, MemoryError):
        raise
    except EOFError as error:
        raise Reject("truncated", "ends too early") from error
    except Exception as error:
        detail = getattr(error, "strerror", None) or str(error)
        raise Reject("corrupt", f"{type(error).__name__}: {detail}") from error


@contextmanager
def opened(data: bytes, index: int | None = None) -> Iterator[tuple[InputContainer, VideoStream]]:
    """(container, its stream of this index, or the one that players show), decoded on the calling thread. Errors as in
    `_container`."""
    with _container(data) as container:
        stream = _shown_stream(container, data) if index is None else container.streams[index]
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        context.thread_count = 1
        context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}  # frames may be larger than the header says
        yield container, stream


def _shown_stream(container: InputContainer, data: bytes) -> VideoStream:
    """The video stream that players show: of those with several frames, the one that is marked as default, then the one
    with the largest frames (as in ffmpeg), then the first.

    A cover is no video: a picture that is marked as attached, or a single one in a codec for pictures beside other
    streams. (Some writers mark the cover as default, and the film not.)
    """
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    decoded = [stream for stream in streams if stream.codec_context is not None]
    if streams and not decoded:
        raise Reject("format_not_allowed", "no decoder for its codec")
    pictures = {stream.index for stream in decoded if stream.codec_context.name in _PICTURES}
    if len(container.streams) > 1 and (len(decoded) > 1 or pictures):
        packets = _count_packets(data, [stream.index for stream in decoded])
        decoded = [stream for stream in decoded if packets[stream.index] != 1 or stream.index not in pictures]
    else:
        packets = {}
    if not decoded:
        raise Reject("corrupt", "no video stream")

    def rank(stream: VideoStream) -> tuple[bool, bool, int, int]:
        default = bool(stream.disposition & Disposition.default)
        return packets.get(stream.index, 0) > 1, default, stream.width * stream.height, -stream.index

    return max(decoded, key=rank)


def _count_packets(data: bytes, indices: list[int]) -> dict[int, int]:
    """The number of packets of each of these streams, read until each has two or the file ends."""
    packets = dict.fromkeys(indices, 0)
    with _container(data) as container:
        for packet in container.demux([container.streams[index] for index in indices]):
            packets[packet.stream.index] += packet.size > 0
            if min(packets.values()) > 1:
                break
    return packets


def read_header(data: bytes) -> Header:
    """Reads all packets and decodes the first frame. Reject if the file is not a video that can be decoded here."""
    with opened(data) as (container, stream):
        index, context = stream.index, stream.codec_context
        size = context.width, context.height
        if min(size) < 1:
            raise Reject("corrupt", f"frames of {size[0]} x {size[1]}")
        if size[0] * size[1] > MAX_FRAME_PIXELS or max(size) > MAX_ASPECT * min(size):
            limits = f"limits {MAX_FRAME_PIXELS} and {MAX_ASPECT} to 1"
            raise Reject("too_many_pixels", f"frames of {size[0]} x {size[1]}, {limits}")
        codec = context.codec.canonical_name
        first, shown, keys = None, [], []
        for packet in container.demux(stream):
            if first is None:
                first = next(iter(packet.decode()), None)
            if not packet.size:
                continue
            # Not shown: cut off by an edit list, or (VP8) only a reference for other pictures.
            if packet.is_discard or codec == "vp8" and not memoryview(packet)[0] & 0x10:
                continue
            if packet.is_keyframe:
                keys.append(len(shown))
            shown.append(packet.pts)
        if first is None:
            raise Reject("corrupt", "no frame can be decoded")
        rotation = first.rotation
        base, rate = stream.time_base or Fraction(1), stream.average_rate or stream.guessed_rate
        timed = container.format.name.partition(",")[0] in _TIMED and codec in _TIMED_CODECS
    pts = None
    if timed and None not in shown and len(set(shown)) == len(shown):
        pts = sorted(shown)
    if pts is None:
        times = _decoded_timestamps(data, index)
        keys = []
    else:
        times = pts
        keys = sorted(np.searchsorted(pts, [shown[key] for key in keys]).tolist())
    turns = rotation // 90 % 4 if rotation % 90 == 0 else 0
    width, height = size[::-1] if turns % 2 else size
    seconds, fps = _seconds(times, base, rate)
    return Header(
        stream=index,
        width=width,
        height=height,
        turns=turns,
        times=seconds,
        fps=fps,
        pts=pts,
        keys=keys,
        codec=codec,
    )


def _decoded_timestamps(data: bytes, index: int) -> list[int | None]:
    """The timestamps of all frames, in the order in which they are decoded."""
    with opened(data, index) as (container, stream):
        return [frame.pts for frame in container.decode(stream)]


def _seconds(times: list[int] | list[int | None], base: Fraction, rate: Fraction | None) -> tuple[np.ndarray, float]:
    if len(times) > 1 and None not in times:
        units = np.array(times, np.int64)
        if (np.diff(units) > 0).all():
            seconds = (units - units[0]) * base.numerator / base.denominator
            return seconds, float((len(units) - 1) / seconds[-1])
    fps = float(rate or 25)
    return np.arange(len(times)) / fps, fps
