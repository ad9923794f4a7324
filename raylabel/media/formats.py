"""The format of encoded media, told by its first bytes."""

from PIL import (
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    ImageCms,  # noqa: F401
    JpegImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from raylabel.media.rejects import Reject

# What corpora of photographs hold, and every Pillow reads alike, so that a sample is never readable on one machine of a
# cluster only. AVIF is left out for that reason (only some builds of Pillow have it, and dav1d takes its memory and
# threads where Pillow cannot count them); EPS, SVG and PDF are programs, not pictures; ICO is an icon.
_ALLOWED = (
    (b"\xff\xd8\xff", "JPEG"),  # MPO too: a JPEG with further frames behind the first
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),  # BigTIFF
    (b"MM\0+", "TIFF"),
)


_PICTURES = frozenset((*(name for _, name in _ALLOWED), "WEBP"))


# Videos (video.py), and what is known by name only, to tell "not decoded here" from "nothing known".
_NOT_ALLOWED = (
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\1\0", "ICO"),
    (b"8BPS", "Photoshop"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"<svg", "SVG"),
    (b"P3", "PNM"),
    (b"P5", "PNM"),
    (b"P6", "PNM"),
    (b"\x1a\x45\xdf\xa3", "Matroska or WebM"),
    (b"FLV\1", "Flash video"),
    (b"OggS", "Ogg"),
    (b"\0\0\1\xba", "MPEG program stream"),
    (b"\0\0\1\xb3", "MPEG video"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "ASF or WMV"),
    # Lists of addresses: a parser of videos would open them.
    (b"#EXTM3U", "playlist (M3U8)"),
    (b"ffconcat version", "playlist (ffconcat)"),
    (b"v=0\r\n", "playlist (SDP)"),
    (b"v=0\n", "playlist (SDP)"),
)


# Beside ftyp, what QuickTime files begin with, after its length; one of letters would be a text.
_ATOMS = frozenset((b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"))


def known_format(data: bytes) -> str:
    """The format by the first bytes alone: a file's name and its headers say nothing certain. Rejects what is unknown.

    Of a picture that is decoded here it is Pillow's name; of ISO media and QuickTime it begins with these words.
    """
    if not data:
        raise Reject("empty")
    for magic, name in (*_ALLOWED, *_NOT_ALLOWED):
        if data.startswith(magic):
            return name
    if data.startswith(b"RIFF") and data[8:12] in (b"WEBP", b"AVI "):
        return data[8:12].decode().strip()
    if data[4:8] == b"ftyp":
        return f"ISO media (AVIF, HEIF or MP4), brand {data[8:12]!r}"
    if data[4:8] in _ATOMS and data[0] < 0x20:
        return f"QuickTime, begins with {data[4:8]!r}"
    if data[:1] == data[188:189] == data[376:377] == b"G":
        return "MPEG transport stream"
    raise Reject("unrecognized", f"begins with {data[:16]!r}")


def allowed_format(data: bytes) -> str:
    name = known_format(data)
    if name not in _PICTURES:
        raise Reject("format_not_allowed", name)
    return name
