"""Thumbnails contain only the pixels of a file; a filmstrip and a clip show the right frames of a video."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from raylabel.media.encode import encode_mp4
from raylabel.media.rejects import Reject
from raylabel.media.sandbox.sandbox import Parser, Sandbox
from raylabel.media.video import Video
from raylabel.report.page import CLIP_BYTES, RATE, SECONDS, Film
from raylabel.report.thumbnails import FRAMES, GAP, film, film_parser, pack, thumbnail, unpack


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((8, 8), (112, 112)),
        ((32, 32), (96, 96)),
        ((5, 8), (70, 112)),
        ((100, 60), (100, 60)),
        ((112, 112), (112, 112)),
        ((500, 250), (112, 56)),
        ((3000, 1), (112, 1)),
    ],
)
def test_thumbnails_are_scaled_to_the_side(size: tuple[int, int], expected: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    small = Image.open(io.BytesIO(thumbnail(image)))
    assert (small.format, small.size) == ("JPEG", expected)


def test_small_picture_keeps_its_pixels_square() -> None:
    digit = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    shown = np.asarray(Image.open(io.BytesIO(thumbnail(Image.fromarray(digit)))).convert("L")).astype(int)
    # The error of JPEG at quality 85 is about 1; that of a bicubic enlargement is 23.
    assert np.abs(shown - np.kron(digit, np.ones((14, 14)))).mean() < 4


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16"])
def test_thumbnails_accept_every_mode(mode: str) -> None:
    image = Image.linear_gradient("L").resize((16, 16))
    if mode == "I;16":
        image = Image.fromarray(np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16))
    elif mode == "PA":
        image = image.convert("LA").convert("PA")
    else:
        image = image.convert(mode)
    shown = np.asarray(Image.open(io.BytesIO(thumbnail(image))).convert("L"))
    assert shown.max() > 200 and shown.min() < 55  # not clipped, not blank


def test_transparent_pixels_become_white() -> None:
    shown = Image.open(io.BytesIO(thumbnail(Image.new("RGBA", (8, 8), (0, 0, 0, 0)))))
    assert shown.getextrema() == ((255, 255),) * 3


def test_thumbnails_contain_no_metadata_of_the_file() -> None:
    exif = Image.Exif()
    exif[0x010E] = "CANARY exif"
    exif.get_ifd(0x8825)[29] = "CANARY gps"
    file = io.BytesIO()
    Image.new("RGB", (300, 200)).save(file, "JPEG", exif=exif, comment=b"CANARY comment", icc_profile=b"CANARY icc")
    assert file.getvalue().count(b"CANARY") == 4
    again = thumbnail(Image.open(file))
    assert b"CANARY" not in again and b"Exif" not in again
    assert not Image.open(io.BytesIO(again)).getexif()


BITS = 7


def bars(count: int, height: int, width: int) -> np.ndarray:
    """Frames that encode their index, below 128: a bar for each bit, light for 1."""
    bits = (np.arange(count)[:, None] >> (np.arange(width) * BITS // width)) & 1
    return np.broadcast_to(np.where(bits, 220, 30)[:, None, :, None], (count, height, width, 3)).astype(np.uint8)


def numbers(pixels: np.ndarray) -> list[int]:
    """The indices that the frames [n, H, W, 3] made by `bars` encode."""
    width = pixels.shape[2]
    middles = pixels[:, :, (2 * np.arange(BITS) + 1) * width // (2 * BITS)].mean((1, 3)) > 125
    return (middles << np.arange(BITS)).sum(1).tolist()


def frames_of(strip: bytes) -> np.ndarray:
    """The frames of a filmstrip of FRAMES, [n, H, W, 3]."""
    pixels = np.asarray(Image.open(io.BytesIO(strip)))
    step = (pixels.shape[1] + GAP) // FRAMES
    assert step * FRAMES - GAP == pixels.shape[1]
    return np.stack([pixels[:, i * step : (i + 1) * step - GAP] for i in range(FRAMES)])


def played(clip: bytes) -> tuple[np.ndarray, float]:
    """(frames [n, H, W, 3], seconds)"""
    with av.open(io.BytesIO(clip), "r") as container:
        assert [stream.type for stream in container.streams] == ["video"]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        return frames, container.duration / av.time_base if container.duration else 0.0


def test_film_has_the_whole_video_in_its_strip_and_the_middle_in_its_clip() -> None:
    strip, shown = film(Video(encode_mp4(bars(121, 60, 80), 20)))
    assert shown.seconds == pytest.approx(121 / 20)
    assert numbers(frames_of(strip)) == [0, 30, 60, 90, 120]
    frames, seconds = played(shown.clip)
    assert numbers(frames) == list(range(30, 90))  # 20 frames per second are nearer to RATE than 10
    assert seconds == pytest.approx(SECONDS)
    assert numbers(np.asarray(Image.open(io.BytesIO(shown.poster)))[None]) == [30]


@pytest.mark.parametrize(("fps", "step"), [(10, 1), (24, 2), (30, 2), (60, 4), (1000, 67)])
def test_clip_keeps_the_speed_of_the_video_at_about_its_rate(fps: float, step: int) -> None:
    _, shown = film(Video(encode_mp4(bars(120, 32, 32), fps)))
    frames, seconds = played(shown.clip)
    assert set(np.diff(numbers(frames))) <= {step}
    assert seconds == pytest.approx(min(SECONDS, step * -(-120 // step) / fps), abs=1.5 * step / fps)
    assert len(frames) / seconds == pytest.approx(fps / step, rel=0.01)
    assert RATE / 1.5 <= fps / step <= RATE * 1.5


@pytest.mark.parametrize("count", [1, 2, 4])
def test_video_of_few_frames_shows_each_once(count: int) -> None:
    strip, shown = film(Video(encode_mp4(bars(count, 96, 96), 25)))
    assert Image.open(io.BytesIO(strip)).size == (count * (96 + GAP) - GAP, 96)
    assert len(played(shown.clip)[0]) == -(-count // 2)


def test_slow_video_plays_at_one_frame_per_second() -> None:
    _, shown = film(Video(encode_mp4(bars(5, 64, 64), 0.1)))
    frames, seconds = played(shown.clip)
    assert (numbers(frames), seconds) == ([2], 1.0)
    assert shown.seconds == pytest.approx(50)


@pytest.mark.parametrize(
    ("size", "clip", "frame"),
    [
        ((640, 480), (150, 112), (128, 96)),  # 149 wide, padded
        ((480, 640), (112, 150), (72, 96)),
        ((1000, 100), (224, 22), (128, 13)),
        ((32, 32), (96, 96), (96, 96)),
        ((20, 26), (80, 104), (74, 96)),
        ((2, 2), (112, 112), (96, 96)),
        ((100, 60), (100, 60), (100, 60)),
    ],
)
def test_films_have_small_sides(size: tuple[int, int], clip: tuple[int, int], frame: tuple[int, int]) -> None:
    strip, shown = film(Video(encode_mp4(bars(5, size[1], size[0]), 10)))
    assert played(shown.clip)[0].shape[2:0:-1] == clip
    assert frames_of(strip).shape[2:0:-1] == frame


def test_film_contains_no_metadata_of_the_file() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        container.metadata["title"] = "CANARY title"
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        sound = container.add_stream("aac", rate=48000)
        for picture in bars(10, 64, 64):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        noise = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.float32), format="fltp", layout="mono")
        noise.sample_rate = 48000
        container.mux(sound.encode(noise))
        container.mux([*stream.encode(), *sound.encode()])
    assert b"CANARY" in file.getvalue()
    strip, shown = film(Video(file.getvalue()))
    assert b"CANARY" not in pack(strip, shown)
    played(shown.clip)  # it has no sound
    for jpeg in (strip, shown.poster):
        assert b"Exif" not in jpeg and "comment" not in Image.open(io.BytesIO(jpeg)).info


@given(st.binary(), st.binary(), st.binary(), st.floats(0, 1e8))
def test_unpack_inverts_pack(strip: bytes, poster: bytes, clip: bytes, seconds: float) -> None:
    shown = Film(seconds, poster, clip)
    assert unpack(pack(strip, shown)) == (strip, shown)
    assert unpack(pack(strip, shown) + b"x") is None
    assert unpack(pack(strip, shown)[:-1]) is None


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0, 1e300])
def test_unpack_rejects_an_invalid_length(seconds: float) -> None:
    assert unpack(pack(b"", Film(seconds, b"", b""))) is None


@given(st.binary(max_size=60))
def test_unpack_accepts_any_bytes(data: bytes) -> None:
    found = unpack(data)
    assert found is None or pack(*found) == data


def test_films_of_videos_and_segments_are_made_in_the_sandbox() -> None:
    data = encode_mp4(bars(100, 64, 80), 20)
    with Sandbox(Parser.of(film_parser)) as sandbox:
        whole, segment, none = sandbox.convert([data, data, data[:500]], [(), (1.0, 3.0), ()])
    assert whole == pack(*film(Video(data)))
    assert isinstance(none, Reject)
    assert isinstance(segment, bytes) and (found := unpack(segment))
    strip, shown = found
    assert numbers(frames_of(strip)) == [20, 30, 40, 49, 59]
    assert shown.seconds == pytest.approx(2)
    assert numbers(played(shown.clip)[0]) == list(range(20, 60))


@pytest.mark.long
def test_clips_of_real_videos_are_within_the_limit(shared: Path) -> None:
    media = [path.read_bytes() for path in sorted((shared / "actions" / "clips").iterdir())[::8]]
    with Sandbox(Parser.of(film_parser)) as sandbox:
        found = sandbox.convert(media)
    sizes = [len(made[1].clip) for one in found if isinstance(one, bytes) and (made := unpack(one))]
    assert len(sizes) == len(media) > 10
    assert max(sizes) < CLIP_BYTES
