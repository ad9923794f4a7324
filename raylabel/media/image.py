"""Encoded images to upright RGB pixels. No other module decodes images.

Every input either gives a picture or raises `Reject` with a reason. The sandbox handles the other failures of a
parser: a crash, a hang, or too much memory.
"""

import io
import struct
import threading
import warnings
from typing import Any

import numpy as np
import simplejpeg

# Imported so that they are registered: Pillow loads these parsers at the first use, when a sandboxed child cannot open
# files. MpoImagePlugin is for JPEG (several frames), ImageCms for TIFF (CIELAB).
from PIL import (
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    ImageCms,  # noqa: F401
    JpegImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,
    WebPImagePlugin,  # noqa: F401
)

from raylabel.media.formats import allowed_format
from raylabel.media.heif import check_avif, heic_opener
from raylabel.media.jpeg import coefficient_bytes, ordinary_size
from raylabel.media.rejects import Reject
from raylabel.media.view import MAX_JPEG_PIXELS, MAX_PIXELS
from raylabel.schema import Reason

# Of libjpeg's coefficients and Pillow's pixels together. The rest of the sandbox's 1 GB is for everything else.
_JPEG_MEMORY = 960 << 20


def _check_pixels(size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise Reject("too_many_pixels", f"{size[0]} x {size[1]}, limit {MAX_PIXELS}")


def _jpeg_scale(data: bytes, size: tuple[int, int], max_jpeg_pixels: int) -> int:
    """1, or for a JPEG of more than MAX_PIXELS the denominator of the scale at which it is decoded; Reject if it is too
    large."""
    width, height = size
    if width * height <= MAX_PIXELS:
        return 1
    if width * height > max_jpeg_pixels:
        raise Reject("too_many_pixels", f"{width} x {height}, limit {max_jpeg_pixels} (view.max_jpeg_pixels)")
    scale = next((n for n in (2, 4) if -(-width // n) * -(-height // n) <= MAX_PIXELS), 8)
    coefficients = coefficient_bytes(data)
    if coefficients and coefficients + 4 * width * height // scale**2 > _JPEG_MEMORY:
        why = f"a JPEG in several scans (progressive), whose decoder needs {coefficients / 1e9:.1f} GB for coefficients"
        raise Reject("too_many_pixels", f"{width} x {height} in {why}: save it as a baseline JPEG, or smaller")
    return scale


def _check_webp(data: bytes) -> None:
    """Checks the size before Pillow opens the file, since libwebp then allocates the whole canvas.

    Layouts: RFC 9649 §2.5 to 2.7 (simple, lossless, extended). The first chunk's data begin at byte 20.
    """
    if 8 + int.from_bytes(data[4:8], "little") > len(data):
        raise Reject("truncated", "shorter than its RIFF header says")
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = (int.from_bytes(data[i : i + 2], "little") & 0x3FFF for i in (26, 28))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:  # VP8X; Pillow refuses anything else
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
    _check_pixels((width, height))


# The values of the EXIF orientation tag other than 1 (upright), and the operation that undoes each.
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The keys of EXIF, and of XMP with the same tag, in `Image.info`. A picture with none of them is upright. Pillow itself
# rotates TIFF when it loads it.
_METADATA = frozenset(("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"))


def _transpose_to_upright(image: Image.Image) -> Image.Transpose | None:
    """The operation that makes a loaded picture upright. Broken EXIF is ignored, as in browsers."""
    if image.format == "HEIF" or _METADATA.isdisjoint(image.info):  # libheif has rotated it, as its container says
        return None
    if image.format == "AVIF":  # Pillow writes the container's rotation into EXIF; it replaces that of EXIF and XMP
        image.info.pop("xmp", None)
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return None


def _grey_16_to_8(image: Image.Image) -> Image.Image:
    """Scales 16-bit grey (modes I;16, I) to 8 bits: round(v / 257). Pillow's own conversion clips at 255."""
    values = np.asarray(image)
    if values.dtype.itemsize > 2 and (values.min() < 0 or values.max() > 65535):
        raise Reject("mode_not_supported", f"grey values from {values.min()} to {values.max()}, not 16 bits")
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    white = 4095 if tags.get(TiffImagePlugin.BITSPERSAMPLE) == (12,) else 65535  # Pillow does not widen 12 bits
    scaled = ((np.arange(65536) * 255 + white // 2) // white).clip(0, 255).astype(np.uint8)
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # white is 0; Pillow inverts only 8 bits and fewer
        scaled = 255 - scaled
    if "transparency" in image.info:  # PNG: one transparent value, shown on white
        scaled[image.info["transparency"]] = 255
    return Image.fromarray(scaled[values])


def _to_rgb(image: Image.Image) -> Image.Image:
    """A loaded picture in mode RGB. An RGB picture is not copied: a copy takes a tenth of the decoding time."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise Reject("mode_not_supported", "floating-point pixels have no defined white")
    if image.mode.startswith("I"):
        image = _grey_16_to_8(image)
    elif image.has_transparency_data:
        if image.mode == "La":
            image = image.convert("LA")  # Pillow's only conversion from premultiplied grey
        rgba = image.convert("RGBA")
        # On white, as web pages show such pictures. Without alpha, the colours of transparent pixels would show.
        rgb = Image.new("RGB", rgba.size, "white")
        rgb.paste(rgba, mask=rgba)
        return rgb
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise Reject("mode_not_supported", f"mode {image.mode}: {error}") from error


class _IgnoreWarnings:
    """Suppresses warnings while any thread decodes, since warning filters apply to the whole process.

    The results are then the same for a caller that turns warnings into errors.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._caught = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._caught.__exit__(None, None, None)


_no_warnings = _IgnoreWarnings()


def decode_image(data: bytes, max_jpeg_pixels: int = MAX_JPEG_PIXELS) -> Image.Image:
    """The picture in mode RGB, upright (orientation applied), the first frame of an animation.

    Accepts JPEG (also MPO, CMYK, YCCK), PNG, WebP, GIF, BMP, TIFF, AVIF and HEIC (with the extra raylabel[heic]),
    detected by their first bytes. Transparency is composited over white. 16-bit grey is scaled to 8 bits by rounding,
    16-bit colour by its upper byte (as Pillow does, at most 1 off), AVIF and HEIC of 10 and 12 bits by their decoders.
    Colour profiles (ICC, also PQ and HLG of AVIF and HEIC) are not applied, as in torchvision.

    A JPEG of more than MAX_PIXELS and at most `max_jpeg_pixels` is decoded at the largest of 1/2, 1/4 and 1/8 of its
    size that has at most MAX_PIXELS, in the DCT domain.

    Raises Reject for every other input. The only other exceptions are MemoryError and KeyboardInterrupt.
    """
    return _decode(data, 0, max_jpeg_pixels)[0]


def _decode(data: bytes, short: int, max_jpeg_pixels: int) -> tuple[Image.Image, tuple[float, float]]:
    """The picture of `decode_image` if `short` is 0, else of `decode_draft`; and its size, as in `decode_draft`."""
    name = allowed_format(data)
    try:
        with _no_warnings:
            if name == "WEBP":
                _check_webp(data)
            image, draft = _open(data, name), None
            if name == "JPEG":
                draft = _draft(image, short, _jpeg_scale(data, image.size, max_jpeg_pixels))
            else:
                _check_pixels(image.size)
            image.load()
            transpose = _transpose_to_upright(image)
            image = _to_rgb(image)
            image = image if transpose is None else image.transpose(transpose)
            return image, draft or image.size
    except (Reject, MemoryError):
        raise
    except Image.DecompressionBombError as error:  # Pillow checked its own limit first
        raise Reject("too_many_pixels", str(error)) from error
    except Exception as error:
        reason, detail = _reason(error), f"{type(error).__name__}: {error}"
        if reason == "truncated" and name == "JPEG":
            detail = f"ends before its end-of-image marker (FF D9), after {len(data)} bytes"
        raise Reject(reason, detail) from error


def _reason(error: Exception) -> Reason:
    text = str(error).lower()
    truncated = isinstance(error, EOFError) or "truncated" in text or "unexpected end of file" in text
    return "truncated" if truncated else "corrupt"


def _open(data: bytes, name: str) -> Image.Image:
    """The picture of this format, not yet decoded. (`Image.open` does not say why a file cannot be opened, and has a
    limit of pixels of its own.)"""
    if name == "HEIF":
        opener = heic_opener()
    else:
        opener, accepts = Image.OPEN[name]
        if name == "AVIF":
            check_avif()
        if accepts and accepts(data[:16]) is not True:
            raise Reject("corrupt", f"cannot be opened as {name}")
    try:
        return opener(io.BytesIO(data), "")
    except (SyntaxError, IndexError, TypeError, struct.error) as error:
        raise Reject(_reason(error), f"cannot be opened as {'HEIC' if name == 'HEIF' else name}: {error}") from error


def _draft(image: Any, short: int, scale: int) -> tuple[float, float] | None:
    """Sets the scale of a JPEG that is not yet decoded: at most 1 / `scale`, and if it is upright with a short side of
    at least `short`. Returns its exact size then, else None."""
    exact = short and _transpose_to_upright(image) is None
    if not exact and scale == 1:
        return None
    width, height = (side // scale for side in image.size)
    found = image.draft(None, (min(width, short), min(height, short)) if exact else (width, height))
    return found[1][2:] if exact and found else None


def decode_pixels(data: bytes, max_jpeg_pixels: int = MAX_JPEG_PIXELS) -> np.ndarray:
    """The same pixels and Rejects as `decode_image`, bit for bit, as uint8 [H, W, 3]. The array may be read-only.

    simplejpeg decodes an ordinary JPEG into an array: 1.2 times as fast as Pillow and its conversion for 500 x 375
    pixels, 3.6 times for 32 x 32. Both use libjpeg-turbo. simplejpeg raises an error even where the library only
    warns; Pillow then decodes the file or rejects it. (torchvision's decoder is as fast for photographs, but it is
    deprecated, prints the warnings, and returns incomplete pictures.)
    """
    if ordinary_size(data, MAX_PIXELS):
        try:
            return simplejpeg.decode_jpeg(data, "RGB")
        except ValueError:
            pass
    return np.asarray(decode_image(data, max_jpeg_pixels))


def decode_draft(
    data: bytes, short: int, max_jpeg_pixels: int = MAX_JPEG_PIXELS
) -> tuple[np.ndarray, tuple[float, float]]:
    """Pixels at the smallest scale of 1/8, 1/4 and 1/2 with a short side of at least `short`, and the exact (width,
    height) at that scale.

    Width and height are multiples of 1/8: the last column and row may cover only a fraction of a pixel. Only an upright
    JPEG is scaled, by its decoder, in the DCT domain. Every other file is decoded as by `decode_pixels`.
    """
    size = ordinary_size(data, MAX_PIXELS)
    if size and min(size) < 2 * short:
        return decode_pixels(data), size
    image, size = _decode(data, short, max_jpeg_pixels)
    return np.asarray(image), size
