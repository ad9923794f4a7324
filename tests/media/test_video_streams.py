"""Which stream of a file is the video: not a cover, and of several the one that players show. Text does not matter."""

import io
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import videos
from av.stream import Disposition
from av.video.stream import VideoStream
from PIL import Image

from raylabel.media.container import read_header
from raylabel.media.rejects import Reject
from raylabel.media.video import Video

FILM = videos.scene(10)
OTHER = videos.scene(10, 96, 64, seed=1)
COVER = np.full((1, 128, 128, 3), (200, 30, 30), np.uint8)
CODECS = {"mp4": ("libx264", "mjpeg"), "matroska": ("libx264", "mjpeg"), "avi": ("mpeg4", "mjpeg")}

Track = tuple[np.ndarray, str, bool | None]
"""Frames, codec, and whether the stream is marked as default; None: the muxer decides."""


def muxed(form: str, tracks: Sequence[Track], sound: bool = False, text: str = "") -> bytes:
    """A file with these video streams; `text` is the title of the file, of the streams and of a chapter."""
    out = io.BytesIO()
    with av.open(out, "w", format=form) as container:
        streams = []
        for frames, codec, default in tracks:
            stream = container.add_stream(codec, rate=25)
            assert isinstance(stream, VideoStream)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "rgb24" if codec == "png" else "yuv420p"
            if default is not None:
                stream.disposition = Disposition.default if default else Disposition(0)
            streams.append(stream)
        audio = container.add_stream("aac" if form != "avi" else "mp3", rate=44100) if sound else None
        if text:
            container.metadata["title"] = text
            for stream in streams:
                stream.metadata["title"] = stream.metadata["handler_name"] = text
            if form in ("mp4", "matroska"):
                chapter = {"id": 1, "start": 0, "end": 5, "time_base": Fraction(1, 25), "metadata": {"title": text}}
                container.set_chapters([chapter])  # pyright: ignore[reportArgumentType]
        for number in range(10):
            for (frames, _, _), stream in zip(tracks, streams, strict=True):
                if number < len(frames):
                    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frames[number]), format="rgb24")
                    frame.pts = number
                    container.mux(stream.encode(frame))
            if audio:
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), format="fltp", layout="mono")
                silence.sample_rate, silence.pts = 44100, 1152 * number
                container.mux(audio.encode(silence))
        for stream in streams + [audio] * sound:
            container.mux(stream.encode())
    return out.getvalue()


def is_of(data: bytes, frames: np.ndarray) -> bool:
    """Whether header and decoder both read the video with these frames."""
    video, header = Video(data), read_header(data)
    if (header.width, header.height) != frames.shape[2:0:-1] or video.frames != len(frames):
        return False
    found = video.read(range(len(frames))).astype(int)
    return found.shape == frames.shape and bool(abs(found - frames).mean() < 30)


@pytest.mark.parametrize("first", [True, False], ids=["cover first", "cover last"])
@pytest.mark.parametrize("default", [None, True, False], ids=["unmarked", "default", "film is default"])
@pytest.mark.parametrize("sound", [False, True], ids=["silent", "sound"])
@pytest.mark.parametrize("form", CODECS)
def test_a_cover_is_no_video(form: str, first: bool, default: bool | None, sound: bool):
    film, picture = CODECS[form]
    tracks: list[Track] = [(COVER, picture, default), (FILM, film, None if default is None else not default)]
    assert is_of(muxed(form, tracks if first else tracks[::-1], sound), FILM)


def test_an_attached_picture_is_no_video():
    for data in (attached("matroska", True), with_cover(muxed("mp4", [(FILM, "libx264", None)]))):
        with av.open(io.BytesIO(data)) as container:
            assert sum(bool(s.disposition & Disposition.attached_pic) for s in container.streams.video) == 1
        assert is_of(data, FILM)


def attached(form: str, film: bool) -> bytes:
    """A file of sound, with an attached JPEG and perhaps a film."""
    out = io.BytesIO()
    source = muxed("matroska", [(FILM, "libx264", None)] * film, sound=True)
    with av.open(io.BytesIO(source)) as whole, av.open(out, "w", format=form) as container:
        streams = {s.index: container.add_stream_from_template(s) for s in whole.streams}  # pyright: ignore
        container.add_attachment("cover.jpg", "image/jpeg", jpeg())  # pyright: ignore[reportAttributeAccessIssue]
        for packet in whole.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                container.mux(packet)
    return out.getvalue()


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.fromarray(COVER[0]).save(out, "JPEG")
    return out.getvalue()


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + kind + body


def with_cover(mp4: bytes) -> bytes:
    """An MP4 whose last box is `moov`, with a cover as iTunes stores it."""
    at = mp4.rindex(b"moov") - 4
    cover = box(b"covr", box(b"data", struct.pack(">II", 13, 0) + jpeg()))
    handler = box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    return mp4[:at] + box(b"moov", mp4[at + 8 :] + box(b"udta", box(b"meta", bytes(4) + handler + box(b"ilst", cover))))


@pytest.mark.parametrize(
    "make",
    [
        lambda: attached("matroska", False),
        lambda: with_cover(muxed("mp4", [], sound=True)),
        lambda: muxed("mp4", [(COVER, "mjpeg", True)], sound=True),
        lambda: muxed("avi", [(COVER, "mjpeg", None)], sound=True),
        lambda: b"ID3\4\0\0\0\0\0\0" + bytes(300),
        lambda: b"fLaC\0\0\0\x22" + bytes(300),
    ],
    ids=["mka", "m4a", "m4a, unmarked", "avi", "mp3", "flac"],
)
def test_sound_with_a_cover_has_no_video_stream(make: Callable[[], bytes]):
    with pytest.raises(Reject, match="no video stream"):
        Video(make())


def test_a_single_picture_alone_is_a_video_of_one_frame():
    assert is_of(muxed("matroska", [(COVER, "mjpeg", None)]), COVER)
    assert is_of(muxed("mp4", [(FILM[:1], "libx264", None)], sound=True), FILM[:1])


@pytest.mark.parametrize("form", ["mp4", "matroska"])
def test_of_several_videos_the_one_that_players_show_is_read(form: str):
    small, large = (FILM, "libx264"), (OTHER, "libx264")
    for tracks in ([small, large], [large, small]):
        assert is_of(muxed(form, [(*track, True) for track in tracks]), OTHER)
        assert is_of(muxed(form, [(*track, track is small) for track in tracks]), FILM)
    for frames in (FILM, FILM[::-1]):  # equal in everything: the first
        assert is_of(muxed(form, [(frames, "libx264", True), (OTHER[:, :48, :64], "libx264", True)]), frames)
    pictures = (np.repeat(COVER, 10, 0), "mjpeg", True)  # a film in a codec for pictures
    assert is_of(muxed(form, [pictures, (FILM, "libx264", False)]), pictures[0])


@pytest.mark.parametrize("form", ["mp4", "matroska", "avi", "mov", "flv", "mpegts"])
def test_text_that_is_not_utf_8_rejects_nothing(form: str):
    text = "A title in another encoding"
    data = muxed(form, [(FILM, "mpeg4" if form == "avi" else "libx264", None)], text=text)
    changed = data.replace(
        text.encode(), "Ein Titel, \xe4\xf6\xfc\xdf \xff\xfe\x80 ...".encode("latin-1").ljust(len(text))
    )
    assert changed != data and len(changed) == len(data)
    assert np.array_equal(Video(changed).read(range(10)), Video(data).read(range(10)))


def test_the_name_of_an_attachment_is_not_utf_8():
    data = attached("matroska", True)
    assert is_of(data.replace(b"cover.jpg", b"c\xf6v\xe9r.jpg"), FILM)


@pytest.mark.parametrize("name", ["cover_first.mkv", "cover_first.mp4", "cover_last.mp4"])
def test_the_films_of_the_cases(shared: Path, name: str):
    video = Video((shared / "cases" / "media" / name).read_bytes())
    assert (video.width, video.height, video.frames) == (64, 48, 40)
