"""What a survey of a corpus finds."""

import re
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raylabel.compute.progress import PatientProgress
from raylabel.corpus.config import Format
from raylabel.corpus.passed_over import PassedOver, sentence
from raylabel.schema import SHARDS

MEASURES = pa.schema([SHARDS.field(column) for column in ("uri", "rows", "bytes", "fingerprint")])
# Of a run of loose files: when its newest file was modified, in nanoseconds since 1970, and the row of that file. Only
# rows of the share count; 0 if there are none.
NEWEST = pa.schema([pa.field("modified", pa.int64()), pa.field("row", pa.int64())])


@dataclass(frozen=True)
class Survey:
    """The contents of a corpus at the time of the survey."""

    format: Format
    measures: pa.Table
    """MEASURES of every shard, in order."""
    groups: list[int]
    """Number of shards in each row group of SHARDS."""
    more: list[tuple[int, Any]]
    """(number of shards, reference to a table with their fingerprints and the columns of SHARDS and TARS that are not
    in `measures`), in order."""
    passed: list[dict[str, Any]]
    """PassedOver: what was found and is not a sample."""
    divided: bool = False
    """Whether a tar has more samples than names up to the first dot."""
    newest: pa.Table | None = None
    """NEWEST of every shard; None of parquet files and tars."""
    tars: dict[str, int] | None = None
    """Number of tars whose headers were read (`read`), whose members were known from an index file (`indexed`), and
    that were known from an earlier SHARDS (`known`); None of other forms."""

    @property
    def samples(self) -> int:
        return int(self.measures["rows"].to_numpy().sum())


def show_passed(progress: PatientProgress, passed: PassedOver) -> None:
    if passed.count:
        progress.say(f"{sentence(passed.table())}; corpus.extensions names others to read")


def natural_key(uri: str) -> str:
    """A sort key: digits compare as numbers, other text by its characters. The URI at the end tells a01 from a1."""

    def number(digits: re.Match[str]) -> str:
        text = digits[0].lstrip("0")
        return f"\0{chr(1 + len(text))}{text}"  # a longer number is larger; \0 ends the text before it

    return re.sub("[0-9]+", number, uri) + "\0\0" + uri
