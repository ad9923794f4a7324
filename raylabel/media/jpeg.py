"""Reads the header of a JPEG: whether the fast decoder can be used, and the memory that libjpeg needs."""

# Marker segments of an ordinary JPEG besides its frame header, and the least length of each (its own 2 bytes included)
# that Pillow accepts: APP0 (JFIF), ICC profiles in APP2, APP14 (Adobe), comments, Huffman tables, restart intervals,
# scan headers. EXIF and XMP (APP1) may rotate the picture; the others are rare, or Pillow checks them strictly.
_APP2, _DQT, _SOS = 0xE2, 0xDB, 0xDA
_SEGMENTS = {0xE0: 16, _APP2: 16, 0xEE: 14, 0xFE: 2, 0xC4: 2, 0xDD: 4, _DQT: 67, _SOS: 8}
_FRAMES = frozenset((0xC0, 0xC1, 0xC2))  # Huffman-coded: baseline, extended, progressive
_ALONE = frozenset((0x00, 0x01, *range(0xD0, 0xD9)))  # markers without a length


def ordinary_size(data: bytes, max_pixels: int) -> tuple[int, int] | None:
    """(width, height) of a JPEG whose header every parser reads in the same way; None for everything else.

    Such a JPEG is upright, grey or of 3 colours, and has at most `max_pixels`. There is no gap between its
    segments, and exactly one of them is a frame header, so every parser finds the size that is checked here.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    at, size = 2, None
    try:
        while True:
            marker, length = data[at + 1], data[at + 2] << 8 | data[at + 3]
            if data[at] != 0xFF:
                return None
            if marker in _FRAMES:
                height, width = data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8]
                colors = data[at + 9]
                if size or data[at + 4] != 8 or colors not in (1, 3) or length != 8 + 3 * colors:
                    return None
                if not 0 < height * width <= max_pixels:
                    return None
                size = width, height
            elif length < _SEGMENTS.get(marker, 1 << 16):  # unknown markers end here: no length is 1 << 16
                return None
            elif marker == _SOS:
                return size
            elif marker == _DQT and (length - 2) % 65:  # only complete tables of 8 bits
                return None
            elif marker == _APP2 and not data.startswith(b"ICC_PROFILE\0", at + 4):  # Pillow parses some others
                return None
            at += 2 + length
    except IndexError:
        return None


def coefficient_bytes(data: bytes) -> int:
    """Bytes of the DCT coefficients of the whole picture, which libjpeg keeps in memory if it is progressive or if its
    colours are in several scans; else, and if the header is unreadable, 0."""
    at, progressive, blocks, colors = 2, False, 0, 0
    try:
        while True:
            marker = data[at + 1]
            if data[at] != 0xFF or marker == 0xFF:  # other bytes between segments are skipped, and fill bytes
                at += 1
                continue
            if marker in _FRAMES:
                progressive, colors = marker == 0xC2, data[at + 9]
                height, width = data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8]
                samples = [(data[at + 11 + 3 * i] >> 4, data[at + 11 + 3 * i] & 15) for i in range(colors)]
                across, down = (8 * max(pair[axis] for pair in samples) for axis in (0, 1))
                blocks = -(-width // across) * -(-height // down) * sum(x * y for x, y in samples)
            elif marker == _SOS:
                return 128 * blocks if progressive or data[at + 4] < colors else 0
            at += 2 if marker in _ALONE else 2 + (data[at + 2] << 8 | data[at + 3])
    except (IndexError, ValueError, ZeroDivisionError):
        return 0
