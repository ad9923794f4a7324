"""The frames of clips, one crop for all frames of a clip, and the same pixels inside and outside the sandbox."""

from pathlib import Path

import numpy as np
import pytest
import torch
import videos
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.errors import InputError
from raylabel.media.image_views import normalise
from raylabel.media.parsers import eval_parser, train_parser
from raylabel.media.rejects import Reject
from raylabel.media.sandbox.child import CPU_SECONDS
from raylabel.media.sandbox.sandbox import Parser, Sandbox
from raylabel.media.video import Video
from raylabel.media.video_views import cut_parser, eval_clips, eval_indices, train_clip
from raylabel.media.view import Clip, View
from raylabel.rng import AUGMENT, rng


@pytest.fixture(scope="module")
def kinds() -> dict[str, bytes]:
    return videos.kinds()


@settings(max_examples=300)
@given(frames=st.integers(1, 400), T=st.integers(1, 40), stride=st.integers(1, 9), count=st.integers(1, 12))
def test_clips_are_evenly_spaced_from_the_first_frame_to_the_last(frames: int, T: int, stride: int, count: int):
    found = eval_indices(frames, Clip(frames=T, stride=stride, count=count))
    assert found.shape == (count, T)
    span = (T - 1) * stride + 1
    looped = [list(range(frames)) * (span // frames + 2)][0]
    for m, clip in enumerate(found.tolist()):
        room = max(frames - span, 0)
        start = room // 2 if count == 1 else int(np.floor(m * room / (count - 1) + 0.5 + 1e-9))
        assert clip == looped[start : start + span : stride]
    if frames >= span and count > 1:
        assert found[0, 0] == 0 and found[-1, -1] == frames - 1
        steps = np.diff(found[:, 0])
        assert steps.max() - steps.min() <= 1


VIEW = View(size=24, resize=32, clip=Clip(frames=6, stride=2, count=3, max_resize=40))


@pytest.mark.parametrize("name", ["mp4", "mp4, one frame", "avi", "webm, vp9", "mp4, uneven steps"])
def test_evaluation_crops_the_centre(name: str, kinds: dict[str, bytes]):
    video = Video(kinds[name])
    found = eval_clips(kinds[name], VIEW)
    assert found.shape == VIEW.eval_shape == (3, 6, 24, 24, 3)
    for clip, indices in zip(found, eval_indices(video.frames, Clip(frames=6, stride=2, count=3)), strict=True):
        assert np.array_equal(clip, video.read(indices, (42, 32))[:, 4:28, 9:33])  # 64 x 48, scaled by 2 / 3


def test_evaluation_of_a_segment_reads_only_its_frames(kinds: dict[str, bytes]):
    segment = Video(kinds["mp4"], (0.5, 1.1))
    found = eval_clips(kinds["mp4"], VIEW, (0.5, 1.1))
    indices = eval_indices(segment.frames, Clip(frames=6, stride=2, count=3))
    assert segment.frames == 15 and np.array_equal(found[1], segment.read(indices[1], (42, 32))[:, 4:28, 9:33])
    with pytest.raises(Reject, match=r"truncated: no frame from 2 to 3 s of 1\.6 s"):
        eval_clips(kinds["mp4"], VIEW, (2, 3))


def still_video() -> bytes:
    """40 equal frames; every crop of the picture is different."""
    height, width = np.mgrid[0:48, 0:64]
    picture = np.stack([height * 5, width * 4 - 1, (height + width) * 2], -1).astype(np.uint8)
    return videos.video(np.stack([picture] * 40), options=videos.x264())


def test_all_frames_of_a_training_clip_have_the_same_crop():
    data, crops = still_video(), set()
    for seed in range(40):
        found = train_clip(data, VIEW, rng(seed, AUGMENT, 0)).astype(int)
        assert found.shape == VIEW.train_shape == (6, 24, 24, 3)
        assert abs(found - found[0]).max() <= 8  # differences due to the codec
        mirrored = found[0, 0, 0, 1] > found[0, 0, -1, 1]
        scale = round(abs(found[0, 12, -4, 1] - found[0, 12, 3, 1]) / 16, 1)
        crops.add((mirrored, scale, found[0, 0, 0].tobytes()))
    assert len(crops) > 35 and len({scale for _, scale, _ in crops}) > 4 and len({flip for flip, *_ in crops}) == 2


@settings(max_examples=60)
@given(seed=st.integers(0, 2**40), flip=st.booleans(), largest=st.sampled_from([0, 24, 40]))
def test_a_training_clip_is_determined_by_the_generator(kinds: dict[str, bytes], seed: int, flip: bool, largest: int):
    view = View(size=20, resize=24, flip=flip, clip=Clip(frames=5, stride=3, max_resize=largest))
    start, side, x, y, mirror = rng(seed, AUGMENT, 1).random(5)
    for name, frames in (("mp4", 40), ("mp4, one frame", 1)):
        random = rng(seed, AUGMENT, 1)
        found = train_clip(kinds[name], view, random)
        short = 24 + int(side * (max(largest, 24) - 24 + 1))
        first = int(start * max(frames - 12, 1))
        size = (short * 64 // 48, short)
        left, top = int(x * (size[0] - 19)), int(y * (size[1] - 19))
        whole = Video(kinds[name]).read([(first + 3 * i) % frames for i in range(5)], size)
        expected = whole[:, top : top + 20, left : left + 20]
        assert np.array_equal(found, expected[:, :, ::-1] if flip and mirror < 0.5 else expected)
        later = rng(seed, AUGMENT, 1)
        later.random(5)
        assert random.random() == later.random()  # five values for every video


def test_a_training_clip_begins_at_every_possible_frame():
    view = View(size=8, resize=8, flip=False, clip=Clip(frames=4, stride=2))
    frames = np.stack([np.full((16, 16, 3), 10 + 20 * i, np.uint8) for i in range(12)])
    data = videos.video(frames, options=videos.x264(1))
    firsts = {round((int(train_clip(data, view, rng(seed, AUGMENT))[0].mean()) - 10) / 20) for seed in range(120)}
    assert firsts == set(range(6))  # of 12 frames, those with at least 7 frames from there to the end


def expected_of(kind: str, data: bytes, numbers: tuple) -> tuple:
    try:
        if kind == "training":
            return train_clip(data, VIEW, rng(*numbers)), None
        return eval_clips(data, VIEW, numbers or None), None
    except Reject as reject:
        return None, (reject.reason, reject.detail)


@pytest.mark.parametrize("kind", ["evaluation", "training"])
def test_the_sandbox_equals_parsing_in_process(kind: str, kinds: dict[str, bytes]):
    media = [*kinds.values(), b"#EXTM3U\n", b"", kinds["mp4"][:700]]
    check_sandbox(kind, media)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["evaluation", "training"])
def test_the_sandbox_reads_every_real_file(kind: str, shared: Path):
    """A child cannot open files, so it must have loaded all that codecs and containers need."""
    check_sandbox(kind, [path.read_bytes() for path in sorted((shared / "videos").glob("[0-9]*"))])


def check_sandbox(kind: str, media: list[bytes]) -> None:
    if kind == "evaluation":
        function, shape = eval_parser, VIEW.eval_shape
        numbers = [(), (0.0, 0.5), (0.3, float("inf"))] * len(media)
    else:
        function, shape = train_parser, VIEW.train_shape
        numbers = [(7, AUGMENT, 2**40 + i) for i in range(len(media))]
    parser = Parser.of(function, cpu_seconds=VIEW.cpu_seconds, view=VIEW)
    out = np.empty((len(media), *shape), np.uint8)
    with Sandbox(parser) as sandbox:
        rejects = sandbox.fill(out, media, numbers[: len(media)])
    for pixels, reject, data, number in zip(out, rejects, media, numbers, strict=False):
        expected, why = expected_of(kind, data, number)
        assert (reject and (reject.reason, reject.detail)) == why
        assert np.array_equal(pixels, np.zeros_like(pixels) if expected is None else expected)
    assert sum(reject is None for reject in rejects) > 20


@pytest.mark.slow
def test_a_training_file_has_the_frames_of_its_video(kinds: dict[str, bytes]):
    # The headers of these two give 1 ms per frame.
    names = [name for name in kinds if name not in ("mp4, one frame", "mp4, no timestamps")]
    media = [kinds[name] for name in names]
    broken = bytearray(kinds["mp4"])
    middle = len(broken) // 2
    broken[middle : middle + 2000] = b"\xff" * 2000
    cut = Parser.of(cut_parser, cpu_seconds=VIEW.cpu_seconds, short_side=0, quality=12)
    small = Parser.of(cut_parser, cpu_seconds=VIEW.cpu_seconds, short_side=32, quality=12)
    with Sandbox(cut) as sandbox:
        assert sandbox.convert(media) == [b""] * len(media)  # training uses the bytes of the corpus
        (reject,) = sandbox.convert([bytes(broken)])
        assert isinstance(reject, Reject) and reject.reason == "corrupt"
        (reject,) = sandbox.convert([kinds["mp4"]], [(5.0, 6.0)])
        assert isinstance(reject, Reject) and reject.reason == "truncated"
        segments = sandbox.convert(media, [(0.1, 0.9)] * len(media))
    with Sandbox(small) as sandbox:
        assert sandbox.convert([videos.video(videos.scene(9, 32, 32))]) == [b""]  # nothing to make smaller
        wholes = sandbox.convert(media)
        shorter = sandbox.convert(media, [(0.1, 0.9)] * len(media))
    for name, data, *found in zip(names, media, segments, wholes, shorter, strict=True):
        for form, cut_data in enumerate(found):
            assert isinstance(cut_data, bytes), (name, cut_data)
            source, made = Video(data, None if form == 1 else (0.1, 0.9)), Video(cut_data)
            assert made.frames == source.frames and abs(made.fps / source.fps - 1) < 0.002, name
            side = source.width * 32 // source.height if form else 0
            size = (side, 32) if form else (source.width, source.height)
            assert abs(made.width - size[0]) <= 1 and abs(made.height - size[1]) <= 1  # sides are made even
            theirs = source.read(range(source.frames), size).mean(3)  # the small ones have half the colour resolution
            mine = made.read(range(made.frames))[:, : size[1], : size[0]].mean(3)
            apart = abs(mine[:, None] - theirs[None]).mean((2, 3))
            assert apart.diagonal().max() < 16 and (apart.argmin(1) == np.arange(len(mine))).all(), (name, form)


def test_normalise_takes_clips():
    view = View(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    pixels = torch.randint(0, 256, (2, 4, 5, 6, 3), dtype=torch.uint8)
    found = normalise(pixels, view)
    assert found.shape == (2, 3, 4, 5, 6) and found.is_contiguous(memory_format=torch.channels_last_3d)
    for t in range(4):
        assert torch.equal(found[:, :, t], normalise(pixels[:, t], view))


def test_shapes_and_limits_of_views():
    assert View(size=9, resize=9).eval_shape == View(size=9, resize=9).train_shape == (9, 9, 3)
    assert View().cpu_seconds == CPU_SECONDS < VIEW.cpu_seconds
    with pytest.raises(InputError, match=r"view\.clip\.max_resize is 31: give 0, or at least view\.resize, 32"):
        View(size=24, resize=32, clip=Clip(max_resize=31)).check("view")
    with pytest.raises(InputError, match=r"view\.clip\.stride is 0: give a whole number of at least 1"):
        View(clip=Clip(stride=0)).check("view")
    with pytest.raises(InputError, match="view.clip is not set"):
        eval_clips(b"", View())
