"""Small videos of many kinds, made by PyAV, and their frames, decoded sequentially."""

import io
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

FPS = 25


def scene(frames: int, width: int = 64, height: int = 48, seed: int = 0) -> np.ndarray:
    """A moving image, uint8 [frames, H, W, 3]; all frames differ."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8)
    picture = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
    rolled = [np.roll(picture, (i * 3, i * 5), (0, 1))[:height, :width] for i in range(frames)]
    return np.stack(rolled)


def video(
    frames: np.ndarray,
    form: str = "mp4",
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pts: Sequence[int] | None = None,
    rotation: int = 0,
    pixels: str = "yuv420p",
    rate: int | Fraction = FPS,
) -> bytes:
    """The frames encoded; `pts`: their timestamps, in 1 / rate seconds."""
    out = io.BytesIO()
    with av.open(out, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        stream.codec_context.time_base = 1 / Fraction(rate)
        if rotation:
            stream.set_display_rotation(rotation)
        for i, pixel in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixel), format="rgb24")
            frame.pts = i if pts is None else pts[i]
            frame.time_base = 1 / Fraction(rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


def copied(data: bytes, first: int, form: str = "mp4", zero: bool = False) -> bytes:
    """The video with the unchanged packets from number `first` on; `zero`: with all timestamps 0."""
    out = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(out, "w", format=form) as container:
        assert isinstance(source, InputContainer)
        stream = container.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(source.streams.video[0])):
            if number >= first and packet.size:
                packet.stream = stream
                if zero:
                    packet.pts = packet.dts = 0
                container.mux(packet)
    return out.getvalue()


def in_order(data: bytes) -> np.ndarray:
    """All frames as they are stored, uint8 [N, H, W, 3], decoded by PyAV from the first to the last."""
    with av.open(io.BytesIO(data)) as container:
        assert isinstance(container, InputContainer)
        stream = container.streams.best("video")
        assert isinstance(stream, VideoStream)
        stream.codec_context.thread_count = 1
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])


def x264(gop: int = 12, **more: int) -> dict[str, str]:
    """Options of libx264. Keywords are its own parameters, with `_` for `-`."""
    settings = {"keyint": gop, "min-keyint": 1, "scenecut": 0, "threads": 1} | {
        name.replace("_", "-"): value for name, value in more.items()
    }
    return {"crf": "20", "x264-params": ":".join(f"{name}={value}" for name, value in settings.items())}


def kinds() -> dict[str, bytes]:
    """Videos of many containers, codecs and structures; 40 frames of 64 x 48 unless the name says otherwise."""
    frames = scene(40)
    steps = np.cumsum(np.random.default_rng(1).integers(1, 6, 40)).tolist()
    found = {
        "mp4": video(frames, options=x264()),
        "mp4, all keyframes": video(frames, options=x264(1)),
        "mp4, open groups": video(frames, options=x264(open_gop=1, bframes=3)),
        "mp4, intra refresh": video(frames, options=x264(intra_refresh=1)),
        "mp4, one group, pyramid": video(frames, options=x264(250, bframes=5)),
        "mp4, no B-frames": video(frames, options=x264(bframes=0)),
        "mp4, uneven steps": video(frames, options=x264(), pts=steps),
        "mp4, cut by its list of edits": video(frames, options=x264(bframes=0), pts=range(-5, 35)),
        "mp4, one frame": video(frames[:1]),
        "mp4, odd sides": video(scene(20, 65, 47), codec="libx264", options=x264(), pixels="yuv444p"),
        "mp4, full range": video(frames, options=x264(), pixels="yuvj420p"),
        "mp4, 10 bits": video(frames, options=x264(), pixels="yuv420p10le"),
        "mp4, mpeg4": video(frames, codec="mpeg4", options={"g": "12", "bf": "2", "qscale": "3"}),
        "mkv": video(frames, "matroska", options=x264()),
        "flv": video(frames, "flv", options=x264()),
        "webm, vp8": video(frames, "webm", "libvpx", {"g": "12", "auto-alt-ref": "1", "lag-in-frames": "10"}),
        "webm, vp9": video(frames, "webm", "libvpx-vp9", {"g": "12", "lag-in-frames": "10"}),
        "avi": video(frames, "avi", "mpeg4", {"g": "12", "qscale": "3"}),
        "avi, B-frames": video(frames, "avi", "mpeg4", {"g": "12", "bf": "2", "qscale": "3"}),
        "ts": video(frames, "mpegts", options=x264()),
        "ts, mpeg2": video(frames, "mpegts", "mpeg2video", {"g": "12", "bf": "2", "qscale": "3"}),
        "gif": video(frames, "gif", "gif", pixels="rgb8"),
        "wmv": video(frames, "asf", "wmv2", {"g": "12"}),
    }
    found["mp4, begins within an open group"] = copied(found["mp4, open groups"], 12)
    found["mp4, no timestamps"] = copied(video(frames, options=x264(bframes=0)), 0, zero=True)
    return found
