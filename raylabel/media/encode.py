"""Encodes frames as an H.264 video in an MP4 file. Equal frames give equal bytes, on any number of cores.

Letters: H W pixels of a frame.
"""

import io
import itertools
from collections.abc import Iterable
from fractions import Fraction

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation

# Without B-frames the packets are in the order of the frames, the first is at time 0, and no edit list is needed, so
# readers that ignore such a list (decord) and readers that apply it return the same frames. With one thread and
# cpu-independent=1 the bytes do not depend on the machine.
_X264 = "threads=1:bframes=0:cpu-independent=1"
# libswscale's fast code rounds differently on different processors.
_EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INP


def encode_mp4(frames: Iterable[np.ndarray], fps: float, crf: int = 23) -> bytes:
    """The frames as an MP4 file. Each is uint8 [H, W, 3], and all have one size.

    Frames are consumed one at a time; x264 keeps about 40. A reader returns every frame once, in this order. `crf` is
    x264's constant rate factor, 0 (lossless except for colour conversion) to 51; 6 more halves the bytes.

    Odd sides are padded to even ones by repeating the last row or column, since colours are stored at half the
    resolution (4:2:0); `[:H, :W]` of a decoded frame is the original. Colours are BT.601, limited range, as readers
    that ignore the tags assume; the tags say so, with the primaries and transfer curve of sRGB. The file has no audio,
    no creation time and no encoder name.

    ValueError if there is no frame, a frame is not uint8 [H, W, 3], sizes differ, or `fps` is not 0.01 to 1000.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError("no frames to encode")
    if not 0.01 <= fps <= 1000:
        raise ValueError(f"fps is {fps}; give 0.01 to 1000")
    rate = Fraction(fps).limit_denominator(1001)  # exact for NTSC's rates such as 30000/1001
    height, width = _checked(first, first.shape).shape[:2]
    out = io.BytesIO()
    with av.open(out, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf), "x264-params": _X264})
        context = stream.codec_context
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        context.colorspace = 6  # SMPTE 170M, BT.601's matrix; the enum `Colorspace` has libswscale's values instead
        context.color_primaries = ColorPrimaries.BT709
        context.color_trc = ColorTrc.IEC61966_2_1
        # x264 writes its name and settings into the first packet (SEI, unit type 6).
        strip = BitStreamFilterContext("filter_units=remove_types=6", in_stream=stream)
        for number, frame in enumerate(itertools.chain((first,), frames)):
            for packet in stream.encode(_picture(_checked(frame, first.shape), number)):
                container.mux(strip.filter(packet))
        for packet in stream.encode():
            container.mux(strip.filter(packet))
    return out.getvalue()


def _checked(frame: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size or frame.shape != shape:
        raise ValueError(f"a frame is {frame.dtype} {list(frame.shape)}; give uint8 [H, W, 3], all frames of one size")
    return frame


def _picture(frame: np.ndarray, number: int) -> av.VideoFrame:
    """The frame in x264's pixel format."""
    height, width, _ = frame.shape
    if height % 2 or width % 2:
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24").reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU601,
        dst_color_range=ColorRange.MPEG,
        interpolation=_EXACT,
        threads=1,
    )
    picture.pts = number
    return picture
