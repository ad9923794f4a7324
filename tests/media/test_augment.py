"""TrivialAugment and random erasing: torchvision's operations with the right frequencies, pure functions of a seed."""

import io
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from raylabel.media import augment
from raylabel.media.augment import make_augment
from raylabel.media.image_views import train_pixels
from raylabel.media.parsers import train_parser
from raylabel.media.sandbox.sandbox import Parser, Sandbox
from raylabel.media.view import Clip, View

TRIVIAL = View(size=32, resize=32, augment="trivial")
ERASE = View(size=32, resize=32, erase=1.0)
OPERATIONS = set(v2.TrivialAugmentWide._AUGMENTATION_SPACE)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def smooth(size: int = 32) -> np.ndarray:
    return np.asarray(Image.fromarray(noise(6, 6)).resize((size, size), Image.Resampling.BICUBIC))


def run(view: View, pixels: np.ndarray, seed: int) -> np.ndarray:
    made = make_augment(view)
    assert made is not None
    before = pixels.copy()
    found = made(pixels, seed)
    assert found.shape == pixels.shape and found.dtype == np.uint8 and (pixels == before).all()
    return found


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """The operations that torchvision applies, with their strengths."""
    found: list[tuple[str, float]] = []
    apply = v2.TrivialAugmentWide._apply_image_or_video_transform

    def noted(self, image, transform_id, magnitude, **options):
        found.append((transform_id, magnitude))
        return apply(self, image, transform_id, magnitude, **options)

    monkeypatch.setattr(v2.TrivialAugmentWide, "_apply_image_or_video_transform", noted)
    return found


def test_a_view_without_augmentation_has_none_and_draws_no_number_for_it():
    assert make_augment(View()) is None
    random, other = np.random.default_rng(1), np.random.default_rng(1)
    data = _bmp(smooth())
    train_pixels(data, replace(TRIVIAL, augment="none"), random)
    other.random(23)  # of the crop and the mirroring
    assert random.random() == other.random()


def test_training_pixels_are_those_of_torchvision_after_the_same_crop():
    data = _bmp(smooth(50))
    for seed in range(60):
        plain = train_pixels(data, replace(TRIVIAL, augment="none"), random := np.random.default_rng(seed))
        torch.manual_seed(int(random.integers(1 << 63)))
        trivial = v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR)
        expected = np.asarray(trivial(Image.fromarray(np.ascontiguousarray(plain))))
        assert (train_pixels(data, TRIVIAL, np.random.default_rng(seed)) == expected).all()


def test_every_operation_is_as_frequent_as_another_with_strengths_in_its_range(drawn: list[tuple[str, float]]):
    times, pixels = 2800, smooth(8)
    for seed in range(times):
        run(TRIVIAL, pixels, seed)
    found = Counter(name for name, _ in drawn)
    assert found.keys() == OPERATIONS and len(OPERATIONS) == 14
    assert all(abs(count - times / 14) < 5 * (times / 14) ** 0.5 for count in found.values())
    rotations = np.array([strength for name, strength in drawn if name == "Rotate"])
    assert -135 <= rotations.min() < -100 and 100 < rotations.max() <= 135 and abs(rotations.mean()) < 30


def test_the_warm_up_runs_every_operation(drawn: list[tuple[str, float]]):
    augment.warm_up(TRIVIAL)
    assert {name for name, _ in drawn} == OPERATIONS


def test_the_same_seed_gives_the_same_pixels_whatever_came_before():
    view = replace(TRIVIAL, erase=0.5)
    first = [run(view, smooth(), seed) for seed in range(40)]
    assert all((run(view, smooth(), seed) == first[seed]).all() for seed in reversed(range(40)))
    assert len({pixels.tobytes() for pixels in first}) > 35


def test_a_mirrored_array_is_taken_as_it_is_seen():
    pixels = smooth()[:, ::-1]
    assert all((run(TRIVIAL, pixels, s) == run(TRIVIAL, pixels.copy(), s)).all() for s in range(20))


def test_a_rectangle_of_the_mean_colour_is_erased():
    pixels, areas = np.zeros((100, 100, 3), np.uint8), []
    for seed in range(200):
        erased = (run(ERASE, pixels, seed) == (124, 116, 104)).all(2)  # ImageNet's mean
        rows, columns = erased.any(1), erased.any(0)
        assert (erased == rows[:, None] & columns).all()
        areas.append(erased.mean())
    assert 0.015 < min(areas) < 0.05 and 0.28 < max(areas) < 0.35
    half = [(run(replace(ERASE, erase=0.3), pixels, seed) != 0).any() for seed in range(400)]
    assert np.mean(half) == pytest.approx(0.3, abs=0.1)


@pytest.mark.parametrize("view", [TRIVIAL, ERASE], ids=["trivial", "erase"])
def test_all_frames_of_a_clip_are_changed_in_the_same_way(view: View):
    view, frame = replace(view, clip=Clip(frames=3)), smooth()
    clip = np.stack([frame] * 3)
    found = [run(view, clip, seed) for seed in range(40)]
    assert all((one == one[:1]).all() for one in found)
    assert sum((one != clip).any() for one in found) > 25


@pytest.mark.long
@pytest.mark.parametrize("view", [replace(TRIVIAL, erase=0.5), replace(TRIVIAL, erase=0.5, crop="padded")])
def test_pixels_of_the_sandbox_are_those_of_this_process(view: View):
    media = [_bmp(smooth(size)) for size in range(33, 63)]
    numbers = [(7, 3, i) for i in range(len(media))]
    parse = train_parser({**vars(view), "clip": None})
    expected = [parse(data, some) for data, some in zip(media, numbers, strict=True)]
    out = np.empty((len(media), *view.train_shape), np.uint8)
    with Sandbox(Parser.of(train_parser, view=view)) as sandbox:
        assert not any(sandbox.fill(out, media, numbers))
    assert (out == np.stack(expected)).all()


def test_what_pixels_depend_on_is_in_their_identity():
    view = View(size=32, resize=40)
    changed = replace(view, augment="trivial", erase=0.1, interpolation="bicubic", eval_size=36)
    assert changed.training_identity == view.training_identity | {
        "augment": "trivial",
        "erase": 0.1,
        "interpolation": "bicubic",
    }
    assert changed.evaluation_identity == view.evaluation_identity | {"size": 36, "interpolation": "bicubic"}


def _bmp(pixels: np.ndarray) -> bytes:
    Image.fromarray(pixels).save(out := io.BytesIO(), "BMP")
    return out.getvalue()
