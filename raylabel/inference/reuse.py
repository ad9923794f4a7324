"""Reuse of SCORES: after shards are added to a corpus, only the new shards are scored.

A unit does not depend on the position of its shard in the list, so the rows of an unchanged shard (same URI, same
fingerprint) stay valid except for the number of the shard in their keys. SCORES of a corpus also serve a smaller share
of it (`corpus.share`), whose rows have other numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raylabel.corpus import Shards, Unit, Units
from raylabel.corpus.share import rows_of, used
from raylabel.schema import REJECTS, SCORES, make_key
from raylabel.store.artifact import Artifact, Root
from raylabel.store.files import filesystem, reading
from raylabel.store.reject_retry import TRY


@dataclass(frozen=True)
class Layout:
    """Where the rows of a shard are in earlier SCORES."""

    shard: int
    """The number of the shard in the earlier corpus."""
    first: int
    """The index of its first unit there."""
    unit: int
    """Rows of a unit."""
    part: int
    """Units of a part."""


@dataclass(frozen=True)
class Piece:
    """A unit whose samples were scored earlier."""

    folder: str
    """The earlier SCORES."""
    layout: Layout
    unit: Unit
    """The unit in the current corpus."""
    shards: Shards
    """The current corpus."""
    shares: tuple[float, float]
    """The share of the earlier and of the current corpus."""

    @property
    def rows(self) -> int:
        return self.unit.rows


class Earlier:
    """SCORES of the same source over a corpus that shares shards with this one, or over a larger share of it."""

    def __init__(self, scores: Artifact, before: Shards, now: Shards, unit: int, part: int):
        self._folder, self._unit, self._part, self._now = scores.uri, unit, part, now
        self._units = Units(before.rows, unit)
        self._shares = _share(before), _share(now)
        self._number, self._rows = _same(before, now, *self._shares), now.rows
        self.rejected: int = scores.info["rejected"]

    @property
    def known(self) -> np.ndarray:
        """Which shards of the current corpus were scored earlier, bool [S]."""
        return self._number >= 0

    @property
    def shards(self) -> int:
        """Number of shards of the current corpus that were scored earlier."""
        return int(self.known.sum())

    @property
    def samples(self) -> int:
        """Number of samples in these shards."""
        return int(self._rows[self.known].sum())

    def find(self, unit: Unit) -> Piece | None:
        """The unit's earlier rows, if its shard was scored."""
        number = int(self._number[unit.shard])
        if number < 0:
            return None
        layout = Layout(number, self._units.index(number, 0), self._unit, self._part)
        return Piece(self._folder, layout, unit, self._now, self._shares)


def _share(shards: Shards) -> float:
    return shards.artifact.identity["corpus"].get("share", 1.0)


def find_earlier(root: Root, identity: Mapping[str, Any], shards: Shards, unit: int, part: int) -> Earlier | None:
    """Of all complete SCORES that differ from `identity` only in the corpus, those that share the most shards with it;
    None if none shares any."""
    found = []
    for scores in root.named("scores"):
        if _source(scores.identity) == _source(identity):
            if before := find_shards(root, scores):
                found.append(Earlier(scores, before, shards, unit, part))
    best = max(found, key=lambda earlier: (earlier.shards, -earlier.rejected), default=None)
    return best if best and best.shards else None


def find_shards(root: Root, scores: Artifact) -> Shards | None:
    """The SHARDS that were scored. None if they were deleted: an error tells users who changed a shard on purpose to do
    so."""
    stem, _, tail = scores.info["shards"].rpartition("-")
    found = next((one for one in root.named(stem) if one.digest == tail), None)
    return Shards(found) if found else None


def _source(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of SCORES without the corpus and the number of retries of rejects."""
    return {name: value for name, value in identity.items() if name not in ("shards", TRY)}


def _same(before: Shards, now: Shards, share_before: float, share_now: float) -> np.ndarray:
    """For each shard of `now` its number in `before`, -1 if it is new or changed; int64 [S]."""
    if share_before < share_now:
        return np.full(len(now), -1)
    # A smaller share has fewer rows.
    columns = ["uri", "fingerprint", "bytes"] + (["rows"] if share_before == share_now else [])
    old, new = (_names(shards, columns) for shards in (before, now))
    found = pc.index_in(new, value_set=old)  # pyright: ignore[reportAttributeAccessIssue]
    return pc.fill_null(found, -1).to_numpy().astype(np.int64)


def _names(shards: Shards, names: list[str]) -> pa.Array:
    # Not the fingerprint alone: that of loose files covers their names and sizes, which two folders may share.
    texts = [column.cast(pa.string()).combine_chunks() for column in shards.columns(*names).columns]
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
    layout, unit, (rows, parts) = piece.layout, piece.unit, parts_of(piece)
    keys = pa.array(make_key(layout.shard, 0) + rows)
    where = (pc.field("key") >= keys[0]) & (pc.field("key") <= keys[-1]) & pc.field("key").isin(keys)
    fs, path = filesystem(piece.folder)
    found = []
    for name, schema in (("scores", SCORES), ("rejects", REJECTS)):
        tables = [schema.empty_table()]
        for part in parts:
            try:
                file = f"{path}/{name}-{part:06d}.parquet"
                tables.append(pq.read_table(file, filesystem=fs, filters=where, schema=schema))
            except FileNotFoundError:  # a part without rejects; missing scores are found by the count of rows
                continue
        table = pa.concat_tables(tables)
        now = make_key(unit.shard, unit.first) + np.searchsorted(keys, table.column("key"))
        found.append(table.set_column(0, schema.field("key"), pa.array(now, pa.int64())))
    return found[0], found[1]


def parts_of(piece: Piece) -> tuple[np.ndarray, list[int]]:
    """(the unit's rows in the earlier corpus, int64 [rows]; the parts that have them)."""
    layout, rows = piece.layout, _earlier_rows(piece)
    return rows, np.unique((layout.first + rows // layout.unit) // layout.part).tolist()


def _earlier_rows(piece: Piece) -> np.ndarray:
    """The numbers of the unit's rows in the earlier corpus; int64 [rows]."""
    some, (before, now) = slice(piece.unit.first, piece.unit.first + piece.unit.rows), piece.shares
    if before == now:
        return np.arange(some.start, some.stop)
    shard = piece.shards.row(piece.unit.shard)
    whole = rows_of(now, shard)[some]
    return np.cumsum(used(before, shard, int(whole[-1]) + 1))[whole] - 1
