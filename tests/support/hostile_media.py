"""Hostile media: damaged copies of real images, and headers with false sizes."""

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
KINDS = ("flip", "flip header", "number", "number in header", "truncate", "splice")
HEADER = 160  # the first bytes of a small file, which contain most of its structure


def encode(image: Image.Image, format: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def photographs() -> list[Image.Image]:
    """scikit-learn's two photographs, 96 x 64."""
    from sklearn.datasets import load_sample_image

    return [Image.fromarray(load_sample_image(name)).resize((96, 64)) for name in ("china.jpg", "flower.jpg")]


def seeds() -> dict[str, bytes]:
    """Valid images in every format that is decoded, and the beginnings of clips; each name starts with the format.

    Some contain a URL in their metadata.
    """
    china, flower = photographs()
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "http://127.0.0.1/exif"
    exif.get_ifd(0x8825)[29] = "2026:11:21"
    grey = np.asarray(china.convert("L")).astype(np.uint16) * 257
    alpha = flower.convert("RGBA")
    alpha.putalpha(china.convert("L"))
    frames = {"save_all": True, "append_images": [flower, china], "duration": 40}
    found = {
        "jpeg": encode(china, "JPEG"),
        "jpeg progressive": encode(flower, "JPEG", progressive=True, exif=exif),
        "jpeg cmyk": encode(china.convert("CMYK"), "JPEG"),
        "jpeg grey": encode(flower.convert("L"), "JPEG", icc_profile=b"profile" * 30, comment=b"comment"),
        "jpeg restarts": encode(flower, "JPEG", restart_marker_blocks=3, subsampling=0),
        "jpeg mpo": encode(china, "MPO", save_all=True, append_images=[flower]),
        "png": encode(china, "PNG"),
        "png alpha": encode(alpha, "PNG", exif=exif),
        "png palette": encode(flower.quantize(64), "PNG", transparency=3),
        "png 16 bit": encode(Image.fromarray(grey), "PNG"),
        "png 1 bit": encode(china.convert("1"), "PNG"),
        "png animated": encode(china, "PNG", **frames),
        "webp": encode(china, "WEBP"),
        "webp lossless": encode(alpha, "WEBP", lossless=True, exif=exif),
        "webp animated": encode(china, "WEBP", **frames),
        "gif": encode(flower, "GIF"),
        "gif animated": encode(china.quantize(32), "GIF", **frames),
        "bmp": encode(china, "BMP"),
        "bmp palette": encode(flower.quantize(16), "BMP"),
        "tiff": encode(china, "TIFF"),
        "tiff 16 bit": encode(Image.fromarray(grey), "TIFF", compression="tiff_lzw"),
        "tiff jpeg": encode(flower, "TIFF", compression="jpeg"),
        "tiff deflate": encode(alpha, "TIFF", compression="tiff_adobe_deflate", exif=exif),
        "tiff group 4": encode(china.convert("1"), "TIFF", compression="group4"),
    }
    ftyp = b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41"
    moov = b"\0\0\0\x10moov\0\0\0\x08mvhd" + b"\0\0\0\x08mdat" + np.random.default_rng(1).bytes(2000)
    found["mp4"] = ftyp + moov
    found["webm"] = b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\1" + np.random.default_rng(2).bytes(2000)
    return found


def modern_seeds(format: str) -> dict[str, bytes]:
    """Valid images as AVIF or HEIF: of several modes, rotated, with several frames. HEIF needs pillow-heif."""
    if format == "HEIF":
        from pillow_heif import register_heif_opener

        register_heif_opener()
    china, flower = photographs()
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "http://127.0.0.1/exif"
    alpha = flower.convert("RGBA")
    alpha.putalpha(china.convert("L"))
    found = {
        "plain": encode(china, format),
        "alpha": encode(alpha, format),
        "grey": encode(flower.convert("L"), format),
        "rotated": encode(china, format, exif=exif.tobytes(), icc_profile=b"profile" * 30),
        "frames": encode(china, format, save_all=True, append_images=[flower]),
    }
    if format == "HEIF":
        found["grid"] = encode(china.resize((192, 128)), format, tile_size=64)
    else:
        found["grid"] = encode(china.resize((192, 128)), format, tile_rows=1, tile_cols=1, autotiling=False)
    return found


def clips(folder: Path) -> dict[str, bytes]:
    """Complete small clips of `folder`, as further seeds."""
    return {f"{path.suffix[1:]} {path.name}": path.read_bytes() for path in sorted(folder.glob("*.[mw]*"))[:8]}


def mutant(data: bytes, random: np.random.Generator) -> bytes:
    """A damaged copy. Half of the PNGs get correct checksums, so that the damage is not detected by them."""
    kind = KINDS[random.integers(len(KINDS))]
    changed = bytearray(data)
    near = min(HEADER, len(data)) if kind.endswith("header") else len(data)
    if kind.startswith("flip"):
        for at in random.integers(near, size=random.integers(1, 9)).tolist():
            changed[at] ^= 1 << random.integers(8)
    elif kind.startswith("number"):
        for _ in range(random.integers(1, 4)):
            width = int(random.choice((1, 2, 4)))
            value = EXTREMES[random.integers(len(EXTREMES))] & (1 << 8 * width) - 1
            at = int(random.integers(near))
            changed[at : at + width] = value.to_bytes(width, "little" if random.integers(2) else "big")
    elif kind == "truncate":
        del changed[random.integers(len(data)) :]
    else:
        start, end = sorted(random.integers(len(data), size=2).tolist())
        piece = bytes(changed[start : min(end, start + 4000)])
        at = int(random.integers(len(data)))
        changed[at : at + (len(piece) if random.integers(2) else 0)] = piece
    if data.startswith(b"\x89PNG") and random.integers(2):
        changed = bytearray(with_checksums(bytes(changed)))
    return bytes(changed)


def with_checksums(png: bytes) -> bytes:
    """A PNG, possibly damaged, with the correct CRC in each chunk."""
    out, at = bytearray(png), 8
    while at + 12 <= len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(png):
            break
        out[end : end + 4] = struct.pack(">I", zlib.crc32(png[at + 4 : end]))
        at = end + 4
    return bytes(out)


def mutants(count: int, seed: int, sound: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """(name of the seed, mutant); the seeds are used in turn."""
    names = list(sound)
    for number in range(count):
        name = names[number % len(names)]
        yield name, mutant(sound[name], np.random.default_rng((seed, number)))
