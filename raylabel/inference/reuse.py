"""Reuse of SCORES: after shards are added to a corpus, only the new shards are scored.

A unit does not depend on the position of its shard in the list, so the rows of an unchanged shard (same URI, same
fingerprint) stay valid except for the number of the shard in their keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raylabel.corpus import Shards, Unit, Units
from raylabel.schema import REJECTS, SCORES, make_key
from raylabel.store.artifact import Artifact, Root
from raylabel.store.files import filesystem, reading
from raylabel.store.reject_retry import TRY


@dataclass(frozen=True)
class Piece:
    """A unit that was scored earlier: the location of its rows, and the current number of its shard."""

    folder: str
    part: int
    unit: Unit
    """The unit in the earlier corpus."""
    shard: int

    @property
    def rows(self) -> int:
        return self.unit.rows


class Earlier:
    """SCORES of the same source over a corpus that shares shards with this one."""

    def __init__(self, scores: Artifact, before: Shards, now: Shards, unit: int, part: int):
        self._folder, self._part = scores.uri, part
        self._units = Units(before.rows, unit)
        self._number, self._rows = _same(before, now), now.rows
        self.rejected: int = scores.info["rejected"]

    @property
    def shards(self) -> int:
        """Number of shards of the current corpus that were scored earlier."""
        return int((self._number >= 0).sum())

    @property
    def samples(self) -> int:
        """Number of samples in these shards."""
        return int(self._rows[self._number >= 0].sum())

    def find(self, unit: Unit) -> Piece | None:
        """The unit's earlier rows, if its shard was scored."""
        number = int(self._number[unit.shard])
        if number < 0:
            return None
        index = self._units.index(number, unit.first)
        return Piece(self._folder, index // self._part, self._units[index], unit.shard)


def find_earlier(root: Root, identity: Mapping[str, Any], shards: Shards, unit: int, part: int) -> Earlier | None:
    """Of all complete SCORES that differ from `identity` only in the corpus, those that share the most shards with it;
    None if none shares any."""
    found = []
    for scores in root.named("scores"):
        if _source(scores.identity) == _source(identity):
            stem, _, tail = scores.info["shards"].rpartition("-")
            # Its SHARDS may have been deleted: an error tells users who changed a shard on purpose to delete them.
            if before := next((one for one in root.named(stem) if one.digest == tail), None):
                found.append(Earlier(scores, Shards(before), shards, unit, part))
    best = max(found, key=lambda earlier: (earlier.shards, -earlier.rejected), default=None)
    return best if best and best.shards else None


def _source(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of SCORES without the corpus and the number of retries of rejects."""
    return {name: value for name, value in identity.items() if name not in ("shards", TRY)}


def _same(before: Shards, now: Shards) -> np.ndarray:
    """For each shard of `now` its number in `before`, -1 if it is new or changed; int64 [S]."""
    old, new = (_names(shards) for shards in (before, now))
    found = pc.index_in(new, value_set=old)  # pyright: ignore[reportAttributeAccessIssue]
    return pc.fill_null(found, -1).to_numpy().astype(np.int64)


def _names(shards: Shards) -> pa.Array:
    # Not the fingerprint alone: that of loose files covers their names and sizes, which two folders may share.
    columns = shards.columns("uri", "fingerprint", "rows", "bytes")
    texts = [column.cast(pa.string()).combine_chunks() for column in columns.columns]
    return pc.binary_join_element_wise(*texts, "\n")  # pyright: ignore[reportAttributeAccessIssue]


def read_part(folder: str, name: str, number: int) -> pa.Table:
    """A part's `scores` or `rejects`."""
    fs, path = filesystem(folder)
    schema = {"scores": SCORES, "rejects": REJECTS}[name]
    with reading(f"{folder}/{name}-{number:06d}.parquet"):
        return pq.read_table(f"{path}/{name}-{number:06d}.parquet", filesystem=fs, schema=schema)


def rejected_units(folder: str, number: int) -> tuple[Unit, ...]:
    """The rejects of a part that has rejects, as one unit per shard."""
    key = np.sort(read_part(folder, "rejects", number).column("key").to_numpy())
    shard, row = key >> 32, key & 0xFFFFFFFF
    runs = np.split(row, np.flatnonzero(np.diff(shard)) + 1)
    return tuple(
        Unit(int(one), int(rows[0]), len(rows), tuple(rows.tolist()))
        for one, rows in zip(np.unique(shard), runs, strict=True)
    )


def read_piece(piece: Piece) -> tuple[pa.Table, pa.Table]:
    """(SCORES, REJECTS) of the unit, with the current keys of its samples."""
    low = make_key(piece.unit.shard, piece.unit.first)
    shift = make_key(piece.shard, 0) - make_key(piece.unit.shard, 0)
    fs, path = filesystem(piece.folder)
    where = (pc.field("key") >= low) & (pc.field("key") < low + piece.unit.rows)
    found = []
    for name, schema in (("scores", SCORES), ("rejects", REJECTS)):
        try:
            table = pq.read_table(
                f"{path}/{name}-{piece.part:06d}.parquet", filesystem=fs, filters=where, schema=schema
            )
        except FileNotFoundError:  # a part without rejects; missing scores are found by the count of rows
            table = schema.empty_table()
        key = pc.add(table.column("key"), shift)  # pyright: ignore[reportAttributeAccessIssue]
        found.append(table.set_column(0, schema.field("key"), key.combine_chunks()))
    return found[0], found[1]
