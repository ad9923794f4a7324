"""A row of a corpus after reading."""

import hashlib
import struct
from dataclasses import dataclass
from typing import Literal

from raylabel.schema import DIGEST_BYTES

Unread = Literal["missing", "empty", "unreadable", "too_many_bytes"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of a corpus, with either `media` or an `error`."""

    key: int
    """shard << 32 | row."""

    uri: str
    """The location to show to a user: `file.parquet#row`, `x.tar#member`, `folder/a.jpg`."""

    media: bytes | None
    """The encoded bytes, unchanged; never empty."""

    label: str | None
    """The label as text (an integer in decimal); None if the row has none or labels were not requested."""

    error: Unread | None
    """missing (a null, no such file, no media member), empty (zero bytes), unreadable, or too_many_bytes (a member or a
    file of more than MAX_BYTES, which is not read); None if `media` is not None."""

    segment: tuple[float, float] | None = None
    """(start, end) in seconds if the sample is a segment of the video; None for a whole video."""

    group: str | None = None
    """The name of the source video; None if the corpus does not give it."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """The label, segment and group of a row."""

    label: str | None = None
    segment: tuple[float, float] | None = None
    group: str | None = None


NO_METADATA = Metadata()


def media_digest(media: bytes) -> bytes:
    """BLAKE2b-128 of encoded bytes."""
    return hashlib.blake2b(media, digest_size=DIGEST_BYTES).digest()


def sample_digest(digest: bytes, segment: tuple[float, float] | None) -> bytes:
    """The digest of a sample, from that of its media: each segment of a video has its own."""
    return media_digest(struct.pack("<dd", *segment) + digest) if segment else digest


def make_sample(key: int, uri: str, media: bytes | None, metadata: Metadata, error: Unread = "missing") -> Sample:
    """A Sample; `error` is the reason if `media` is None."""
    reason = None if media else error if media is None else "empty"
    return Sample(key, uri, media or None, metadata.label, reason, metadata.segment, metadata.group)
