"""A JPEG above the limit of full decoding is decoded at a smaller scale, to the pixels of Pillow's draft mode."""

import io
import struct
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from raylabel.errors import InputError
from raylabel.media import image as module
from raylabel.media import view as view_module
from raylabel.media.image import decode_draft, decode_image, decode_pixels
from raylabel.media.image_views import eval_pixels, train_pixels
from raylabel.media.jpeg import coefficient_bytes
from raylabel.media.parsers import eval_parser, train_parser
from raylabel.media.rejects import Reject
from raylabel.media.sandbox.child import MEMORY
from raylabel.media.sandbox.sandbox import Parser, Sandbox
from raylabel.media.view import MAX_JPEG_PIXELS, MAX_PIXELS, View
from raylabel.report.thumbnails import thumbnail_parser
from raylabel.store.artifact import ADDED_LATER, identity_of
from raylabel.training.media import encode_parser

LIMIT = 1000  # pixels, instead of 50 million


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", LIMIT)


def encode(width: int, height: int, mode: str = "RGB", **options) -> bytes:
    coarse = np.random.default_rng(width).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize((width, height)).convert(mode).save(out, "JPEG", quality=90, **options)
    return out.getvalue()


def claiming(data: bytes, width: int, height: int) -> bytes:
    """The JPEG with another size in its header."""
    (at,) = (at for marker in (b"\xff\xc0", b"\xff\xc2") if (at := data.find(marker)) > 0)
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def scale_of(width: int, height: int) -> int:
    """The smallest denominator with at most LIMIT pixels."""
    return next(n for n in (1, 2, 4, 8) if n == 8 or -(-width // n) * -(-height // n) <= LIMIT)


def by_pillow(data: bytes, scale: int) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    if scale > 1:
        image.draft(None, (image.width // scale, image.height // scale))
    return image.convert("RGB")


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(16, 220),
    st.integers(16, 220),
    st.sampled_from(["L", "RGB", "CMYK"]),
    st.fixed_dictionaries({"progressive": st.booleans(), "subsampling": st.sampled_from([0, 1, 2])}),
)
def test_pixels_are_those_of_pillow_at_the_largest_scale_within_the_limit(
    small_limit: None, width: int, height: int, mode: str, options: dict
):
    data, scale = encode(width, height, mode, **options), scale_of(width, height)
    expected = np.asarray(by_pillow(data, scale))
    assert expected.shape[:2] == (-(-height // scale), -(-width // scale))
    assert np.array_equal(decode_pixels(data), expected) and np.array_equal(np.asarray(decode_image(data)), expected)


def test_a_rotated_jpeg_is_scaled_and_made_upright(small_limit: None):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(101, 50, exif=exif)
    expected = np.rot90(np.asarray(by_pillow(data, 4)), -1)
    assert expected.shape == (26, 13, 3)
    for found in (decode_pixels(data), decode_image(data), decode_draft(data, 4)[0]):
        assert np.array_equal(np.asarray(found), expected)


def test_a_draft_is_at_least_as_small_as_the_limit_requires(small_limit: None):
    data = encode(101, 50)  # 5050 pixels: 1/4
    for short, scale in ((40, 4), (12, 4), (6, 8)):
        found, size = decode_draft(data, short)
        assert np.array_equal(found, np.asarray(by_pillow(data, scale))) and size == (101 / scale, 50 / scale)


@pytest.mark.parametrize("crop", ["random_resized", "padded"])
def test_views_use_the_scaled_picture_and_the_limit_of_the_view(small_limit: None, crop, monkeypatch):
    monkeypatch.setattr(view_module, "MAX_PIXELS", LIMIT)
    data = encode(120, 90)
    scaled = io.BytesIO()
    by_pillow(data, 4).save(scaled, "PNG")
    same, less = (View(size=16, resize=20, crop=crop, max_jpeg_pixels=n) for n in (120 * 90, 120 * 90 - 1))
    same.check("view")
    reject = rf"too_many_pixels: 120 x 90, limit {120 * 90 - 1} \(view.max_jpeg_pixels\)"
    for make in (
        lambda data, view: eval_pixels(data, view),
        lambda data, view: train_pixels(data, view, np.random.default_rng(3)),
    ):
        assert np.array_equal(make(data, same), make(scaled.getvalue(), same))
        with pytest.raises(Reject, match=reject):
            make(data, less)


def test_thumbnails_and_training_examples_are_decoded_in_the_same_way(small_limit: None):
    data = encode(120, 90)
    thumbnail = Image.open(io.BytesIO(thumbnail_parser(120 * 90)(data, ())))
    assert (thumbnail.width, thumbnail.height) == (90, 69)  # 30 x 23, enlarged by a whole factor
    small = encode_parser(short_side=10, quality=90, max_jpeg_pixels=120 * 90)(data, ())
    assert Image.open(io.BytesIO(small)).size == (13, 10)
    for parser in (thumbnail_parser(9999), encode_parser(10, 90, 9999), encode_parser(0, 90, 9999)):
        with pytest.raises(Reject, match="view.max_jpeg_pixels"):
            parser(data, ())


def test_only_jpeg_is_scaled(small_limit: None):
    for format in ("PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF"):
        out = io.BytesIO()
        Image.new("RGB", (40, 40)).save(out, format)
        with pytest.raises(Reject, match="too_many_pixels: 40 x 40, limit 1000$"):
            decode_image(out.getvalue())


# Memory ---------------------------------------------------------------------------------------------------------------


def test_the_memory_of_coefficients_follows_from_the_header():
    """Blocks of 64 coefficients of 2 bytes, and in 4:2:0 a quarter of them for each of two colours."""
    assert coefficient_bytes(encode(160, 96)) == 0  # baseline
    full = 160 * 96 * 2
    assert coefficient_bytes(encode(160, 96, "L", progressive=True)) == full
    assert coefficient_bytes(encode(160, 96, progressive=True, subsampling=0)) == 3 * full
    assert coefficient_bytes(encode(160, 96, progressive=True, subsampling=2)) == full * 3 // 2
    assert coefficient_bytes(encode(155, 90, progressive=True, subsampling=2)) == full * 3 // 2
    assert coefficient_bytes(encode(160, 96, "CMYK", progressive=True)) == 4 * full
    exif = Image.Exif()
    exif[0x010E] = "text"
    odd = encode(160, 96, progressive=True, exif=exif, comment=b"!")
    assert coefficient_bytes(odd[:2] + b"\xff\xff" + odd[2:]) == full * 3 // 2  # fill bytes
    for end in range(0, len(odd), 7):
        coefficient_bytes(odd[:end])


def test_colours_in_several_scans_need_coefficients_too():
    data = encode(160, 96, subsampling=0)
    scan = data.index(b"\xff\xda")
    assert data[scan + 4] == 3
    assert coefficient_bytes(data[: scan + 4] + b"\1" + data[scan + 5 :]) == 3 * 160 * 96 * 2


def test_a_progressive_jpeg_that_does_not_fit_says_so():
    data = claiming(encode(64, 64, progressive=True, subsampling=0), 14_142, 14_142)
    with pytest.raises(Reject, match=r"too_many_pixels: .*progressive.* 1.2 GB .*save it as a baseline JPEG"):
        decode_image(data)


# In the sandbox -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["evaluation", "training"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    parser = train_parser if request.param == "training" else eval_parser
    with Sandbox(Parser.of(parser, view=View())) as sandbox:
        yield sandbox


def filled(sandbox: Sandbox, *media: bytes) -> tuple[list[str], np.ndarray]:
    out = np.empty((len(media), 224, 224, 3), np.uint8)
    found = sandbox.fill(out, media, [(0, 0, i) for i in range(len(media))])
    return [str(reject) if reject else "decoded" for reject in found], out


@cache
def plain(width: int, height: int, mode: str, **options) -> bytes:
    out = io.BytesIO()
    Image.new(mode, (width, height), (200, 100, 50) if mode == "RGB" else 120).save(out, "JPEG", **options)
    return out.getvalue()


@pytest.mark.long
def test_a_photograph_of_a_phone_is_decoded_in_the_sandbox(sandbox: Sandbox):
    found, pixels = filled(sandbox, plain(8160, 6144, "RGB"), plain(14_142, 14_142, "L"))
    assert found == ["decoded"] * 2
    assert abs(pixels[0].astype(int) - (200, 100, 50)).max() <= 2 and abs(pixels[1].astype(int) - 120).max() <= 1
    found, _ = filled(sandbox, claiming(encode(64, 64), 14_143, 14_143), claiming(encode(64, 64), 65_000, 65_000))
    assert found[0] == f"too_many_pixels: 14143 x 14143, limit {MAX_JPEG_PIXELS} (view.max_jpeg_pixels)"
    assert found[1].startswith("too_many_pixels: 65000 x 65000, limit")


@pytest.mark.slow
def test_a_jpeg_at_the_limit_fits_or_says_why_it_does_not(sandbox: Sandbox):
    side = 14_142
    baseline, progressive, full = (
        plain(side, side, "RGB", subsampling=subsampling, progressive=progressive)
        for subsampling, progressive in ((0, False), (2, True), (0, True))
    )
    found, _ = filled(sandbox, baseline, progressive, full, baseline)
    assert found[:2] + found[3:] == ["decoded"] * 3
    assert "save it as a baseline JPEG" in found[2]


# The field ------------------------------------------------------------------------------------------------------------


def test_the_field_is_absent_from_identities_while_it_has_its_default():
    assert View.__dataclass_fields__["max_jpeg_pixels"].metadata == ADDED_LATER
    assert "max_jpeg_pixels" not in identity_of(View())
    assert identity_of(View(max_jpeg_pixels=MAX_PIXELS))["max_jpeg_pixels"] == MAX_PIXELS
    assert module._JPEG_MEMORY < MEMORY


@pytest.mark.parametrize("limit", [MAX_PIXELS - 1, 1_000_000_001, 1e8, True, None])
def test_a_limit_that_is_not_possible_is_an_error(limit):
    with pytest.raises(InputError, match="teacher.view.max_jpeg_pixels is .*: give a whole number from 50000000 to"):
        View(max_jpeg_pixels=limit).check("teacher.view")
