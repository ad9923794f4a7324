"""The reject limit: a run whose input is mostly unreadable ends in an error."""

import collections
import itertools
from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq

from raylabel.errors import InputError
from raylabel.schema import MAX_BYTES, Reason
from raylabel.store.files import filesystem, reading
from raylabel.text import printable

ENOUGH = 10_000  # samples after which the share of rejects so far is significant
EXAMPLES = 3  # samples and reasons in the message

# The fix for samples with this reason; {0} is the name of the corpus in the recipe.
_AGAIN = ", then add --retry-rejects"
_FIXES: dict[Reason, str] = {
    "missing": "correct the paths, or set {0}.media to where the encoded bytes are",
    "unreadable": "check the permissions and the storage, or restore the damaged files" + _AGAIN,
    "empty": "copy these files again: they have no bytes",
    "too_many_bytes": f"make these files smaller than {MAX_BYTES >> 30} GiB, or cut the videos",
    "unrecognized": "set {0}.media to the column or extension of the encoded bytes, or convert the files",
    "format_not_allowed": "convert the files to a format that is read, for example JPEG, PNG or MP4",
    "truncated": "copy or download these files again, since their end is missing",
    "corrupt": "copy or download these files again, or convert them",
    "too_many_pixels": "raise the limit that the details name, or make the files smaller",
    "mode_not_supported": "convert the files to 8 bits per channel",
    "decoder_crash": "convert the files, or remove them",
    "timeout": "convert the files, or give the decoders more CPU" + _AGAIN,
    "out_of_memory": "make the files smaller, or remove them",
    "not_finite": "check the network's weights, or set --label.precision fp32",
    "teacher_crash": "remove these files, or lower --label.batch if memory ran out" + _AGAIN,
}


class RejectTally:
    """Counts samples and their rejects, by reason."""

    def __init__(self, total: int, limit: float, noun: str = "samples", corpus: str = "unlabeled"):
        """`total`: samples that will be counted; `limit`: share of them that may be rejects, 0 to 1; `corpus`: its name
        in the recipe."""
        self.total, self._limit, self._noun, self._corpus = total, limit, noun, corpus
        self.seen = self.rejected = 0
        self.reasons: collections.Counter[str] = collections.Counter()
        self._tables: dict[str, str] = {}  # reason → the first table of REJECTS that has it

    def add(self, samples: int, reasons: Mapping[str, int], table: str = "") -> None:
        """Adds `samples` to the count, and those of them that are rejects, by reason. `table` is the URI of their
        REJECTS."""
        self.seen += samples
        self.rejected += sum(reasons.values())
        self.reasons.update(reasons)
        if table:
            self._tables = dict.fromkeys(reasons, table) | self._tables

    def add_part(self, folder: str, record: Mapping[str, Any], samples: int) -> None:
        """Adds a committed part of an artifact in `folder`, with `samples` samples."""
        names = [file["name"] for file in record["files"] if file["name"].startswith("rejects-")]
        self.add(samples, record["reasons"], f"{folder}/{names[0]}" if names else "")

    def check(self) -> None:
        """InputError if more than the limit of the samples so far are rejects; not before ENOUGH samples."""
        if self.seen >= min(self.total, ENOUGH) and self.rejected > self._limit * self.seen:
            self._stop()

    def close(self) -> None:
        """InputError if too many of all samples are rejects, or all are. AssertionError if samples are missing."""
        if self.seen != self.total:
            raise AssertionError(f"{self.total} samples in, {self.seen} out")
        self.check()
        if self.rejected == self.total:
            self._stop()

    def _stop(self) -> None:
        reasons = [reason for reason, _ in self.reasons.most_common(EXAMPLES)]
        top = ", ".join(f"{reason} {self.reasons[reason]:,}" for reason in reasons)
        fix = next((text for reason, text in _FIXES.items() if reason in reasons[:1]), "fix the corpus")
        if self.rejected < self.seen:
            fix += ", or raise --label.reject-limit"
        raise InputError(
            f"{self.rejected:,} of {self.seen:,} {self._noun} could not be read, the limit is {self._limit:.0%} "
            f"(most frequent reasons: {top}){self._examples(reasons)}: {fix.format(self._corpus)}"
        )

    def _examples(self, reasons: list[str]) -> str:
        """Some samples, of each of the reasons if possible, and where all are listed."""
        tables = {reason: self._tables[reason] for reason in reasons if reason in self._tables}
        found = [_samples(table, reason) for reason, table in tables.items()]
        some = [text for rank in itertools.zip_longest(*found) for text in rank if text][:EXAMPLES]
        if not some:
            return ""
        folder = next(iter(tables.values())).rpartition("/")[0]
        return f", for example {', '.join(some)}; all are in {folder}/rejects-*.parquet"


def _samples(table: str, reason: str) -> list[str]:
    """The first samples of a table of REJECTS that have this reason, each with its reason."""
    fs, path = filesystem(table)
    with reading(table):
        rows = pq.read_table(path, columns=["uri", "detail"], filesystem=fs, filters=[("reason", "=", reason)])
    return [
        printable(f"'{row['uri']}' ({reason}{': ' if row['detail'] else ''}{row['detail']})")
        for row in rows.slice(0, EXAMPLES).to_pylist()
    ]
