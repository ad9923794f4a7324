"""Detects the format of encoded media from its first bytes, and lists the picture formats that are decoded."""

from raylabel.media.rejects import Reject

# Formats that corpora of photographs contain. EPS, SVG and PDF are programs; ICO files are icons.
_ALLOWED = (
    (b"\xff\xd8\xff", "JPEG"),  # also MPO: a JPEG followed by more frames
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),  # BigTIFF
    (b"MM\0+", "TIFF"),
)
_PICTURES = frozenset((*(name for _, name in _ALLOWED), "WEBP", "AVIF", "HEIF"))

# Video formats, some of which container.py decodes, and formats that are only named in the Reject.
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
    (b"ID3", "MP3 audio, no video stream"),
    (b"fLaC", "FLAC audio, no video stream"),
    # Playlists, whose addresses libavformat would open.
    (b"#EXTM3U", "playlist (M3U8)"),
    (b"ffconcat version", "playlist (ffconcat)"),
    (b"v=0\r\n", "playlist (SDP)"),
    (b"v=0\n", "playlist (SDP)"),
)
# Brands of pictures in ISO media (ISO/IEC 23008-12 and the AVIF specification), and those that only say that it is a
# picture: the compatible brands then name the codec.
_AVIF = frozenset((b"avif", b"avis"))
_HEIC = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
_STILL = frozenset((b"mif1", b"msf1"))

# The first box of a QuickTime file without ftyp. A length of 4 letters before it would mean that the file is text.
_ATOMS = frozenset((b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"))


def known_format(data: bytes) -> str:
    """The format, from the first bytes only, since a file's name may be wrong. Reject if it is unknown.

    Picture formats that are decoded have Pillow's names; HEIC is 'HEIF'. The name of a video in ISO media begins with
    'ISO media', that of a QuickTime file with 'QuickTime'.
    """
    if not data:
        raise Reject("empty")
    for magic, name in (*_ALLOWED, *_NOT_ALLOWED):
        if data.startswith(magic):
            return name
    if data.startswith(b"RIFF") and data[8:12] in (b"WEBP", b"AVI "):
        return data[8:12].decode().strip()
    if data[4:8] == b"ftyp":
        return _iso_format(data)
    if data[4:8] in _ATOMS and data[0] < 0x20:
        return f"QuickTime, begins with {data[4:8]!r}"
    if data[:1] == data[188:189] == data[376:377] == b"G":
        return "MPEG transport stream"
    raise Reject("unrecognized", f"begins with {data[:16]!r}")


def _iso_format(data: bytes) -> str:
    """The format of ISO media, whose first box lists the brands: the major one, a version, the compatible ones."""
    end = min(int.from_bytes(data[:4], "big"), len(data), 1024)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, end - 3, 4))]
    for brand in brands if brands[0] in _STILL else brands[:1]:
        if brand in _AVIF or brand in _HEIC:
            return "AVIF" if brand in _AVIF else "HEIF"
    if brands[0] in _STILL:
        return f"HEIF that is neither AVIF nor HEIC, brands {b' '.join(brands)!r}"
    return f"ISO media (MP4 and others), brand {brands[0]!r}"


def allowed_format(data: bytes) -> str:
    """Pillow's name of a picture format that is decoded; Reject for every other format."""
    name = known_format(data)
    if name not in _PICTURES:
        raise Reject("format_not_allowed", name)
    return name
