"""Views are compared with torchvision (tensors at evaluation, PIL in training), the padded crop with np.pad. Random
crops must have the right statistics. Pictures are encoded without loss unless the test is about the format.
"""

import hashlib
import io
import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from raylabel.errors import InputError
from raylabel.media import image_views as views
from raylabel.media.image_views import eval_pixels, normalise, train_pixels
from raylabel.media.rejects import Reject
from raylabel.media.view import View

IMAGENET = View()
SMALL = View(size=32, resize=32, crop="padded")
CROPS = "random_resized", "padded", "center"


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def coordinates(width: int, height: int) -> Image.Image:
    """A picture whose pixels hold their position: red is x, green is y, blue 200."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x, y, np.full_like(x, 200)], 2).astype(np.uint8))


def encode(image: Image.Image, format: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def lossless(image: Image.Image) -> bytes:
    return encode(image, "BMP")


def smooth(width: int, height: int) -> Image.Image:
    """A picture as smooth as photographs, at any size."""
    return noise(8, 6).resize((width, height), Image.Resampling.BICUBIC)


class Draws(np.random.Generator):
    """A generator that returns given numbers."""

    def __init__(self, *values: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.values = values

    def random(self, *_):  # type: ignore[override]
        return np.array(self.values)


# Evaluation ---------------------------------------------------------------------------------------------------------


def torchvision_eval(image: Image.Image, view: View) -> tuple[np.ndarray, np.ndarray]:
    """(result for a tensor, result for a PIL image)."""
    mode = InterpolationMode(view.interpolation)
    transform = v2.Compose([v2.Resize(view.resize, mode), v2.CenterCrop(view.tested_size)])
    # channels_last, as v2's own decoders return: for separate planes its resize has another precision (up to 1 off).
    tensor = torch.from_numpy(np.array(image))[None].permute(0, 3, 1, 2)
    return transform(tensor)[0].permute(1, 2, 0).numpy(), np.asarray(transform(image))


@pytest.mark.parametrize(
    "width, height",
    [(500, 375), (375, 500), (256, 256), (300, 256), (256, 301), (32, 32), (1, 1), (1, 7), (640, 41), (41, 640)],
)
def test_eval_pixels_equal_torchvision(width, height):
    image = smooth(width, height)
    found = eval_pixels(lossless(image), IMAGENET)
    assert found.shape == (224, 224, 3) and found.dtype == np.uint8
    of_tensor, of_image = torchvision_eval(image, IMAGENET)
    assert (found == of_tensor).all()
    assert abs(found.astype(int) - of_image).max() <= 1 and (found != of_image).mean() < 0.05


@settings(max_examples=80)
@given(
    st.integers(1, 150),
    st.integers(1, 150),
    st.integers(1, 48),
    st.integers(0, 9),
    st.sampled_from(["bilinear", "bicubic"]),
    st.sampled_from([0, 5]),
)
def test_eval_pixels_equal_torchvision_for_any_size(width, height, size, margin, interpolation, other):
    view = View(size=other or size, eval_size=other and size, resize=size + margin, interpolation=interpolation)
    if max(width, height) <= 15 * min(width, height):
        image = noise(width, height)
        found = eval_pixels(lossless(image), view)
        of_tensor, of_image = torchvision_eval(image, view)
        assert (found == of_tensor).all()
        assert found.shape == (size, size, 3)
        # Noise is the worst case. Pillow rounds to uint8 between two passes, where a bicubic filter overshoots.
        assert abs(found.astype(int) - of_image).max() <= 2 or interpolation == "bicubic"


def test_a_picture_of_the_right_size_is_not_changed():
    image = noise(32, 32)
    assert (eval_pixels(lossless(image), SMALL) == np.asarray(image)).all()
    for options in ({}, {"progressive": True}, {"subsampling": 0}, {"exif": b"Exif\0\0"}):
        data = encode(image, "JPEG", **options)
        assert (eval_pixels(data, SMALL) == np.asarray(Image.open(io.BytesIO(data)))).all()


@pytest.mark.parametrize("width, height", [(900, 50), (50, 900), (400, 3), (3, 400), (1, 300), (300, 1), (3000, 150)])
@pytest.mark.parametrize("interpolation, off", [("bilinear", 1), ("bicubic", 6)])
def test_pixels_of_very_long_pictures_are_little_off(width, height, interpolation, off):
    # Only the crop is computed: Pillow rounds in another order than for the whole picture.
    image = noise(width, height)
    view = View(size=28, resize=32, interpolation=interpolation)
    difference = eval_pixels(lossless(image), view).astype(int) - torchvision_eval(image, view)[1]
    assert abs(difference).max() <= off and abs(difference).mean() < 0.5


@pytest.mark.parametrize("width, height", [(1, 2_000_000), (2_000_000, 1), (65535, 2)])
@pytest.mark.parametrize("view", [IMAGENET, View(crop="padded"), View(crop="center"), View(size=1, resize=1)])
def test_extremely_long_pictures_take_little_memory(width, height, view):
    # The whole resized picture would have 10^11 pixels.
    data = encode(Image.new("RGB", (width, height), (9, 8, 7)), "PNG")
    assert (eval_pixels(data, view) == (9, 8, 7)).all()
    assert train_pixels(data, view, np.random.default_rng(0)).shape == (view.size, view.size, 3)


def test_the_number_of_threads_does_not_change_the_result():
    data, threads = encode(smooth(1000, 700), "JPEG"), torch.get_num_threads()
    try:
        found = []
        for torch_threads in (1, 3):
            torch.set_num_threads(torch_threads)
            found.append(eval_pixels(data, IMAGENET))
    finally:
        torch.set_num_threads(threads)
    assert (found[0] == found[1]).all()


@pytest.mark.long
@pytest.mark.parametrize("processor", ["default", "avx2"])
def test_the_kind_of_processor_does_not_change_the_result(processor):
    # torch has code for each and chooses it when it is imported.
    code = (
        "import io, numpy as np; from PIL import Image; from raylabel.media.image_views import *; import hashlib;"
        "image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 410, 3), dtype=np.uint8));"
        "image.save(out := io.BytesIO(), 'BMP');"
        "print(hashlib.sha256(eval_pixels(out.getvalue(), View()).tobytes()).hexdigest())"
    )
    environment = os.environ | {"ATEN_CPU_CAPABILITY": processor}
    there = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    here = hashlib.sha256(eval_pixels(lossless(noise(410, 300)), IMAGENET).tobytes()).hexdigest()
    assert there.stdout.split() == [here]


DCT = View(size=56, resize=64, dct_scale=True)


@pytest.mark.parametrize(
    "width, height, changes", [(300, 127, False), (127, 300, False), (300, 128, True), (999, 700, True)]
)
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_dct_scale_changes_little_and_only_pictures_of_twice_the_size(width, height, changes, options):
    data = encode(smooth(width, height), "JPEG", quality=90, **options)
    scaled, whole = eval_pixels(data, DCT).astype(int), eval_pixels(data, replace(DCT, dct_scale=False))
    assert (scaled != whole).any() == changes
    assert abs(scaled - whole).mean() < 1


@settings(max_examples=100)
@given(st.integers(128, 600), st.integers(128, 600), st.integers(30, 64), st.integers(0, 9))
def test_dct_scale_equals_a_resized_draft_of_pillow(width, height, size, margin):
    data, view = encode(smooth(width, height), "JPEG"), View(size=size, resize=size + margin, dct_scale=True)
    side = view.resize
    to = (side, side * height // width) if width <= height else (side * width // height, side)
    if min(width, height) >= 2 * side and max(to) <= 16 * side:
        image = Image.open(io.BytesIO(data))
        draft = image.draft(None, (side, side))
        assert draft is not None and image.width < width
        expected = image.resize(to, Image.Resampling.BILINEAR, box=draft[1])
        expected = np.asarray(v2.CenterCrop(size)(expected), int)
        difference = abs(eval_pixels(data, view) - expected)
        assert difference.max() <= 2 and difference.mean() < 0.3


@pytest.mark.parametrize("side", range(30, 64))
def test_dct_scale_returns_all_rows_if_the_exact_scale_rounds_down(side):
    # torch multiplies the number of rows by the scale and rounds down.
    for rows in range(side + 1, 2 * side):
        if side / rows * rows < side:
            data = encode(smooth(2 * rows + 1, 2 * rows), "JPEG")  # only the width is not a multiple of 2
            assert eval_pixels(data, View(size=side, resize=side, dct_scale=True)).shape == (side, side, 3)


def test_dct_scale_does_not_change_other_formats_or_training():
    image = smooth(300, 200)
    whole = replace(DCT, dct_scale=False)
    assert (eval_pixels(lossless(image), DCT) == eval_pixels(lossless(image), whole)).all()
    data = encode(image, "JPEG")
    for crop in CROPS:
        a, b = (train_pixels(data, replace(view, crop=crop), np.random.default_rng(0)) for view in (DCT, whole))
        assert (a == b).all()


# Training -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(CROPS), st.integers(0, 2**32))
def test_train_pixels_are_a_pure_function_with_a_fixed_number_of_draws(width, height, crop, seed):
    view = View(size=16, resize=16, crop=crop)
    first, second = np.random.default_rng(seed), np.random.default_rng(seed)
    a, b = (
        train_pixels(lossless(noise(width, height)), view, first),
        train_pixels(lossless(noise(width, height)), view, second),
    )
    assert a.shape == (16, 16, 3) and a.dtype == np.uint8 and (a == b).all()
    train_pixels(lossless(noise(20, 21)), view, second := np.random.default_rng(seed))
    assert first.random() == second.random()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_random_resized_crop_equals_torchvision_for_the_same_box(monkeypatch, interpolation):
    boxes = []
    random_box = views._random_box
    monkeypatch.setattr(views, "_random_box", lambda *a: boxes.append(random_box(*a)) or boxes[-1])
    image = noise(90, 70)
    rng = np.random.default_rng(1)
    for _ in range(20):
        found = train_pixels(lossless(image), View(size=48, resize=48, flip=False, interpolation=interpolation), rng)
        left, top, right, bottom = boxes[-1]
        box = (top, left, bottom - top, right - left)
        expected = v2.functional.resized_crop(image, *box, [48, 48], InterpolationMode(interpolation))  # type: ignore[arg-type]
        assert (found == np.asarray(expected)).all()


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 3}])
@pytest.mark.parametrize("width, height", [(90, 70), (48, 48), (300, 211)])
def test_training_pixels_of_jpeg_equal_those_of_pillow(width, height, crop, options):
    data = encode(smooth(width, height), "JPEG", **options)
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    view = View(size=48, resize=48, crop=crop)
    for seed in range(5):
        found = train_pixels(data, view, np.random.default_rng(seed))
        assert (found == train_pixels(lossless(picture), view, np.random.default_rng(seed))).all()


@pytest.mark.parametrize("crop", CROPS)
def test_undecodable_pictures_are_rejected(crop):
    data = encode(smooth(90, 70), "JPEG")[:-300]
    with pytest.raises(Reject, match="truncated"):
        eval_pixels(data, IMAGENET)
    with pytest.raises(Reject, match="truncated"):
        train_pixels(data, View(crop=crop), np.random.default_rng(0))


def test_random_boxes_have_the_distribution_of_the_paper():
    width, height, tries = 500, 375, 4000
    rng = np.random.default_rng(0)
    boxes = np.array([views._random_box((width, height), 0.08, rng.random(23).tolist()) for _ in range(tries)])
    left, top, right, bottom = boxes.T
    assert left.min() == 0 and top.min() == 0 and right.max() == width and bottom.max() == height
    w, h = right - left, bottom - top
    area, ratio = w * h / (width * height), np.log(w / h)
    assert area.min() > 0.078 and area.max() <= 1
    assert abs(ratio).max() < math.log(4 / 3) + 0.01
    # Means and standard deviations equal those of torchvision's sampler.
    torch.manual_seed(0)
    sampler, empty = v2.RandomResizedCrop(224), [torch.empty(3, height, width)]
    params = [sampler.make_params(empty) for _ in range(tries)]
    theirs = np.array([[p["height"] * p["width"], p["width"] / p["height"], p["left"], p["top"]] for p in params])
    ours = np.stack([w * h, w / h, left, top], 1)
    error = np.sqrt(ours.var(0) / tries + theirs.var(0) / tries)
    assert (abs(ours.mean(0) - theirs.mean(0)) < 4 * error).all()
    assert np.allclose(ours.std(0), theirs.std(0), rtol=0.06)


@given(
    st.integers(1, 4) | st.integers(1, 3000),
    st.integers(1, 4) | st.integers(1, 3000),
    st.floats(0.01, 1),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=23, max_size=23),
)
def test_random_boxes_are_inside_the_picture(width, height, min_scale, draws):
    left, top, right, bottom = views._random_box((width, height), min_scale, draws)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height


@pytest.mark.parametrize(
    "width, height, expected",
    [(100, 10, (43, 0, 56, 10)), (12, 100, (0, 42, 12, 58)), (1, 1, (0, 0, 1, 1))],
)
def test_a_picture_that_no_try_fits_is_cropped_at_its_centre(width, height, expected):
    assert views._random_box((width, height), 1.0, [0.99] * 23) == expected


def test_a_try_that_rounds_to_zero_pixels_does_not_fit():
    # Every try is 0.43 x 0.58 pixels, that is 0 x 1.
    assert views._random_box((1, 1), 0.01, [0.2424, 0.0] * 10 + [0.0] * 3) == (0, 0, 1, 1)


def padded_reference(image: Image.Image, view: View, x: int, y: int) -> np.ndarray:
    """The square at (x, y) of the whole padded picture."""
    resized = np.asarray(v2.Resize(view.size)(image))
    whole = np.pad(resized, ((view.padding,) * 2, (view.padding,) * 2, (0, 0)))
    return whole[y : y + view.size, x : x + view.size]


@settings(max_examples=80)
@given(st.integers(8, 60), st.integers(8, 60), st.integers(0, 9), st.integers(1, 32), st.booleans(), st.data())
def test_padded_crop_is_a_slice_of_the_padded_picture(width, height, padding, size, flip, data):
    view = View(size=size, resize=size, crop="padded", padding=min(padding, size - 1))
    padding = view.padding
    short = min(width, height)
    x, y = (data.draw(st.integers(0, size * n // short + 2 * padding - size)) for n in (width, height))
    counts = (size * n // short + 2 * padding - size + 1 for n in (width, height))
    draws = [(at + 0.5) / n for at, n in zip((x, y), counts, strict=True)]
    found = train_pixels(lossless(noise(width, height)), view, Draws(*draws, 0.25 if flip else 0.75))
    expected = padded_reference(noise(width, height), view, x, y)
    assert (found == (expected[:, ::-1] if flip else expected)).all()


def test_padded_crop_has_uniform_shifts_and_flips_half_of_the_time():
    image, rng, views_ = coordinates(32, 32), np.random.default_rng(0), 6000
    shifts, flips = np.zeros((9, 9), int), 0
    for _ in range(views_):
        pixels = train_pixels(lossless(image), SMALL, rng).astype(int)
        flipped = pixels[16, 17, 0] < pixels[16, 16, 0]
        flips += flipped
        y, x = 16, (15 if flipped else 16)
        shifts[pixels[16, 16, 1] - y + 4, pixels[16, 16, 0] - x + 4] += 1
    assert abs(flips / views_ - 0.5) < 4 * 0.5 / math.sqrt(views_)
    expected = views_ / 81
    assert ((shifts - expected) ** 2 / expected).sum() < 80 + 4 * math.sqrt(160)  # chi squared, 80 degrees of freedom


@pytest.mark.parametrize("crop", CROPS)
def test_flip_mirrors_half_of_the_time_or_never(crop):
    image = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8), (64, 1))[..., None].repeat(3, 2) + 10)
    view = View(size=32, resize=32, crop=crop, padding=0)
    rng = np.random.default_rng(3)

    def is_flipped(view):
        row = train_pixels(lossless(image), view, rng)[16, :, 0].astype(int)
        return row[-1] < row[0]

    assert abs(sum(is_flipped(view) for _ in range(1000)) / 1000 - 0.5) < 0.06
    assert not any(is_flipped(replace(view, flip=False)) for _ in range(100))


# Normalisation ------------------------------------------------------------------------------------------------------


def test_normalise_equals_torchvision():
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 9, 7, 3), dtype=np.uint8))
    before = pixels.clone()
    found = normalise(pixels, IMAGENET)
    scaled = v2.functional.to_dtype(pixels.permute(0, 3, 1, 2), torch.float32, scale=True)
    torch.testing.assert_close(found, v2.Normalize(IMAGENET.mean, IMAGENET.std)(scaled), rtol=0, atol=1e-6)
    assert found.dtype == torch.float32 and found.is_contiguous(memory_format=torch.channels_last)
    assert (pixels == before).all()
    assert normalise(pixels[:, ::2, 1:], IMAGENET).is_contiguous(memory_format=torch.channels_last)
    assert normalise(pixels[:0], IMAGENET).shape == (0, 3, 9, 7)


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(1, 70), st.integers(1, 300)),
    clips=st.booleans(),
    cached=st.sampled_from([1, 100, 5_000, 1 << 18]),
    constants=st.tuples(*[st.floats(0, 1, width=32)] * 3, *[st.floats(1 / 128, 1, width=32)] * 3),
)
def test_normalise_has_the_bits_of_four_passes_in_float32(shape, clips: bool, cached: int, constants):
    """For any division into blocks, and in bf16 those that autocast makes of the float32 input of a convolution."""
    view = View(mean=constants[:3], std=constants[3:])
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    pixels = pixels if clips else pixels[:, 0]
    axes = pixels.ndim - 1
    layout = torch.channels_last_3d if clips else torch.channels_last
    mean, std = (torch.tensor(x).view(3, *[1] * (axes - 1)) for x in (view.mean, view.std))
    expected = pixels.permute(0, axes, *range(1, axes)).to(torch.float32, memory_format=layout)
    expected = expected.div(255).sub(mean).div(std)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views, "_CACHED", cached)
        for dtype in (torch.float32, torch.bfloat16):
            found = normalise(pixels, view, dtype)
            assert found.dtype == dtype and found.is_contiguous(memory_format=layout)
            assert torch.equal(found, expected.to(dtype))


def test_normalise_can_be_used_in_training_after_inference():
    view = View(mean=(0.1, 0.2, 0.3))
    with torch.inference_mode():
        normalise(torch.zeros(1, 2, 2, 3, dtype=torch.uint8), view)
    weight = torch.ones(1, 3, 1, 1, requires_grad=True)
    torch.nn.functional.conv2d(normalise(torch.zeros(1, 2, 2, 3, dtype=torch.uint8), view), weight).sum().backward()
    assert weight.grad is not None


def test_decode_workers_start_without_torch():
    code = "import sys, raylabel.media.image_views, raylabel.media.image; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# Config -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field, value",
    [
        ("size", 0),
        ("size", 224.0),
        ("resize", 223),
        ("eval_size", -1),
        ("interpolation", "nearest"),
        ("augment", "rand"),
        ("erase", 1.1),
        ("erase", math.nan),
        ("crop", "centre"),
        ("min_scale", 0.0),
        ("min_scale", 1.1),
        ("min_scale", math.nan),
        ("padding", -1),
        ("padding", True),
        ("flip", 1),
        ("dct_scale", 2),
        ("mean", (0.5, 0.5)),
        ("mean", (0.5, 0.5, 127.0)),
        ("mean", (0.5, 0.5, math.nan)),
        ("mean", [0.5, 0.5, 0.5]),
        ("std", (0.5, 0.5, 0.0)),
    ],
)
def test_errors_of_view_name_the_bad_field(field, value):
    with pytest.raises(InputError, match=rf"^teacher\.view\.{field} is"):
        View(**{field: value}).check("teacher.view")


def test_padding_must_be_smaller_than_the_view():
    with pytest.raises(InputError, match=r"view\.padding is 8"):
        View(size=8, resize=8, crop="padded", padding=8).check("view")
