"""Encoded videos to RGB frames: the one place where the bytes of a video are parsed, only ever inside the sandbox.

decord reads what it is known to read right, PyAV the rest; which of them is told from the file alone, before a frame is
asked for. Letters: n frames of the part, N frames of the whole video, H W pixels of a frame.
"""

import io
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from importlib.util import find_spec
from typing import Literal

import av
import av.subtitles.codeccontext  # PyAV does so at the first file with subtitles, where a child may open no files
import numpy as np
from av.stream import Disposition
from av.video.frame import PictureType
from av.video.reformatter import Interpolation, VideoReformatter

from raylabel.media.decode import Reject, known_format
from raylabel.media.encode import encode_mp4

# Imported before a sandboxed child is forked, which by then may open no files.
decord = __import__("decord") if find_spec("decord") else None

MAX_FRAME_PIXELS = 10_000_000  # 4096 x 2304 and a little; a decoder keeps up to 17 frames of 1.5 bytes a pixel, or 3
MAX_ASPECT = 16  # of the sides of a frame: with its short side at 256 it would be a million pixels

# libavformat's name of the reader by the name of the format. It is forced: told by the content alone, a list of
# addresses would be opened. (QuickTime's external references are not followed unless asked for.)
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
_STILL = (b"avif", b"avis", b"mif1", b"msf1", b"heic", b"heix", b"hevc", b"hevx")  # brands of pictures in ISO media
_DEMUXER_OPTIONS = {"protocol_whitelist": "none"}

# Containers that give every packet the time at which its frame is shown, and know where keyframes are.
_TIMED = frozenset(("mov", "matroska", "flv"))
_TIMED_CODECS = frozenset(("h264", "hevc", "vp8", "vp9", "av1", "mpeg4"))

# What decord 0.6.0 (FFmpeg 4.1) was compared with PyAV for: at native size the frames are the same bytes. Of 10-bit
# video it gives other colours, of AVI and of open groups of pictures at times other frames.
_DECORD_CODECS = _TIMED_CODECS - {"av1"}
_DECORD_PIXELS = frozenset(("yuv420p", "yuvj420p"))
_DECORD_TOGETHER = 64  # frames of one batch where all frames are read


av.logging.set_level(av.logging.PANIC)  # what is wrong with a video stands in its Reject
if decord:
    decord.logging.set_level(decord.logging.QUIET)


def warm_up() -> None:
    """Reads a video by either reader: a child of the sandbox, which opens no file, finds all that is loaded at the
    first use."""
    data = encode_mp4([np.zeros((16, 16, 3), np.uint8)] * 3, 25)
    for reader in ("decord", "pyav") if decord else ("pyav",):
        Video(data, reader).read([0, 2], (32, 24))


def demuxer_of(data: bytes) -> str:
    """libavformat's name of what reads such files, by the first bytes alone; Reject for all that is no video."""
    name = known_format(data)
    if name.startswith("ISO media") and data[8:12] not in _STILL or name.startswith("QuickTime"):
        return "mov"
    if name not in _DEMUXERS:
        raise Reject("format_not_allowed", name)
    return _DEMUXERS[name]


class _Watched(io.BytesIO):
    """Whether the reader went beyond the end: the file is shorter than it says."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._length, self.beyond = len(data), False

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        place = super().seek(offset, whence)
        self.beyond |= place > self._length
        return place


class Video:
    """A video, or the part of it from `start` to `end` in seconds: the frames shown at start ≤ t < end.

    t counts from the first frame. Frames are upright: a rotation by 90, 180 or 270 degrees that the file asks for is
    applied (others and mirroring are not); pixels that are not square stay as they are stored. Timestamps that are
    missing or make no sense count as frames of the header's rate, one after another.
    """

    def __init__(
        self, data: bytes, reader: Literal["decord", "pyav"] = "decord", part: tuple[float, float] | None = None
    ) -> None:
        """`data`: the encoded file. `reader`: 'decord' reads what it can and PyAV the rest, 'pyav' reads all.

        Raises Reject, as all methods do; only MemoryError may pass besides.
        """
        self._data = data
        self._demuxer = demuxer_of(data)
        self._keys: list[int] = []  # the frames that can be sought, ascending
        with _rejects():
            by_decord = self._scan()
        if reader == "decord" and decord is None:
            raise RuntimeError("decord is not installed here; 'pyav' reads without it")
        self._by_decord = by_decord and reader == "decord"
        self._decord: tuple[tuple[int, int], object] | None = None
        first, last = 0, len(self._times)
        if part is not None:
            first, last = np.searchsorted(self._times, part).tolist()
            if first >= last:
                length = self._times[-1] + 1 / self.fps
                raise Reject("truncated", f"no frame from {part[0]:g} to {part[1]:g} s of {length:.6g} s")
        self._first = first
        self.frames: int = last - first
        """n, frames of the part."""

    def read(self, indices: Sequence[int] | np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
        """The frames of these indices, uint8 [len(indices), H, W, 3], in any order, with repeats; 0 is the part's first.

        `size`: (width, height) to which frames are resized as they are decoded, bilinear; None: as they are.
        A frame that is not there though its packet is, is the one before it, as in a player.
        """
        wanted, places = np.unique(np.asarray(indices, np.int64), return_inverse=True)
        places = places.reshape(-1)
        if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < self.frames:
            raise IndexError(f"frames {wanted[0]} to {wanted[-1]} of {self.frames}")
        size = self._checked(size)
        wanted += self._first
        if self._by_decord and (found := self._read_decord(wanted, size)) is not None:
            return _placed(found, places)
        found = np.empty((len(wanted), size[1], size[0], 3), np.uint8)
        with _rejects():
            for slot, frame in enumerate(self._decode(wanted, size)):
                found[slot] = frame
        return _placed(found, places)

    def each(self, size: tuple[int, int] | None = None) -> Iterator[np.ndarray]:
        """Every frame of the part in order, uint8 [H, W, 3], one at a time, always by PyAV: what is made of them is then
        the same on every machine."""
        size = self._checked(size)
        with _rejects():
            yield from self._decode(np.arange(self._first, self._first + self.frames), size)

    def check(self) -> None:
        """Decodes every frame of the part once, with what will read it; Reject if that fails."""
        size = (16, 16)
        if self._by_decord:
            for low in range(self._first, self._first + self.frames, _DECORD_TOGETHER):
                high = min(low + _DECORD_TOGETHER, self._first + self.frames)
                if self._read_decord(np.arange(low, high), size) is None:
                    break
            else:
                return
        for _ in self.each(size):
            pass

    def _checked(self, size: tuple[int, int] | None) -> tuple[int, int]:
        width, height = size or (self.width, self.height)
        if width * height > MAX_FRAME_PIXELS:
            raise Reject("too_many_pixels", f"frames of {width} x {height}, limit {MAX_FRAME_PIXELS}")
        return width, height

    # What the file says ---------------------------------------------------------------------------------------------

    def _open(self) -> "tuple[av.container.InputContainer, av.VideoStream, int, _Watched]":
        """(container, the stream, number of video streams, the file); the decoder has not begun."""
        file = _Watched(self._data)
        container = av.open(file, format=self._demuxer, options=_DEMUXER_OPTIONS)
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise Reject("corrupt", "no video stream")
        context = streams[0].codec_context
        context.thread_count = 1
        context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
        return container, streams[0], len(streams), file

    def _scan(self) -> bool:
        """Reads the header, all packets and the first frame; whether decord is known to read such files right."""
        container, stream, streams, file = self._open()
        with container:
            context = stream.codec_context
            size = context.width, context.height
            if min(size) < 1:
                raise Reject("corrupt", f"frames of {size[0]} x {size[1]}")
            if size[0] * size[1] > MAX_FRAME_PIXELS or max(size) > MAX_ASPECT * min(size):
                limit = f"limits {MAX_FRAME_PIXELS} and {MAX_ASPECT} to 1"
                raise Reject("too_many_pixels", f"frames of {size[0]} x {size[1]}, {limit}")
            codec, pixels = context.codec.canonical_name, context.pix_fmt
            first, sound = None, True
            shown: list[int | None] = []
            keys: list[int] = []
            for packet in container.demux(stream):
                if first is None:
                    first = next(iter(packet.decode()), None)
                if not packet.size:
                    continue
                if packet.is_discard or packet.is_corrupt or codec == "vp8" and not memoryview(packet)[0] & 0x10:
                    sound = False  # no frame is shown for it
                    if not packet.is_corrupt:
                        continue
                if packet.is_keyframe:
                    keys.append(len(shown))
                shown.append(packet.pts)
            sound &= not file.beyond  # decord would read what stands in memory behind the file
            if first is None:
                raise Reject("corrupt", "no frame can be decoded")
            rotation = first.rotation
            self._turns = round(rotation / 90) % 4 if rotation % 90 == 0 else 0
            self.width, self.height = size[::-1] if self._turns % 2 else size
            base, rate = stream.time_base, stream.average_rate or stream.guessed_rate
        timed = (
            self._demuxer in _TIMED and codec in _TIMED_CODECS and None not in shown and len(set(shown)) == len(shown)
        )
        self._pts = np.array(sorted(shown), np.int64) if timed else None
        if self._pts is None:
            times = self._count()
            if not times:
                raise Reject("corrupt", "no frame can be decoded")
        else:
            times = self._pts.tolist()
            # An open group of pictures: what is shown before a keyframe stands behind it, and needs what came before.
            self._keys = np.searchsorted(self._pts, [shown[place] for place in keys]).tolist()
            sound &= self._keys == keys and keys[:1] == [0]
            self._keys.sort()
        self._times, self.fps = _seconds(times, base, rate)
        return (
            sound
            and timed
            and streams == 1
            and codec in _DECORD_CODECS
            and pixels in _DECORD_PIXELS
            and (rotation == 0 or self._demuxer == "mov" and rotation % 90 == 0)
        )

    def _count(self) -> list[int | None]:
        """The timestamps of all frames, where only decoding can tell how many there are."""
        container, stream, *_ = self._open()
        with container:
            return [frame.pts for frame in container.decode(stream)]

    # Frames ---------------------------------------------------------------------------------------------------------

    def _read_decord(self, wanted: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
        """The frames of these indices of the whole video, which ascend; None: PyAV has to read this file."""
        try:
            if self._decord is None or self._decord[0] != size:
                self._decord = None  # the old one's frames go first
                options = {"width": size[0], "height": size[1], "num_threads": 1, "fault_tol": 1e-9}
                reader = decord.VideoReader(io.BytesIO(self._data), ctx=decord.cpu(0), **options)
                if len(reader) != len(self._times):
                    raise ValueError("another number of frames")
                self._decord = size, reader
            found = self._decord[1].get_batch(wanted).asnumpy()
            if found.shape != (len(wanted), size[1], size[0], 3):
                raise ValueError("another shape")
            return found
        except MemoryError:
            raise
        except Exception:
            self._by_decord, self._decord = False, None
            return None

    def _decode(self, wanted: np.ndarray, size: tuple[int, int]) -> Iterator[np.ndarray]:
        """The frames of these indices of the whole video, which ascend without repeats."""
        done = 0
        for frame in self._decode_from(wanted, size, bool(self._keys)):
            if frame is None:  # a keyframe was not where the container says: what was given is right, the rest again
                yield from self._decode_from(wanted[done:], size, False)
                return
            done += 1
            yield frame

    def _decode_from(self, wanted: np.ndarray, size: tuple[int, int], seeks: bool) -> Iterator[np.ndarray | None]:
        container, stream, *_ = self._open()
        reformatter, turned = VideoReformatter(), size[::-1] if self._turns % 2 else size

        def pixels(frame: av.VideoFrame) -> np.ndarray:
            frame = reformatter.reformat(frame, *turned, "rgb24", interpolation=Interpolation.BILINEAR, threads=1)
            return np.rot90(frame.to_ndarray(), self._turns)

        with container:
            at, todo, missing = 0, 0, 0
            while todo < len(wanted):
                key = self._key(at, int(wanted[todo])) if seeks else None
                if key is not None:
                    container.seek(int(self._pts[key]), stream=stream)
                shown = None
                for frame in container.decode(stream):
                    index = self._index(frame, at)
                    if index is None or index < at:
                        continue
                    if key is not None and (index != key or frame.pict_type != PictureType.I):
                        yield None
                        return
                    at, key = index + 1, None
                    while todo < len(wanted) and wanted[todo] < index:
                        yield pixels(shown or frame)
                        todo, missing = todo + 1, missing + 1
                    if todo < len(wanted) and wanted[todo] == index:
                        yield pixels(frame)
                        todo += 1
                    shown = frame
                    if todo == len(wanted) or seeks and self._key(at, int(wanted[todo])) is not None:
                        break
                else:
                    if key is not None:
                        yield None
                        return
                    if shown is None:
                        raise Reject("corrupt", f"frame {wanted[todo]} cannot be decoded")
                    for _ in wanted[todo:].tolist():
                        yield pixels(shown)
                        todo, missing = todo + 1, missing + 1
            if 2 * missing > len(wanted):
                raise Reject("corrupt", f"{missing} of {len(wanted)} frames cannot be decoded")

    def _index(self, frame: av.VideoFrame, at: int) -> int | None:
        """Which frame of the whole video this is, `at` being the next; None if it is none of them."""
        if self._pts is None:
            return at
        if frame.pts is None:
            return None
        index = int(np.searchsorted(self._pts, frame.pts))
        return index if index < len(self._pts) and self._pts[index] == frame.pts else None

    def _key(self, at: int, wanted: int) -> int | None:
        """The last keyframe up to `wanted`, if it lies beyond `at`, so that seeking saves decoding."""
        place = bisect_right(self._keys, wanted)
        return self._keys[place - 1] if place and self._keys[place - 1] > at else None


def _placed(found: np.ndarray, places: np.ndarray) -> np.ndarray:
    return found if np.array_equal(places, np.arange(len(found))) else found[places]


def _seconds(times: list[int | None], base: Fraction, rate: Fraction | None) -> tuple[np.ndarray, float]:
    """(time of each frame from the first one's, in seconds, float64 [N]; frames per second)."""
    if len(times) > 1 and None not in times:
        units = np.array(times, np.int64)
        if (np.diff(units) > 0).all():
            seconds = (units - units[0]) * base.numerator / base.denominator
            return seconds, float((len(units) - 1) / seconds[-1])
    fps = float(rate or 25)
    return np.arange(len(times)) / fps, fps


@contextmanager
def _rejects() -> Iterator[None]:
    """What libav raises is a Reject, in words that are the same in every run."""
    try:
        yield
    except (Reject, MemoryError):
        raise
    except EOFError as error:
        raise Reject("truncated", "ends too early") from error
    except Exception as error:
        detail = getattr(error, "strerror", None) or str(error)
        raise Reject("corrupt", f"{type(error).__name__}: {detail}") from error
