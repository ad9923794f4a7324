"""Pixels are compared with numpy formulas and torchvision. A mutated file is decoded or raises Reject, nothing else.

Every input is decoded by both functions, which must return the same picture or raise the same Reject.
"""

import csv
import io
import pickle
import struct
import warnings
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import simplejpeg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from orientations import UPRIGHT
from PIL import Image, ImageCms, ImageFile

from raylabel.media import image as decode
from raylabel.media import jpeg
from raylabel.media.image import MAX_PIXELS, decode_draft, decode_image, decode_pixels
from raylabel.media.rejects import Reject

H, W = 24, 40
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)
NOISE_4 = RNG.integers(0, 256, (H, W, 4), dtype=np.uint8)
SMOOTH = np.asarray(Image.fromarray(RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((W, H)))


def encode(image: Image.Image | np.ndarray, format: str, **options) -> bytes:
    out = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(out, format, **options)
    return out.getvalue()


def pixels(data: bytes) -> np.ndarray:
    found = both(data)
    assert not isinstance(found, tuple), found
    return found.astype(int)


def reason(data: bytes) -> str:
    found = both(data)
    assert isinstance(found, tuple)
    return found[0]


def both(data: bytes) -> np.ndarray | tuple[str, str]:
    """The pixels, or (reason, detail), after comparing both functions. Any other exception fails the test."""
    try:
        image = decode_image(data)
    except Reject as reject:
        found = pytest.raises(Reject, decode_pixels, data).value
        assert (found.reason, found.detail) == (reject.reason, reject.detail)
        return reject.reason, reject.detail
    assert image.mode == "RGB"
    found = decode_pixels(data)
    assert found.dtype == np.uint8 and found.shape == (image.height, image.width, 3)
    assert (found == np.asarray(image)).all()
    return found


def over_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    alpha = alpha[..., None] / 255
    return np.rint(rgb * alpha + 255 * (1 - alpha))


def png(width: int, height: int, depth: int, color: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG that Pillow cannot write. `rows` include their filter bytes."""
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    out = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", head), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        out += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return out


def tiff(width: int, height: int, bits: int, photometric: int, data: bytes) -> bytes:
    """An uncompressed grey TIFF that Pillow did not write, with its pixels after the header."""
    offset = 8 + 2 + 8 * 12 + 4
    tags = ((256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, offset), (277, 1))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in (*tags, (279, len(data))))
    return b"II*\0" + struct.pack("<IH", 8, 8) + entries + bytes(4) + data


def jpeg_header(width: int, height: int) -> bytes:
    data = bytearray(encode(NOISE, "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


# Colour -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_rgb_is_exact(format):
    assert (pixels(encode(NOISE, format, **({"lossless": True} if format == "WEBP" else {}))) == NOISE).all()


def test_plain_jpeg_has_the_pixels_of_pillow():
    data = encode(SMOOTH, "JPEG", quality=90)
    assert (pixels(data) == np.asarray(Image.open(io.BytesIO(data)))).all()
    assert abs(pixels(data) - SMOOTH).mean() < 4


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_grey(format):
    data = encode(SMOOTH[..., 0].copy(), format)
    found = pixels(data)
    assert (found == found[..., :1]).all() and abs(found[..., 0] - SMOOTH[..., 0]).max() <= 6 * (format == "JPEG")


def test_one_bit():
    bits = NOISE[..., 0] > 127
    assert (pixels(encode(Image.fromarray(bits), "PNG"))[..., 1] == 255 * bits).all()


def palette_image() -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """A palette picture, its indices [H, W], its palette [16, 3]."""
    indices, palette = NOISE[..., 0] % 16, RNG.integers(0, 256, (16, 3), dtype=np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    return image, indices, palette


@pytest.mark.parametrize("format", ["PNG", "BMP", "GIF", "TIFF"])
def test_palette(format):
    image, indices, palette = palette_image()
    assert (pixels(encode(image, format)) == palette[indices]).all()


def test_palette_with_an_alpha_for_each_colour():
    image, indices, palette = palette_image()
    alphas = RNG.integers(0, 256, 16, dtype=np.uint8)
    expected = over_white(palette[indices], alphas[indices])
    assert (pixels(encode(image, "PNG", transparency=alphas.tobytes())) == expected).all()


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_palette_with_one_transparent_colour(format):
    image, indices, palette = palette_image()
    expected = np.where((indices == 3)[..., None], 255, palette[indices])
    assert (pixels(encode(image, format, transparency=3)) == expected).all()


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_composited_over_white(format):
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    expected = over_white(NOISE_4[..., :3], NOISE_4[..., 3])
    assert (pixels(encode(Image.fromarray(NOISE_4, "RGBA"), format, **options)) == expected).all()


def test_grey_with_alpha():
    data = encode(Image.fromarray(NOISE_4[..., :2].copy(), "LA"), "PNG")
    assert (pixels(data) == over_white(NOISE_4[..., :1].repeat(3, 2), NOISE_4[..., 1])).all()


def test_a_transparent_colour_of_rgb_and_of_grey():
    rgb = NOISE.copy()
    rgb[0, :5] = (1, 2, 3)
    expected = np.where((rgb == (1, 2, 3)).all(2, keepdims=True), 255, rgb)
    assert (pixels(encode(rgb, "PNG", transparency=(1, 2, 3))) == expected).all()
    grey = NOISE[..., 0].copy()
    expected = np.where(grey == grey[0, 0], 255, grey)
    assert (pixels(encode(grey, "PNG", transparency=int(grey[0, 0])))[..., 0] == expected).all()


RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)
RAMP_8 = np.rint(np.arange(65536) / 257).reshape(256, 256)  # 257 = 65535 / 255 is odd, so no value is halfway


@pytest.mark.parametrize(
    "data",
    [
        encode(RAMP, "PNG"),
        encode(RAMP, "TIFF"),
        tiff(256, 256, 16, 1, RAMP.tobytes()),
        encode(RAMP.astype(np.int32), "TIFF"),
    ],
    ids=["png", "tiff", "tiff not by pillow", "int32 tiff"],
)
def test_16_bit_grey_is_scaled_not_clipped(data):
    assert (pixels(data) == RAMP_8[..., None]).all()


def test_big_endian_16_bit_tiff():
    image = Image.frombytes("I;16B", (256, 256), RAMP.astype(">u2").tobytes())
    assert (pixels(encode(image, "TIFF")) == RAMP_8[..., None]).all()


def test_16_bit_grey_with_a_transparent_value():
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in RAMP)
    data = png(256, 256, 16, 0, rows, (b"tRNS", struct.pack(">H", 515)))
    expected = RAMP_8.copy()
    expected.flat[515] = 255
    assert (pixels(data)[..., 2] == expected).all()


def test_16_bit_tiff_whose_white_is_zero():
    assert (pixels(tiff(256, 256, 16, 0, RAMP.tobytes()))[..., 0] == 255 - RAMP_8).all()


def test_12_bit_tiff():
    values = np.arange(4096).reshape(64, 64)
    a, b = values[:, ::2], values[:, 1::2]  # two values in three bytes
    packed = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], 2).astype(np.uint8)
    assert (pixels(tiff(64, 64, 12, 1, packed.tobytes()))[..., 0] == np.rint(values * 255 / 4095)).all()


@pytest.mark.parametrize("value", [-1, 65536])
def test_integers_over_16_bits_are_refused(value):
    assert reason(encode(np.array([[0, value]], dtype=np.int32), "TIFF")) == "mode_not_supported"


def test_floats_are_refused():
    assert reason(encode(np.zeros((2, 2), np.float32), "TIFF")) == "mode_not_supported"


def test_16_bit_rgb_is_reduced():
    values = RNG.integers(0, 65536, (H, W, 3))
    found = pixels(png(W, H, 16, 2, b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)))
    assert abs(found - values / 257).max() <= 1


def test_cmyk_tiff():
    cmyk = NOISE_4.astype(float) / 255
    found = pixels(encode(Image.fromarray(NOISE_4, "CMYK"), "TIFF"))
    assert abs(found - 255 * (1 - cmyk[..., :3]) * (1 - cmyk[..., 3:])).max() <= 1


def test_cmyk_jpeg_has_the_colours_of_the_picture():
    # Adobe's CMYK is inverted: without the inversion this would be the negative.
    image = Image.fromarray(np.concatenate([255 - SMOOTH, np.zeros((H, W, 1), np.uint8)], 2), "CMYK")
    data = encode(image, "JPEG", quality=95)
    assert abs(pixels(data) - SMOOTH).mean() < 4


def test_ycck_jpeg_against_torchvision(shared):
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    data = (shared / "odd-images" / "05-pil_sample_cmyk.jpg").read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's codecs are deprecated
        expected = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    assert isinstance(expected, torch.Tensor)
    assert abs(pixels(data) - expected.permute(1, 2, 0).numpy()).max() <= 1


def test_lab_tiff_is_converted_back_to_rgb():
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(Image.fromarray(SMOOTH // 2 + 64), to_lab)
    assert lab is not None
    assert abs(pixels(encode(lab, "TIFF")) - (SMOOTH // 2 + 64)).mean() < 1  # 8-bit CIELAB is coarse


# Ordinary JPEG ------------------------------------------------------------------------------------------------------


@pytest.fixture
def fast(monkeypatch) -> list[bytes]:
    """The inputs that simplejpeg decoded."""
    decoded, decode_jpeg = [], simplejpeg.decode_jpeg

    def record(data: bytes, *options):
        result = decode_jpeg(data, *options)
        decoded.append(data)
        return result

    monkeypatch.setattr(simplejpeg, "decode_jpeg", record)
    return decoded


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from(["L", "RGB"]),
    st.fixed_dictionaries(
        {"quality": st.integers(20, 100), "progressive": st.booleans(), "optimize": st.booleans()},
        optional={
            "subsampling": st.sampled_from(["4:4:4", "4:2:2", "4:2:0", "4:1:1"]),
            "restart_marker_blocks": st.integers(1, 9),
            "restart_marker_rows": st.just(1),
            "icc_profile": st.binary(min_size=1, max_size=99),
            "comment": st.binary(max_size=9),
        },
    ),
)
def test_ordinary_jpeg_is_decoded_by_simplejpeg_to_the_pixels_of_pillow(fast, width, height, mode, options):
    fast.clear()
    data = encode(Image.fromarray(SMOOTH).resize((width, height)).convert(mode), "JPEG", **options)
    assert (pixels(data) == np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).all()
    assert fast == [data]


@pytest.mark.parametrize("quality, keep_rgb", [(60, True), (95, True)])
def test_jpeg_without_ycc(quality, keep_rgb, fast):
    data = encode(SMOOTH, "JPEG", quality=quality, keep_rgb=keep_rgb)
    assert abs(pixels(data) - SMOOTH).mean() < 8 and fast == [data]


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(body)) + body


PLAIN = encode(SMOOTH, "JPEG")
AT_FRAME = PLAIN.index(b"\xff\xc0")
OTHER_FRAME = bytearray(PLAIN[AT_FRAME : AT_FRAME + 19])
OTHER_FRAME[5:9] = struct.pack(">HH", 8, 8)
WIDE_TABLE = segment(0xDB, b"\x13" + 64 * b"\0\1")


@pytest.mark.parametrize(
    "data",
    [
        PLAIN[:2] + segment(0xE1, b"Exif\0\0") + PLAIN[2:],
        PLAIN[:2] + segment(0xE2, b"MPF\0" + bytes(20)) + PLAIN[2:],
        PLAIN[:2] + segment(0xE2, b"ICC_PROFILE\0\1") + PLAIN[2:],
        PLAIN[:2] + segment(0xE0, b"JFIF\0") + PLAIN[2:],
        PLAIN[:2] + segment(0xED, b"Photoshop 3.0\0" + b"8BIM\0\0") + PLAIN[2:],
        PLAIN[:2] + segment(0xEE, b"Adobe\0") + PLAIN[2:],
        PLAIN[:2] + b"\xff" + PLAIN[2:],  # a fill byte
        PLAIN[:AT_FRAME] + b"\0" + PLAIN[AT_FRAME:],  # a byte between segments
        PLAIN[:AT_FRAME] + b"\0" + PLAIN[AT_FRAME + 1 :],
        PLAIN[:AT_FRAME] + OTHER_FRAME + PLAIN[AT_FRAME:],
        PLAIN[: AT_FRAME + 19] + OTHER_FRAME + PLAIN[AT_FRAME + 19 :],
        PLAIN[:AT_FRAME] + WIDE_TABLE + PLAIN[AT_FRAME:],
        PLAIN[:AT_FRAME] + PLAIN[AT_FRAME + 19 :],  # no frame
        PLAIN[:AT_FRAME] + segment(0xC0, PLAIN[AT_FRAME + 4 : AT_FRAME + 19] + b"\0") + PLAIN[AT_FRAME + 19 :],
        PLAIN[:AT_FRAME] + segment(0xC0, b"\x08\0\x08\0\x08\2" + 2 * b"\1\x11\0") + PLAIN[AT_FRAME + 19 :],
        PLAIN[: AT_FRAME + 5] + b"\0\0" + PLAIN[AT_FRAME + 7 :],  # height 0: it would follow after the scan
        PLAIN[: AT_FRAME + 4] + b"\x0c" + PLAIN[AT_FRAME + 5 :],  # 12 bits
        PLAIN[: AT_FRAME + 1],
        encode(Image.fromarray(NOISE_4, "CMYK"), "JPEG"),
    ],
)
def test_jpeg_with_an_unusual_header_is_decoded_by_pillow(data):
    # The header is checked directly: simplejpeg also refuses some of these, but allocates memory for them before.
    assert jpeg.ordinary_size(PLAIN, W * H) == (W, H) and jpeg.ordinary_size(data, W * H) is None
    both(data)


def test_jpeg_for_which_libjpeg_only_warns_is_decoded_by_pillow(fast, capfd):
    assert (reason(PLAIN[:-300]), reason(PLAIN[:-2])) == ("truncated", "truncated") and not fast
    scan = PLAIN.index(b"\xff\xda") + 14
    data = PLAIN[: scan + 40] + b"\xff\xd3" + PLAIN[scan + 42 :]  # an unexpected restart marker
    assert pixels(data).shape == (H, W, 3) and not fast
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("short, scale", [(29, 1), (63, 1), (64, 2), (127, 2), (128, 4), (255, 4), (256, 8), (600, 8)])
def test_draft_is_the_smallest_scale_with_the_short_side(short, scale, fast):
    data = encode(Image.fromarray(SMOOTH).resize((short + 41, short)), "JPEG", quality=95)
    found, size = decode_draft(data, 32)
    assert bool(fast) == (scale == 1)
    assert size == ((short + 41) / scale, short / scale)
    # A scaled DCT is close to an average, also of the last row and column, which may average fewer pixels.
    expected = np.asarray(Image.open(io.BytesIO(data)).reduce(scale), int)
    assert found.shape == expected.shape and abs(expected - found).mean() < 1


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"comment": b"!"}, {"exif": b"Exif\0\0"}])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_draft_of_every_kind_of_jpeg(mode, options):
    data = encode(Image.fromarray(SMOOTH).convert(mode), "JPEG", **options)
    found, size = decode_draft(data, 4)
    assert found.shape == (6, 10, 3) and size == (10, 6)
    assert abs(np.asarray(decode_image(data).reduce(4), int) - found).mean() < 2


def test_draft_scales_only_upright_jpeg():
    exif = Image.Exif()
    exif[0x0112] = 6
    for format, options in (("PNG", {}), ("WEBP", {}), ("BMP", {}), ("JPEG", {"exif": exif})):
        data = encode(NOISE, format, **options)
        found, size = decode_draft(data, 4)
        assert (found == pixels(data)).all() and size == (found.shape[1], found.shape[0])
    exif[0x0112] = 1
    assert decode_draft(encode(NOISE, "JPEG", exif=exif), 4)[1] == (10, 6)
    frames = [Image.fromarray(NOISE)] * 2
    assert decode_draft(encode(frames[0], "MPO", save_all=True, append_images=frames[1:]), 4)[1] == (10, 6)


@pytest.mark.parametrize("data", [PLAIN[:-300], PLAIN[:2], b"", jpeg_header(20_000, 20_000)])
def test_draft_has_the_same_reject_as_full_decoding(data):
    assert pytest.raises(Reject, decode_draft, data, 4).value.reason == reason(data)


# Upright, first frame -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = pixels(encode(SMOOTH, format))
    assert (pixels(encode(SMOOTH, format, exif=exif)) == UPRIGHT[orientation](stored)).all()


def test_orientation_and_alpha():
    exif = Image.Exif()
    exif[0x0112] = 6
    expected = over_white(NOISE_4[..., :3], NOISE_4[..., 3])
    assert (pixels(encode(Image.fromarray(NOISE_4, "RGBA"), "PNG", exif=exif)) == np.rot90(expected, -1)).all()


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0not a tiff at all"])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_is_ignored(exif, format):
    assert (pixels(encode(SMOOTH, format, exif=exif)) == pixels(encode(SMOOTH, format))).all()


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_undefined_orientation_is_ignored(value):
    exif = Image.Exif()
    exif[0x0112] = value
    assert (pixels(encode(NOISE, "PNG", exif=exif)) == NOISE).all()


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_first_frame(format):
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "lime", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 3  # otherwise this tests nothing
    assert abs(pixels(data) - (255, 0, 0)).max() <= 2


# Rejects -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"", "empty"),
        (b"\0", "unrecognized"),
        (bytes(100), "unrecognized"),
        (b"<html><body>404", "unrecognized"),
        (b"#EXTM3U\n", "format_not_allowed"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "format_not_allowed"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "format_not_allowed"),
        (b"%PDF-1.7\n", "format_not_allowed"),
        (encode(NOISE, "ICO"), "format_not_allowed"),
        (encode(NOISE, "PPM"), "format_not_allowed"),
        (b"\0\0\0\x1cftypavif", "truncated"),
        (b"\0\0\0\x1cftypisom", "format_not_allowed"),
        (encode(NOISE, "PNG")[:200], "truncated"),
        (encode(NOISE, "JPEG")[:-200], "truncated"),
        (encode(NOISE, "WEBP")[:-20], "truncated"),
        (encode(NOISE, "BMP")[:-20], "truncated"),
        (encode(NOISE, "GIF")[:-200], "truncated"),
        (encode(NOISE, "PNG")[:20], "truncated"),
        (b"\xff\xd8\xff", "corrupt"),
        (b"GIF89a", "corrupt"),
        (b"BMW is a car", "corrupt"),
        (b"RIFF\4\0\0\0WEBP", "corrupt"),
        (b"II*\0\xff\xff\xff\xff", "corrupt"),
    ],
)
def test_rejects_have_the_right_reason(data, expected):
    assert reason(data) == expected


def test_only_the_parser_of_the_detected_format_is_used(monkeypatch):
    def parse(*_):
        raise AssertionError("parsed")

    monkeypatch.setitem(Image.OPEN, "GREEDY", (parse, None))  # accepts any bytes, as the parsers of TGA and others do
    monkeypatch.setattr(Image, "ID", [*Image.ID, "GREEDY"])
    for magic in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0"):
        assert "parsed" not in str(pytest.raises(Reject, decode_image, magic).value)


def webp_header(chunk: bytes, size: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + 8 + 30) + b"WEBP" + chunk + struct.pack("<I", 30) + size.ljust(30, b"\0")


SIDE = 8000  # 64 million pixels: over the limit here, under Pillow's
TOO_LARGE = {
    "png": png(SIDE, SIDE, 8, 2, b""),
    "jpeg": jpeg_header(14_143, 14_143),  # the limit of JPEG is 200 million
    "jpeg over Pillow's limit": jpeg_header(65000, 65000),
    "gif": b"GIF89a" + struct.pack("<HH", SIDE, SIDE) + encode(NOISE, "GIF")[10:],
    "bmp": (lambda b: b[:18] + struct.pack("<ii", SIDE, SIDE) + b[26:])(encode(NOISE, "BMP")),
    "tiff": tiff(SIDE, SIDE, 8, 1, b"\0"),
    "webp lossy": webp_header(b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", SIDE, SIDE)),
    "webp lossless": webp_header(b"VP8L", b"\x2f" + struct.pack("<I", SIDE - 1 | (SIDE - 1) << 14)),
    "webp extended": webp_header(b"VP8X", bytes(4) + 2 * struct.pack("<I", SIDE - 1)[:3]),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_the_pixel_limit_is_checked_before_anything_is_decoded(name, monkeypatch):
    # `new` (and libwebp's decoder) allocates the memory of the picture.
    def allocate(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.core, "new", allocate)
    monkeypatch.setattr("PIL._webp.WebPAnimDecoder", allocate)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", allocate)
    assert reason(TOO_LARGE[name]) == "too_many_pixels"


def test_the_pixel_limit_is_inclusive(monkeypatch):
    monkeypatch.setattr(decode, "MAX_PIXELS", H * W)
    for format in ("PNG", "WEBP", "AVIF"):
        assert pixels(encode(NOISE, format)).shape == (H, W, 3)
    monkeypatch.setattr(decode, "MAX_PIXELS", H * W - 1)
    for format in ("PNG", "WEBP", "AVIF"):
        assert reason(encode(NOISE, format)) == "too_many_pixels"
    assert MAX_PIXELS == 50_000_000


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("extended", [True, False])
def test_the_size_in_the_webp_header_equals_that_of_libwebp(lossless, extended, monkeypatch):
    seen = []
    monkeypatch.setattr(decode, "_check_pixels", seen.append)
    for size in ((1, 1), (300, 7), (1023, 513)):
        options = {"exif": b"Exif\0\0"} if extended else {}
        image = decode_image(encode(Image.new("RGB", size), "WEBP", lossless=lossless, **options))
        assert seen[-2:] == [size, size] and image.size == size


def test_memory_error_is_not_caught(monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setitem(Image.OPEN, "PNG", (fail, None))
    with pytest.raises(MemoryError):
        decode_image(encode(NOISE, "PNG"))


def test_global_state_does_not_change():
    image, _, _ = palette_image()
    warns = encode(image, "PNG", transparency=bytes(16))  # Pillow warns when it converts this to RGB
    before = list(warnings.filters), Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decode_image(warns)
        decode_image(encode(NOISE, "PNG"))
        reason(TOO_LARGE["gif"])
    assert not caught
    assert (list(warnings.filters), Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES) == before
    assert before[2] is False


def test_reject_is_pickled_with_printable_text():
    text = "a\n\x1b[31mred\x00\u202eltr" + 300 * "é"
    copy = pickle.loads(pickle.dumps(Reject("corrupt", text)))
    assert copy.reason == "corrupt" and copy.detail.isprintable() and len(copy.detail) == 200
    assert copy.args == (copy.reason, copy.detail)
    assert copy.detail.startswith("a  [31mred  ltr") and str(copy) == f"corrupt: {copy.detail}"


# Mutated and real files -----------------------------------------------------------------------------------------------

SEEDS = [
    encode(SMOOTH, "JPEG"),
    encode(SMOOTH, "JPEG", restart_marker_blocks=2, subsampling=0),
    encode(SMOOTH, "JPEG", progressive=True),
    encode(SMOOTH[..., 0].copy(), "JPEG", comment=b"grey", icc_profile=b"some colours"),
    encode(SMOOTH, "JPEG", progressive=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
    encode(Image.fromarray(NOISE_4, "CMYK"), "JPEG"),
    encode(SMOOTH, "PNG"),
    encode(Image.fromarray(NOISE_4, "RGBA"), "PNG"),
    encode(RAMP[:8, :8].copy(), "PNG"),
    encode(palette_image()[0], "PNG", transparency=bytes(range(16))),
    encode(palette_image()[0], "GIF", transparency=2),
    encode(SMOOTH, "WEBP"),
    encode(Image.fromarray(NOISE_4, "RGBA"), "WEBP", lossless=True),
    encode(SMOOTH, "BMP"),
]


@settings(max_examples=600)
@given(st.data())
def test_a_mutated_file_is_decoded_or_rejected_in_the_same_way_each_time(data):
    mutant = bytearray(data.draw(st.sampled_from(SEEDS)))
    # Half of the flipped bits are in the first 64 bytes, which contain the structure.
    anywhere, header = st.integers(0, len(mutant) - 1), st.integers(0, min(64, len(mutant)) - 1)
    for at, bit in data.draw(st.lists(st.tuples(header | anywhere, st.integers(0, 7)), max_size=8)):
        mutant[at] ^= 1 << bit
    cut = data.draw(st.none() | anywhere)
    first, second = both(bytes(mutant[:cut])), both(bytes(mutant[:cut]))
    assert type(first) is type(second) and np.array_equal(first, second)


@settings(max_examples=200)
@given(st.sampled_from([seed[:16] for seed in SEEDS] + [b""]), st.binary(max_size=200))
def test_any_bytes_are_decoded_or_rejected(magic, rest):
    both(magic + rest)


def test_unusual_images(shared):
    folder = shared / "odd-images"
    with open(folder / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    counts = Counter()
    for row in rows:
        found = both((folder / row["file"]).read_bytes())
        if isinstance(found, tuple):
            counts[row["decodes"], found[0]] += 1
            assert row["decodes"] == "no" or found[0] == "format_not_allowed", f"{row['file']}: {found}"
            continue
        counts[row["decodes"], "decoded"] += 1
        width, height = (int(n) for n in row["size"].split("x"))
        turned = row["exif_orientation"] in ("5", "6", "7", "8")
        assert row["decodes"] == "yes", row["file"]
        assert found.shape == ((width, height, 3) if turned else (height, width, 3)), row["file"]
    assert counts == {
        ("yes", "decoded"): 59,
        ("yes", "format_not_allowed"): 2,  # ICO, JPEG 2000
        ("no", "format_not_allowed"): 1,  # PNM
        ("no", "empty"): 1,
        ("no", "unrecognized"): 1,
        ("no", "truncated"): 6,
        ("no", "corrupt"): 12,  # also an AVIF bomb
        ("no", "too_many_pixels"): 2,
    }


def test_decoding_in_threads_restores_the_warning_filters():
    before, data = list(warnings.filters), encode(Image.new("RGB", (4, 4), (1, 2, 3)), "PNG")
    with ThreadPoolExecutor(8) as pool:
        pictures = list(pool.map(decode_image, [data] * 400))
    assert {picture.getpixel((0, 0)) for picture in pictures} == {(1, 2, 3)}
    assert warnings.filters == before
