"""AVIF and HEIC: the pixels are those of Pillow and pillow-heif, in the sandbox too. HEIC needs the extra."""

import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from orientations import UPRIGHT
from PIL import AvifImagePlugin, Image

from raylabel.media import heif
from raylabel.media.formats import known_format
from raylabel.media.image import decode_image, decode_pixels
from raylabel.media.rejects import Reject
from raylabel.media.sandbox.sandbox import Parser, Sandbox
from raylabel.report.thumbnails import thumbnail_parser
from raylabel.training.media import encode_parser

H, W = 48, 80
RNG = np.random.default_rng(0)
SMOOTH = np.asarray(Image.fromarray(RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((W, H)))
ALPHA = np.linspace(0, 255, W).astype(np.uint8)[None].repeat(H, 0)
NEEDS_EXTRA = pytest.mark.skipif(heif.pillow_heif is None, reason="pillow-heif is not installed: raylabel[heic]")
FORMATS = ["AVIF", pytest.param("HEIF", marks=NEEDS_EXTRA)]
EXACT = {"AVIF": {"quality": 100, "subsampling": "4:4:4"}, "HEIF": {"quality": -1, "chroma": 444}}


def encode(image: Image.Image | np.ndarray, format: str, **options) -> bytes:
    if format == "HEIF":
        from pillow_heif import register_heif_opener

        register_heif_opener()
    out = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(out, format, **EXACT[format], **options)
    return out.getvalue()


def pixels(data: bytes) -> np.ndarray:
    found = decode_pixels(data)
    assert np.array_equal(found, np.asarray(decode_image(data)))
    return found.astype(int)


def oracle(data: bytes) -> np.ndarray:
    """The pixels of the library that decodes this format, with its own settings; upright, and RGB."""
    if known_format(data) == "HEIF":
        from pillow_heif import open_heif

        return np.asarray(open_heif(io.BytesIO(data)).to_pillow().convert("RGB"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("size", [(W, H), (1, 1), (33, 17), (300, 65)])
def test_pixels_are_those_of_the_library(format: str, size: tuple[int, int]):
    data = encode(Image.fromarray(SMOOTH).resize(size), format)
    assert np.array_equal(pixels(data), oracle(data))
    assert abs(pixels(data) - np.asarray(Image.fromarray(SMOOTH).resize(size)).astype(int)).max() <= 3


@pytest.mark.parametrize("format", FORMATS)
def test_grey(format: str):
    data = encode(SMOOTH[..., 0].copy(), format)
    assert abs(pixels(data) - SMOOTH[..., :1]).max() <= 1 and np.array_equal(pixels(data), oracle(data))


@pytest.mark.parametrize("format", FORMATS)
def test_alpha_is_composited_over_white(format: str):
    alpha = ALPHA[..., None] / 255
    expected = SMOOTH * alpha + 255 * (1 - alpha)
    assert abs(pixels(encode(np.dstack((SMOOTH, ALPHA)), format)) - expected).max() <= 3


@NEEDS_EXTRA
def test_premultiplied_alpha_is_composited_over_white():
    from pillow_heif import encode as encode_heif

    alpha, out = ALPHA[..., None] / 255, io.BytesIO()
    stored = np.dstack((np.rint(SMOOTH * alpha).astype(np.uint8), ALPHA))
    encode_heif("RGBa", (W, H), stored.tobytes(), out, **EXACT["HEIF"])
    found = pixels(out.getvalue())
    assert abs(found - (SMOOTH * alpha + 255 * (1 - alpha))).max() <= 4


@NEEDS_EXTRA
def test_10_bit_heic_is_scaled_to_8_bits():
    from pillow_heif import encode as encode_heif

    out = io.BytesIO()
    encode_heif("RGB;16", (W, H), (SMOOTH.astype(np.uint16) * 257).tobytes(), out, **EXACT["HEIF"])
    assert out.getvalue()[8:12] == b"heix"
    assert abs(pixels(out.getvalue()) - SMOOTH).max() <= 2


def avif_by_ffmpeg(form: str) -> bytes:
    """An AVIF that another encoder made. Its colours are BT.601, limited range."""
    out = io.BytesIO()
    with av.open(out, "w", format="avif") as container:
        stream = container.add_stream("libsvtav1", rate=1, options={"crf": "1", "svtav1-params": "lp=1"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = W, H, form
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(SMOOTH), format="rgb24")
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


@pytest.mark.parametrize("form", ["yuv420p", "yuv420p10le"])
def test_avif_of_8_and_10_bits_by_another_encoder(form: str, capfd: pytest.CaptureFixture[str]):
    data = avif_by_ffmpeg(form)
    assert np.array_equal(pixels(data), oracle(data)) and abs(pixels(data) - SMOOTH).mean() < 4


# Upright, first frame -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_the_rotation_of_the_container_is_applied_once(format: str, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(SMOOTH, format, exif=exif.tobytes())
    assert (b"irot" in data or b"imir" in data) == (orientation > 1)
    assert np.array_equal(pixels(data), UPRIGHT[orientation](pixels(encode(SMOOTH, format))))


@NEEDS_EXTRA
def test_exif_does_not_rotate_heic_again():
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "maker", 1
    data = encode(SMOOTH, "HEIF", exif=exif.tobytes())
    entry = b"\x01\x12\0\3\0\0\0\1\0"
    assert data.count(entry + b"\1") == 1
    assert np.array_equal(pixels(data.replace(entry + b"\1", entry + b"\6")), pixels(data))


def test_xmp_does_not_rotate_avif():
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></x>'
    )
    data = encode(SMOOTH, "AVIF", xmp=xmp)
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == 6  # otherwise this tests nothing
    assert np.array_equal(pixels(data), pixels(encode(SMOOTH, "AVIF")))


@pytest.mark.parametrize("format", FORMATS)
def test_first_frame(format: str):
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "lime", "blue")]
    data = encode(frames[0], format, save_all=True, append_images=frames[1:])
    assert abs(pixels(data) - (255, 0, 0)).max() <= 2


# Rejects --------------------------------------------------------------------------------------------------------------


def ftyp(major: bytes, *others: bytes) -> bytes:
    body = major + bytes(4) + b"".join(others)
    return (8 + len(body)).to_bytes(4, "big") + b"ftyp" + body + b"\0\0\0\x08mdat"


@pytest.mark.parametrize(
    "data, name",
    [
        (ftyp(b"avif", b"mif1", b"miaf"), "AVIF"),
        (ftyp(b"avis", b"msf1"), "AVIF"),
        (ftyp(b"mif1", b"miaf", b"avif"), "AVIF"),
        (ftyp(b"msf1", b"iso8", b"avis"), "AVIF"),
        (ftyp(b"heic"), "HEIF"),
        (ftyp(b"heix", b"mif1", b"avif"), "HEIF"),  # the major brand decides
        (ftyp(b"hevc", b"msf1"), "HEIF"),
        (ftyp(b"mif1", b"heic"), "HEIF"),
        (ftyp(b"msf1", b"hevc", b"heic"), "HEIF"),
        (ftyp(b"mif1", b"miaf", b"jpeg"), "HEIF that is neither AVIF nor HEIC, brands b'mif1 miaf jpeg'"),
        (ftyp(b"mif1") + b"heic", "HEIF that is neither AVIF nor HEIC, brands b'mif1'"),  # after the box
        (ftyp(b"isom", b"mp41", b"avif"), "ISO media (MP4 and others), brand b'isom'"),
        (ftyp(b"mif1", b"heic")[:14], "HEIF that is neither AVIF nor HEIC, brands b'mif1'"),
    ],
)
def test_brands(data: bytes, name: str):
    assert known_format(data) == name


def test_heic_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(heif, "pillow_heif", None)
    for data in (ftyp(b"heic"), ftyp(b"mif1", b"heix")):
        with pytest.raises(
            Reject, match=r"format_not_allowed: HEIC.* raylabel\[heic\]: pip install 'raylabel\[heic\]'"
        ):
            decode_pixels(data)


def test_avif_without_support_in_pillow_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(AvifImagePlugin, "SUPPORTED", False)
    with pytest.raises(Reject, match="format_not_allowed: AVIF, which this build of Pillow lacks"):
        decode_pixels(ftyp(b"avif"))


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_files_have_a_reason(format: str):
    data = encode(SMOOTH, format)
    for end in (20, len(data) // 3, len(data) - 100):
        assert pytest.raises(Reject, decode_pixels, data[:end]).value.reason in ("truncated", "corrupt")
    assert pytest.raises(Reject, decode_pixels, data[: len(data) - 100]).value.reason == "truncated"


@pytest.mark.parametrize("format", FORMATS)
def test_the_limit_of_pixels_is_that_of_the_header(format: str):
    data = encode(Image.fromarray(SMOOTH).resize((128, 64)), format)
    small, large = (b"ispe\0\0\0\0" + struct.pack(">II", *size) for size in ((128, 64), (16_384, 4096)))
    assert data.count(small) == 1
    reject = pytest.raises(Reject, decode_pixels, data.replace(small, large)).value
    assert str(reject) == "too_many_pixels: 16384 x 4096, limit 50000000"


# In the sandbox -------------------------------------------------------------------------------------------------------


def test_the_sandbox_gives_the_same_pixels(shared: Path):
    """With one child, whose threads the filter of system calls allows; names do not matter."""
    media = [(shared / "cases" / "media" / "x.avif").read_bytes()]
    formats = ["AVIF", "HEIF"] if heif.pillow_heif else ["AVIF"]
    for format in formats:
        media += [encode(image, format) for image in (SMOOTH, np.dstack((SMOOTH, ALPHA)), SMOOTH[..., 0].copy())]
    encoder = Parser.of(encode_parser, short_side=20, quality=95)
    with Sandbox(encoder) as training, Sandbox(Parser.of(thumbnail_parser, max_jpeg_pixels=50_000_000)) as report:
        for sandbox, parse in ((training, encode_parser(20, 95)), (report, thumbnail_parser(50_000_000))):
            assert sandbox.convert(media) == [parse(data, ()) for data in media]


def test_the_cases(shared: Path):
    folder = shared / "cases" / "media"
    data = (folder / "x.avif").read_bytes()
    assert np.array_equal(pixels(data), oracle(data))
    expected = {
        "heic_named.jpg": "corrupt: cannot be opened as HEIC: " if heif.pillow_heif else "format_not_allowed: HEIC, ",
        "no_eoi.jpg": "truncated: ends before its end-of-image marker (FF D9), after 4002 bytes",
        "png_bad_text_crc.png": "corrupt: cannot be opened as PNG: broken PNG file (bad header checksum in b'tEXt')",
    }
    for name, reject in expected.items():
        assert str(pytest.raises(Reject, decode_pixels, (folder / name).read_bytes()).value).startswith(reject)


def test_files_like_the_cases_say_what_is_off():
    for format, start, expected in (
        ("JPEG", -2, "truncated: ends before its end-of-image marker"),
        ("JPEG", -40, "truncated: ends before its end-of-image marker"),
    ):
        out = io.BytesIO()
        Image.fromarray(SMOOTH).save(out, format, progressive=start == -40)
        assert str(pytest.raises(Reject, decode_pixels, out.getvalue()[:start]).value).startswith(expected)
    from PIL.PngImagePlugin import PngInfo

    info, out = PngInfo(), io.BytesIO()
    info.add_itxt("Title", "text")
    Image.fromarray(SMOOTH).save(out, "PNG", pnginfo=info)
    broken = out.getvalue().replace(b"text", b"tesT", 1)
    assert "bad header checksum in b'iTXt'" in str(pytest.raises(Reject, decode_pixels, broken).value)


def test_the_decoders_are_told_to_use_one_thread():
    assert AvifImagePlugin.DEFAULT_MAX_THREADS == 1
    assert heif.pillow_heif is None or heif.pillow_heif.options.DECODE_THREADS == 1
