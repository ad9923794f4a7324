"""A row of a corpus, as it is read."""

from dataclasses import dataclass
from typing import Literal

HELD = 128 << 20  # bytes of samples that are read before their turn, by the mean of what they stand in

Unread = Literal["missing", "empty", "unreadable", "too_many_bytes"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of a corpus. Either `media` is there, or `error` says why not."""

    key: int
    """shard << 32 | row."""

    uri: str
    """Where a person finds it: `file.parquet#row`, `x.tar#member`, `folder/a.jpg`."""

    media: bytes | None
    """The encoded bytes, as they stand in the corpus; never empty."""

    label: str | None
    """The label as text (an integer in decimal); None if it has none or labels were not asked for."""

    error: Unread | None
    """missing (a null, no such file, no media member), empty (zero bytes), unreadable, or too_many_bytes (a member or a
    file of more than MAX_BYTES, which is not read); None if media is there."""

    segment: tuple[float, float] | None = None
    """(start, end) in seconds, if the sample is a part of the video; None: it is all of it."""

    group: str | None = None
    """The name of the source video; None: the corpus names none."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a row says of its media."""

    label: str | None = None
    segment: tuple[float, float] | None = None
    group: str | None = None


NOTHING = Said()


def make_sample(key: int, uri: str, media: bytes | None, said: Said, error: Unread = "missing") -> Sample:
    """A Sample; `error` is why, if there is no media."""
    why = None if media else error if media is None else "empty"
    return Sample(key, uri, media or None, said.label, why, said.segment, said.group)
