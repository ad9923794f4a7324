"""The media of the golden corpus: small images, clips, copies and broken media; deterministic."""

import io
import struct
import zlib

import numpy as np
from chaos_teacher import CRASHING, SIDE
from golden import COMMANDS, SLOW_COMMANDS, Golden
from PIL import Image
from sklearn.datasets import load_digits


def make(images: int, clips: int) -> Golden:
    """A corpus of so many images, including copies and broken ones, and so many clips; deterministic."""
    random = np.random.default_rng(images)
    digits = np.asarray(load_digits(return_X_y=True)[0]).reshape(-1, 8, 8)
    n = images + clips
    clip_at = set(np.linspace(3, n - 1, clips).astype(int).tolist())
    commands = dict(zip(range(40, n, n // 12), [*COMMANDS, *SLOW_COMMANDS], strict=False))
    crashing = n // 2 + 1
    media: list[bytes | None] = []
    reasons: dict[int, str] = {}
    for i in range(n):
        data, reason = _picture(random, digits[random.integers(len(digits))], crashing=i == crashing), None
        if i == crashing:
            pass
        elif i in clip_at:
            data, reason = _clip(i), "format_not_allowed"
        elif i in commands:
            data, reason = commands[i].encode(), "unrecognized"
        elif i % 50 == 29:
            data, reason = _broken(random, data, i // 50)
        elif i % 16 == 15:  # a copy of an earlier sample, at most 5,000 before it
            original = i - int(random.integers(1, min(i, 5000)))
            if original not in reasons and original != crashing:
                data = media[original]
        media.append(data)
        if reason:
            reasons[i] = reason
    return Golden(media, reasons, crashing)


def _picture(random: np.random.Generator, digit: np.ndarray, crashing: bool) -> bytes:
    """A coloured digit on a noisy rectangle whose short side is SIDE."""
    long = int(random.integers(SIDE, 2 * SIDE + 1))
    left = (long - SIDE) // 2
    pixels = random.integers(0, 60, (SIDE, long, 3))
    pixels[:, left : left + SIDE] += (np.kron(digit, np.ones((2, 2)))[..., None] * random.integers(4, 13, 3)).astype(
        int
    )
    if random.random() < 0.5:
        pixels = pixels.transpose(1, 0, 2)
    if crashing:
        pixels = pixels[:SIDE, :SIDE]
        pixels[0, :4] = CRASHING.reshape(4, 3)
    out = io.BytesIO()
    image = Image.fromarray(pixels.astype(np.uint8))
    if crashing or random.random() < 0.5:
        image.save(out, "PNG", compress_level=1)
    else:
        image.save(out, "JPEG", quality=85)
    return out.getvalue()


def _broken(random: np.random.Generator, good: bytes, kind: int) -> tuple[bytes | None, str]:
    """(media, why it must be rejected)."""
    png = bytearray(_png_header(SIDE, SIDE))
    match kind % 9:
        case 0:
            return None, "missing"
        case 1:
            return b"", "empty"
        case 2:
            return b"<html>404 " + random.bytes(20), "unrecognized"
        case 3:
            return random.bytes(int(random.integers(20, 500))).replace(b"\xff", b"x"), "unrecognized"
        case 4:
            return b"%PDF-1.7\n" + random.bytes(50), "format_not_allowed"
        case 5:
            out = io.BytesIO()
            Image.open(io.BytesIO(good)).convert("RGB").save(out, "JPEG", quality=95)
            return out.getvalue()[:-40], "truncated"
        case 6:
            png[30] ^= 1  # a bit of the checksum of its header
            return bytes(png), "corrupt"
        case 7:
            return _png_header(60_000, 50_000 + kind), "too_many_pixels"
        case _:
            out = io.BytesIO()
            Image.fromarray(random.random((SIDE, SIDE)).astype(np.float32)).save(out, "TIFF")
            return out.getvalue(), "mode_not_supported"


def _png_header(width: int, height: int) -> bytes:
    """An 8-bit RGB PNG that ends before its pixel data."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + checksum + struct.pack(">I", 1000) + b"IDAT"


def _clip(number: int) -> bytes:
    """The boxes of an MP4 without a track."""
    movie = struct.pack(">IIIII", 0, 0, number, 1000, 40) + struct.pack(">IHH", 0x10000, 0x100, 0) + bytes(8)
    movie += struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000) + bytes(24) + struct.pack(">I", 1)
    boxes = (b"ftyp", b"isom\0\0\2\0isommp41"), (b"moov", _box(b"mvhd", movie)), (b"mdat", bytes(64))
    return b"".join(_box(*box) for box in boxes)


def _box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", 8 + len(data)) + kind + data
