"""Encoded frames are read back once, in order and with their colours. The bytes are the same on every machine."""

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence

import av
import numpy as np
import pytest
from av.container import InputContainer
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.media import encode
from raylabel.media.encode import encode_mp4
from raylabel.media.sandbox.sandbox import Parser, Sandbox


def opened(data: bytes) -> InputContainer:
    return av.open(io.BytesIO(data), "r")


def by_pyav(data: bytes) -> np.ndarray:
    with opened(data) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def by_decord(data: bytes) -> np.ndarray:
    decord = pytest.importorskip("decord", reason="decord is not installed")
    reader = decord.VideoReader(io.BytesIO(data), num_threads=1)
    return reader.get_batch(range(len(reader))).asnumpy()


READERS = [by_pyav, by_decord]


def numbered(count: int, height: int, width: int) -> np.ndarray:
    """Frames that show their index: 10 wide bars, dark for 0 and light for 1, on a moving scene."""
    x, y, t = np.arange(width), np.arange(height)[:, None], np.arange(count)[:, None, None]
    moving = 128 + 30 * np.sin((x + 3 * t) / 9) + 20 * np.cos((y - 2 * t) / 7)
    frames = np.stack([moving, np.roll(moving, 7, 2), 255 - moving], 3)
    bits = (np.arange(count)[:, None] >> np.arange(10)) & 1
    frames[:, : height // 2] = np.repeat(np.where(bits, 220, 30), -(-width // 10), 1)[:, None, :width, None]
    return frames.astype(np.uint8)


def indices(frames: np.ndarray) -> list[int]:
    step = -(-frames.shape[2] // 10)
    middles = frames[:, frames.shape[1] // 4, step // 2 :: step].mean(2) > 125
    return [int((bits << np.arange(10)).sum()) for bits in middles[:, :10]]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("count", [1, 2, 41, 300])  # x264 looks 40 frames ahead and begins a new group at 250
def test_every_frame_is_read_back_once_and_in_order(read: Callable[[bytes], np.ndarray], count: int) -> None:
    frames = numbered(count, 112, 150)
    again = read(encode_mp4(iter(frames), 25))
    assert again.shape == frames.shape
    assert indices(again) == list(range(count))
    assert np.abs(again.astype(int) - frames).mean() < 6


@settings(max_examples=40)
@given(
    count=st.integers(1, 60),
    size=st.tuples(st.integers(1, 130), st.integers(1, 130)),
    fps=st.sampled_from([0.01, 1.0, 24000 / 1001, 25.0, 30000 / 1001, 59.94, 1000.0]),
    colour=st.tuples(*[st.integers(0, 255)] * 3),
)
def test_any_size_count_and_rate(count: int, size: tuple[int, int], fps: float, colour: tuple[int, int, int]) -> None:
    frames = np.empty((count, *size, 3), np.uint8)
    frames[:] = colour
    data = encode_mp4(frames, fps)
    again = by_pyav(data)
    padded = tuple(n + n % 2 for n in size)
    assert again.shape == (count, *padded, 3)
    assert np.abs(again.astype(int) - frames[:1, :1, :1]).max() <= 4  # also in the padding
    with opened(data) as container:
        stream = container.streams.video[0]
        assert stream.frames == count
        assert stream.average_rate == pytest.approx(fps, rel=1e-3)
        assert stream.duration and stream.time_base
        assert stream.duration * stream.time_base == pytest.approx(count / fps, rel=1e-3)
        assert stream.start_time == 0


@pytest.mark.parametrize("read", READERS)
def test_colours_are_read_back(read: Callable[[bytes], np.ndarray]) -> None:
    """With full range or BT.709 read as BT.601, pure colours would be 16 to 40 off."""
    colours = np.array([(r, g, b) for r in (0, 128, 255) for g in (0, 128, 255) for b in (0, 128, 255)], np.uint8)
    frames = np.broadcast_to(colours[:, None, None], (27, 64, 64, 3))
    again = read(encode_mp4(frames, 5, crf=18))
    assert np.abs(again.mean((1, 2)) - colours).max() <= 3


def test_colours_are_tagged() -> None:
    with opened(encode_mp4(numbered(2, 32, 32), 25)) as container:
        frame = next(container.decode(video=0))
        assert frame.format.name == "yuv420p"
        tags = (frame.color_range, frame.colorspace, frame.color_primaries, frame.color_trc)
    assert tags == (1, 6, 1, 13)  # limited, SMPTE 170M (the matrix of BT.601), BT.709, sRGB: ITU-T H.273


def test_odd_sides_are_padded() -> None:
    frames = np.zeros((3, 33, 45, 3), np.uint8)
    frames[:, -1] = 250
    frames[:, :, -1] = 250
    again = by_pyav(encode_mp4(frames, 25, crf=10))
    assert again.shape == (3, 34, 46, 3)
    assert np.abs(again[:, :33, :45].astype(int) - frames).max() < 40
    assert again[:, 33].min() > 200 and again[:, :, 45].min() > 200


def test_a_larger_crf_takes_fewer_bytes() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), np.uint8)
    sizes = [len(encode_mp4(noise, 25, crf)) for crf in (15, 23, 31)]
    assert sizes[0] > 1.3 * sizes[1] > 1.6 * sizes[2]


def test_the_file_contains_no_encoder_name_and_no_time() -> None:
    data = encode_mp4(numbered(60, 64, 80), 25)
    for name in (b"x264", b"Lavf", b"Lavc", b"libx264"):
        assert name not in data
    movie = data.index(b"mvhd")
    assert data[movie + 8 : movie + 16] == b"\0" * 8  # creation and modification time are 0
    with opened(data) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert [p.pts for p in packets] == [p.dts for p in packets] == sorted(p.pts or 0 for p in packets)


HASH = """
import hashlib, numpy as np
from test_encode import numbered
from raylabel.media import encode
from raylabel.media.encode import encode_mp4
print(hashlib.sha256(encode_mp4(numbered(90, 113, 150), 25)).hexdigest())
"""


def test_the_same_bytes_on_one_core_and_on_many() -> None:
    """In separate processes, since the encoder reads the processor's features and the number of cores once."""
    here = hashlib.sha256(encode_mp4(list(numbered(90, 113, 150)), 25)).hexdigest()
    path = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
    core = sorted(os.sched_getaffinity(0))[0] if sys.platform == "linux" else None

    def use_one_core() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})

    for set_up in (None, use_one_core):
        done = subprocess.run(
            [sys.executable, "-c", HASH],
            env={**os.environ, "PYTHONPATH": path},
            preexec_fn=set_up,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == here


@pytest.mark.parametrize("features", ["0", "SSE2"])
def test_the_same_bytes_on_a_processor_with_fewer_features(features: str, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = numbered(90, 113, 150)
    here = encode_mp4(frames, 25)
    monkeypatch.setattr(encode, "_X264", f"{encode._X264}:asm={features}")
    assert encode_mp4(frames, 25) == here


@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        ([], 25, "no frames"),
        ([np.zeros((8, 8, 3), np.uint8)], 0, "0.01 to 1000"),
        ([np.zeros((8, 8, 3), np.uint8)], float("nan"), "0.01 to 1000"),
        ([np.zeros((8, 8, 3), np.float32)], 25, "float32"),
        ([np.zeros((8, 8), np.uint8)], 25, "H, W, 3"),
        ([np.zeros((8, 0, 3), np.uint8)], 25, "H, W, 3"),
        ([np.zeros((8, 8, 4), np.uint8)], 25, "H, W, 3"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 10, 3), np.uint8)], 25, "one size"),
    ],
)
def test_invalid_frames_are_refused(frames: list[np.ndarray], fps: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_mp4(frames, fps)


def encoder() -> Callable[[bytes, Sequence[int]], bytes]:
    """A parser for the sandbox: count, height and width as a JSON list → those frames, encoded."""
    encode_mp4(numbered(1, 16, 16), 25)  # loads libraries that are loaded at the first use
    return lambda data, _: encode_mp4(numbered(*json.loads(data)), 25)


def test_encoding_works_in_the_sandbox() -> None:
    sizes = [(40, 112, 150), (1, 16, 16), (100, 171, 128)]
    with Sandbox(Parser.of(encoder)) as sandbox:
        assert sandbox.convert([json.dumps(size).encode() for size in sizes]) == [
            encode_mp4(numbered(*size), 25) for size in sizes
        ]
