"""Decompression bombs: small files whose decoding needs much memory or time."""

import struct
import zlib
from collections.abc import Callable

from hostile_media import encode, photographs
from PIL import Image

SIDE = 7071  # pixels; the side of the largest square that is decoded

OK, LARGE = frozenset(("decoded",)), frozenset(("too_many_pixels",))
BAD = frozenset(("corrupt", "truncated"))
EITHER = OK | BAD  # the parser may decode or reject it


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, data: bytes = b"", *, color: int = 0, before: bytes = b"") -> bytes:
    """An 8-bit PNG with compressed `data`, and with other chunks before them."""
    head = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def zeros(count: int) -> bytes:
    """So many zeros, compressed, with little memory."""
    compressor, out = zlib.compressobj(9), bytearray()
    for _ in range(count >> 20):
        out += compressor.compress(bytes(1 << 20))
    return bytes(out + compressor.compress(bytes(count & (1 << 20) - 1)) + compressor.flush())


def png_with(kind: bytes, head: bytes, size: int, times: int = 1) -> bytes:
    """A valid PNG of 4 x 4 pixels with chunks that decompress to `size` bytes each."""
    return png(4, 4, zeros(20), before=chunk(kind, head + zeros(size)) * times)


def gif(screen: int, frame: int) -> bytes:
    sides = struct.pack("<HH", screen, screen), struct.pack("<HH", frame, frame)
    return b"GIF89a" + sides[0] + b"\0\0\0,\0\0\0\0" + sides[1] + b"\0\2\2L\1\0;"


def gif_of_frames(count: int) -> bytes:
    one = b",\0\0\0\0\4\0\4\0\0\2\5\x84\x8f\xa9\xcb\x51\0"  # 4 x 4 pixels
    return b"GIF89a\4\0\4\0\x80\0\0\0\0\0\xff\xff\xff" + one * count + b";"


def webp(side: int) -> bytes:
    """An extended WebP with a canvas of that side and without an image."""
    body = bytes(4) + 2 * struct.pack("<I", side - 1)[:3]
    return b"RIFF" + struct.pack("<I", 12 + len(body)) + b"WEBPVP8X" + struct.pack("<I", len(body)) + body


def bmp(side: int, bits: int, compression: int, data: bytes = b"") -> bytes:
    head = struct.pack("<IiiHHIIIIII", 40, side, side, 1, bits, compression, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<III", 54 + len(data), 0, 1078 if bits == 8 else 54) + head + data


def tiff(width: int, height: int, *more: tuple[int, int, int, int], data: bytes = b"") -> bytes:
    """A grey TIFF of one directory, with `data` after it; tags are (tag, type, count, value)."""
    tags = ((256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), *more)
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def tiff_of_directories(count: int) -> bytes:
    """Directories without an image; each refers to the next one, and the last to the first."""
    out, at = bytearray(b"II*\0" + struct.pack("<I", 8)), 8
    for number in range(count):
        at = 8 if number == count - 1 else at + 18
        out += struct.pack("<HHHIII", 1, 256, 4, 1, 1, at)
    return bytes(out)


def jpeg(width: int, height: int) -> bytes:
    """A JPEG of 8 x 8 pixels whose header has other sides."""
    return _changed(encode(Image.new("RGB", (8, 8)), "JPEG"), b"\xff\xc0", 5, struct.pack(">HH", height, width))


def avif(width: int, height: int) -> bytes:
    """An AVIF of 64 x 64 pixels whose container has other sides."""
    small = encode(Image.new("RGB", (64, 64)), "AVIF")
    return _changed(small, b"ispe", 8, struct.pack(">II", width, height))


def mpo(claimed: int) -> bytes:
    """An MPO with two images whose header says that there are `claimed`."""
    two = encode(Image.new("L", (8, 8)), "MPO", save_all=True, append_images=[Image.new("L", (8, 8))])
    return _changed(two, b"\x01\xb0\4\0", 8, struct.pack("<I", claimed))


def jpeg_of_scans(side: int, times: int) -> bytes:
    """A black progressive JPEG that repeats a scan of its coefficients: about 200 bytes for each pass."""
    data = encode(Image.new("L", (side, side)), "JPEG", progressive=True)
    starts = [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xda"]
    scan = data[starts[1] : starts[2]]
    return data[: starts[2]] + scan * times + data[starts[2] :]


def _changed(data: bytes, marker: bytes, offset: int, new: bytes) -> bytes:
    at = data.index(marker) + offset
    return data[:at] + new + data[at + len(new) :]


Bombs = dict[str, tuple[Callable[[], bytes], frozenset[str]]]

BOMBS: Bombs = {  # name → (function that makes it, allowed results)
    "png just over the limit": (lambda: png(SIDE + 1, SIDE + 1, zeros((SIDE + 1) * (SIDE + 2))), LARGE),
    "gif over the limit": (lambda: gif(8000, 8000), LARGE),
    "webp over the limit": (lambda: webp(8000), LARGE),
    "bmp over the limit": (lambda: bmp(8000, 24, 0), LARGE),
    "tiff over the limit": (lambda: tiff(8000, 8000, (273, 4, 1, 8), (279, 4, 1, 9)), LARGE),
    "jpeg over the limit": (lambda: jpeg(14_143, 14_143), LARGE),
    "jpeg of a few pixels that claims 200,000,000": (lambda: jpeg(14_142, 14_142), EITHER),
    "avif over the limit": (lambda: avif(16_384, 4096), LARGE),
    "png 60000 x 60000": (lambda: png(60_000, 60_000), LARGE),
    "png 2^31 x 1": (lambda: png(2**31 - 1, 1), LARGE),
    "png with more data than pixels": (lambda: png(4, 4, zeros(300 << 20)), EITHER),
    "png with a text of 200 MB": (lambda: png_with(b"zTXt", b"key\0\0", 200 << 20), EITHER),
    "png with 100 texts of 1 MB": (lambda: png_with(b"zTXt", b"key\0\0", 1 << 20, 100), EITHER),
    "png with an international text of 200 MB": (lambda: png_with(b"iTXt", b"key\0\1\0\0\0", 200 << 20), EITHER),
    "png with a profile of 200 MB": (lambda: png_with(b"iCCP", b"key\0\0", 200 << 20), EITHER),
    "png of 200,000 empty chunks": (lambda: png(4, 4, zeros(20), before=chunk(b"teST", b"") * 200_000), EITHER),
    "gif 65535 x 65535": (lambda: gif(65_535, 65_535), LARGE),
    "gif whose frame is 65535 x 65535": (lambda: gif(4, 65_535), LARGE | BAD),
    "gif of 100,000 frames": (lambda: gif_of_frames(100_000), OK),
    "gif with 20 MB of comments": (lambda: gif(4, 4)[:13] + (b"!\xfe\xff" + b"c" * 255 + b"\0") * 80_000, BAD),
    "webp 16384 x 16384": (lambda: webp(16_384), LARGE),
    "webp of an empty canvas": (lambda: webp(SIDE), BAD),
    "bmp 2^31 x 2^31": (lambda: bmp(2**31 - 1, 24, 0), LARGE),
    "tiff 2^32 x 2^32": (lambda: tiff(2**32 - 1, 2**32 - 1, (273, 4, 1, 8), (279, 4, 1, 9)), LARGE | BAD),
    "tiff of 10^9 strips": (lambda: tiff(4, 4, (273, 4, 10**9, 200), (279, 4, 10**9, 300)), BAD),
    "tiff of 65,500 strips": (lambda: tiff(1, 65_500, *_strips(65_500), data=bytes(4 * 65_500)), EITHER),
    "tiff of 10^7 tiles": (lambda: tiff(SIDE, SIDE, *_tiles(10**7), data=bytes(1000)), BAD),
    "tiff of 65,535 tags": (lambda: b"II*\0" + struct.pack("<IH", 8, 65_535) + b"\1\1\4\0" * 200_000, BAD),
    "tiff of 200,000 directories": (lambda: tiff_of_directories(200_000), BAD),
    "tiff that is its own directory of EXIF": (
        lambda: tiff(4, 4, (273, 4, 1, 8), (279, 4, 1, 16), (330, 4, 1, 8), (34665, 4, 1, 8)),
        EITHER,
    ),
    "jpeg 65500 x 65500": (lambda: jpeg(65_500, 65_500), LARGE),
    "jpeg 1 x 65500": (lambda: encode(Image.new("RGB", (1, 65_500)), "JPEG"), OK),
    "jpeg of 50,000 comments": (lambda: _commented(50_000), EITHER),
    "jpeg that claims 10^6 pictures": (lambda: mpo(10**6), EITHER),
}

# Images at the limit of pixels; each takes one or two seconds.
LARGEST: Bombs = {
    "png of grey": (lambda: png(SIDE, SIDE, zeros(SIDE * (SIDE + 1))), OK),
    "png of colour": (lambda: png(SIDE, SIDE, zeros(SIDE * (3 * SIDE + 1)), color=2), OK),
    "png of colour and alpha": (lambda: png(SIDE, SIDE, zeros(SIDE * (4 * SIDE + 1)), color=6), OK),
    "png 1 x 50,000,000": (lambda: png(1, 50_000_000, zeros(2 * 50_000_000)), OK),
    "png 50,000,000 x 1": (lambda: png(50_000_000, 1, zeros(1 + 50_000_000)), OK),
    "bmp of runs": (lambda: bmp(SIDE, 8, 1, bytes(1024) + b"\xff\0" * 400), EITHER),
    "webp": (lambda: encode(Image.new("RGB", (SIDE, SIDE)), "WEBP"), OK),
    "webp with alpha": (lambda: encode(Image.new("RGBA", (SIDE, SIDE)), "WEBP", lossless=True), OK),
    "gif": (lambda: encode(Image.new("L", (SIDE, SIDE)), "GIF"), OK),
    "tiff": (lambda: encode(Image.new("CMYK", (SIDE, SIDE)), "TIFF", compression="tiff_lzw"), OK),
    "jpeg": (lambda: encode(Image.new("RGB", (SIDE, SIDE)), "JPEG"), OK),
    "jpeg, progressive": (lambda: encode(Image.new("RGB", (SIDE, SIDE)), "JPEG", progressive=True), OK),
    "jpeg of a few pixels": (lambda: jpeg(SIDE, SIDE), EITHER),
    "avif with alpha": (lambda: encode(Image.new("RGBA", (SIDE, SIDE)), "AVIF", subsampling="4:4:4", speed=10), OK),
}

# Media that take longer than the time limit of a sample.
ENDLESS: dict[str, Callable[[], bytes]] = {"jpeg of 20,000 scans": lambda: jpeg_of_scans(SIDE, 20_000)}


def _strips(count: int) -> tuple[tuple[int, int, int, int], ...]:
    return (273, 4, count, 122), (278, 4, 1, 1), (279, 4, count, 122)


def _tiles(count: int) -> tuple[tuple[int, int, int, int], ...]:
    return (322, 4, 1, 16), (323, 4, 1, 16), (324, 4, count, 200), (325, 4, count, 200)


def _commented(count: int) -> bytes:
    return b"\xff\xd8" + (b"\xff\xfe\0\x40" + b"c" * 62) * count + encode(photographs()[0], "JPEG")[2:]
