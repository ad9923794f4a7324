"""Encoded videos to upright RGB frames. No other module decodes frames, and this one runs only in the sandbox.

All videos are read with PyAV. decord 0.6.0, a common choice, is not faster and silently returns wrong pixels for some
files: wrong frames on random access in H.264 that begins with an open group of pictures, wrong colours in 10-bit video,
and unrelated memory after the end of a truncated file.

Letters: n frames of the segment, H W pixels of a frame.
"""

import contextlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from av.container import InputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from raylabel.media.container import MAX_FRAME_PIXELS, opened, read_header
from raylabel.media.encode import encode_mp4
from raylabel.media.rejects import Reject

# With these codecs the decoder can skip frames from which no other frame is predicted, without changing the others.
_SKIPPED_CODECS = frozenset(("h264", "hevc"))

Size = tuple[int, int]  # width, height
Box = tuple[int, int, int, int]  # left, top, right, bottom


class Video:
    """A video, or a segment of it: the frames shown at start ≤ t < end, t in seconds from the first frame.

    Frames are upright: a rotation by 90, 180 or 270 degrees in the file's metadata is applied (other angles and
    mirroring are not). Pixels that are not square are not resampled. Where timestamps are missing or invalid, frames
    are assumed to be evenly spaced at the header's rate. Of several video streams the one that players show is read.
    """

    def __init__(self, data: bytes, segment: tuple[float, float] | None = None) -> None:
        """`data`: the encoded file. All methods raise Reject if it cannot be read, and otherwise only MemoryError."""
        self._data = data
        self._header = header = read_header(data)
        self.width, self.height, self.fps = header.width, header.height, header.fps
        first, last = 0, len(header.times)
        if segment is not None:
            first, last = np.searchsorted(header.times, segment).tolist()
            if first >= last:
                length = header.times[-1] + 1 / self.fps
                raise Reject("truncated", f"no frame from {segment[0]:g} to {segment[1]:g} s of {length:.6g} s")
        self._first = first
        self.frames: int = last - first
        """n, frames of the segment."""

    def read(
        self,
        indices: Sequence[int] | np.ndarray,
        size: Size | None = None,
        box: Box | None = None,
    ) -> np.ndarray:
        """The frames of these indices, uint8 [len(indices), H, W, 3]. Indices count from the segment's first frame, in
        any order, and may repeat.

        `size`: (width, height) to which each frame is resized, bilinear; None: not resized. `box`: the (left, top,
        right, bottom) that is kept of the resized frame; None: all of it. Where a packet gives no frame, the frame
        before it is repeated, as in a player. Reject if this applies to more than half of the frames up to the last
        index.
        """
        wanted, positions = np.unique(np.asarray(indices, np.int64), return_inverse=True)
        if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < self.frames:
            raise IndexError(f"frames {wanted[0]} to {wanted[-1]} of {self.frames}")
        size = self._checked(size)
        wanted += self._first
        found = np.stack(list(self._decode(wanted.tolist(), size, box or (0, 0, *size))))
        positions = positions.reshape(-1)
        return found if np.array_equal(positions, np.arange(len(found))) else found[positions]

    def each(self, size: Size | None = None) -> Iterator[np.ndarray]:
        """Every frame of the segment in order, uint8 [H, W, 3], one at a time."""
        size = self._checked(size)
        return self._decode(range(self._first, self._first + self.frames), size, (0, 0, *size))

    def check(self) -> None:
        """Decodes every frame of the segment once; Reject if that fails."""
        for _ in self.each((16, 16)):
            pass

    def _checked(self, size: Size | None) -> tuple[int, int]:
        width, height = size or (self.width, self.height)
        if width * height > MAX_FRAME_PIXELS:
            raise Reject("too_many_pixels", f"frames of {width} x {height}, limit {MAX_FRAME_PIXELS}")
        return width, height

    def _decode(self, wanted: Sequence[int], size: Size, box: Box) -> Iterator[np.ndarray]:
        """The frames of these indices, which count from the video's first frame and ascend without repeats."""
        done = 0
        if self._header.pts is not None:
            with contextlib.suppress(Reject):
                for frame in self._decode_some(self._header.pts, wanted, size, box):
                    yield frame
                    done += 1
        if done < len(wanted):
            yield from self._decode_all(wanted[done:], size, box)

    def _decode_some(self, pts: list[int], wanted: Sequence[int], size: Size, box: Box) -> Iterator[np.ndarray]:
        """`_decode` by seeking and skipping frames. Ends early at the first frame that it cannot identify.

        The frames equal those of decoding from the beginning: each is identified by its timestamp, and decoding resumes
        only at a keyframe that is an intra-coded picture.
        """
        needed = {pts[index] for index in wanted} if self._header.codec in _SKIPPED_CODECS else None
        convert = self._converter(size, box)
        with opened(self._data, self._header.stream) as (container, stream):
            todo = at = 0  # the next position in `wanted`, and the next frame of the decoder
            while (key := self._key_between(at, wanted[todo])) is not None or not at:
                if key is not None:
                    container.seek(pts[key], stream=stream)
                for frame in _frames(container, stream, needed):
                    index = -1 if frame.pts is None else bisect_left(pts, frame.pts)
                    if key is not None and (index != key or frame.pict_type != PictureType.I):
                        return
                    key, at = None, index + 1
                    if not 0 <= index <= wanted[todo] or pts[index] != frame.pts:
                        return
                    if index == wanted[todo]:
                        yield convert(frame)
                        todo += 1
                        if todo == len(wanted):
                            return
                        if self._key_between(at, wanted[todo]) is not None:
                            break
                else:
                    return

    def _decode_all(self, wanted: Sequence[int], size: Size, box: Box) -> Iterator[np.ndarray]:
        """`_decode` by decoding every frame, starting at the video's first frame."""
        pts, convert = self._header.pts, self._converter(size, box)
        todo = at = decoded = 0
        shown = None
        with opened(self._data, self._header.stream) as (container, stream):
            for frame in container.decode(stream):
                index = at
                if pts is not None:
                    index = -1 if frame.pts is None else bisect_left(pts, frame.pts)
                    if not at <= index < len(pts) or pts[index] != frame.pts:
                        continue
                at, decoded = index + 1, decoded + 1
                while todo < len(wanted) and wanted[todo] <= index:
                    yield convert(frame if wanted[todo] == index else shown or frame)
                    todo += 1
                if todo == len(wanted):
                    break
                shown = frame
            for _ in wanted[todo:]:
                if shown is None:
                    raise Reject("corrupt", "no frame can be decoded")
                yield convert(shown)
            if 2 * decoded <= wanted[-1]:
                raise Reject("corrupt", f"only {decoded} of {wanted[-1] + 1} frames can be decoded")

    def _key_between(self, at: int, wanted: int) -> int | None:
        """The last keyframe up to `wanted` if it is after `at`, so that seeking saves decoding; else None."""
        count = bisect_right(self._header.keys, wanted)
        return key if count and (key := self._header.keys[count - 1]) > at else None

    def _converter(self, size: Size, box: Box) -> Callable[[VideoFrame], np.ndarray]:
        """A function from a decoded frame to uint8 [H, W, 3], resized to `size` and cropped to `box`.

        One reformatter is used for all frames: its setup takes as long as ten calls. Resized frames are read as planes:
        at 170 x 128 that is 1.3 times as fast, and differs from a resize in floats by 0.4 of 255 instead of 1.7.
        """
        reformat, turns = VideoReformatter().reformat, self._header.turns
        width, height = size[::-1] if turns % 2 else size
        left, top, right, bottom = box
        planar = size != (self.width, self.height)

        def convert(frame: VideoFrame) -> np.ndarray:
            form = "gbrp" if planar else "rgb24"
            rgb = reformat(frame, width, height, form, interpolation=Interpolation.BILINEAR, threads=1)
            if not planar:
                return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), turns)[top:bottom, left:right])
            out = np.empty((bottom - top, right - left, 3), np.uint8)
            for channel, plane in zip((1, 2, 0), rgb.planes, strict=True):
                stored = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[:height, :width]
                out[..., channel] = np.rot90(stored, turns)[top:bottom, left:right]
            return out

        return convert


def _frames(container: InputContainer, stream: VideoStream, needed: set[int] | None) -> Iterator[VideoFrame]:
    """The frames from the current position on. `needed`: a set of timestamps; the decoder may skip frames outside it
    from which no other frame is predicted. None: no frame is skipped."""
    skips = False
    for packet in container.demux(stream):
        if needed is not None and skips != (skip := packet.size > 0 and packet.pts not in needed):
            skips = skip
            stream.codec_context.skip_frame = "NONREF" if skip else "DEFAULT"
        yield from packet.decode()


def warm_up() -> None:
    """Reads a video, so that libraries that load files at their first use do so before the sandbox forks a child, which
    cannot open files."""
    data = encode_mp4([np.zeros((16, 16, 3), np.uint8)] * 3, 25)
    Video(data).read([0, 2], (32, 24))
