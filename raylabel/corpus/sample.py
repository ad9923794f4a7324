"""A row of a corpus, as it is read."""

from dataclasses import dataclass
from typing import Literal

HELD = 128 << 20  # bytes of samples that are read ahead, estimated by the mean of their shard or row group

Unread = Literal["missing", "empty", "unreadable", "too_many_bytes"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of a corpus, with either `media` or an `error`."""

    key: int
    """shard << 32 | row."""

    uri: str
    """Where the user finds it: `file.parquet#row`, `x.tar#member`, `folder/a.jpg`."""

    media: bytes | None
    """The encoded bytes, unchanged; never empty."""

    label: str | None
    """The label as text (an integer in decimal); None if it has none or labels were not asked for."""

    error: Unread | None
    """missing (a null, no such file, no media member), empty (zero bytes), unreadable, or too_many_bytes (a member or a
    file of more than MAX_BYTES, which is not read); None if media is there."""

    segment: tuple[float, float] | None = None
    """(start, end) in seconds if the sample is a segment of the video; None: it is the whole video."""

    group: str | None = None
    """The name of the source video; None: the corpus names none."""


@dataclass(frozen=True, slots=True)
class Said:
    """The label, segment and group of a row."""

    label: str | None = None
    segment: tuple[float, float] | None = None
    group: str | None = None


NOTHING = Said()


def make_sample(key: int, uri: str, media: bytes | None, said: Said, error: Unread = "missing") -> Sample:
    """A Sample; `error` is why, if there is no media."""
    why = None if media else error if media is None else "empty"
    return Sample(key, uri, media or None, said.label, why, said.segment, said.group)
