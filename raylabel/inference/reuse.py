"""Reuse of SCORES, or of FEATURES: after shards are added to a corpus, only the new shards are scored.

A unit does not depend on the position of its shard in the list, so the rows of an unchanged shard (same URI, same
fingerprint) stay valid except for the number of the shard in their keys. SCORES of a corpus also serve a smaller share
of it (`corpus.share`), whose rows have other numbers.

The driver knows for each shard whether it was scored. Tasks read the rows: each file of the earlier SCORES in one
request and once per task, and a task commits several parts that are reused as a whole.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raylabel.corpus import Shards, Unit, Units
from raylabel.corpus.share import rows_of, used
from raylabel.schema import BESIDE, REJECTS, SCORES, make_key
from raylabel.store.artifact import Artifact, Root
from raylabel.store.files import read_file, reading
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

    @cached_property
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

    def pieces(self, units: Sequence[Unit]) -> Sequence[Piece]:
        """The earlier rows of units of known shards."""
        return _Pieces(self, units)


class _Pieces(Sequence[Piece]):
    """Pieces that are found when they are needed, since the driver makes each part several times; a tuple elsewhere."""

    def __init__(self, earlier: Earlier, units: Sequence[Unit]):
        self._earlier, self._units = earlier, units

    def __len__(self) -> int:
        return len(self._units)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Pieces(self._earlier, self._units[index])
        return self._earlier.find(self._units[index])

    def __reduce__(self) -> tuple[Callable[..., tuple], tuple[list[Piece]]]:
        return tuple, (list(self),)


def _share(shards: Shards) -> float:
    return shards.artifact.identity["corpus"].get("share", 1.0)


def find_earlier(
    root: Root, name: str, identity: Mapping[str, Any], shards: Shards, unit: int, part: int
) -> Earlier | None:
    """Of all complete artifacts `name`, such as scores, that differ from `identity` only in the corpus, those that
    share the most shards with it; None if none shares any."""
    found = []
    for scores in root.named(name):
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
    """A part's `scores`, `features`, `rejects`, or a table beside them."""
    uri = _uri(folder, name, number)
    with reading(uri):
        return _read(uri, name)


def _uri(folder: str, name: str, number: int) -> str:
    return f"{folder}/{name}-{number:06d}.parquet"


def _read(uri: str, name: str) -> pa.Table:
    # Whole, in one request: it is one row group of a few megabytes, of FEATURES about a hundred.
    schema = {"scores": SCORES, "rejects": REJECTS, **BESIDE}.get(name)  # that of FEATURES has their width
    return pq.read_table(pa.BufferReader(read_file(uri)), schema=schema)


def rejected_units(folder: str, number: int) -> tuple[Unit, ...]:
    """The rejects of a part that has rejects, as one unit per shard."""
    key = np.sort(read_part(folder, "rejects", number).column("key").to_numpy())
    shard, row = key >> 32, key & 0xFFFFFFFF
    runs = np.split(row, np.flatnonzero(np.diff(shard)) + 1)
    return tuple(
        Unit(int(one), int(rows[0]), len(rows), tuple(rows.tolist()))
        for one, rows in zip(np.unique(shard), runs, strict=True)
    )


Rows = tuple[pa.Table, ...]
"""SCORES or FEATURES, REJECTS, and the tables beside them that are kept (schema.BESIDE)."""


class Reader:
    """Reads pieces. Those of one part, and of the parts after it, are mostly in the same part of the earlier SCORES, so
    it keeps the last two of these."""

    def __init__(self, name: str = "scores", beside: tuple[str, ...] = ()) -> None:
        """`name`: of the files; `beside`: also read these tables."""
        self._part = lru_cache(maxsize=2)(partial(read_rows, name=name, beside=beside))

    def read(self, pieces: Iterable[Piece]) -> Iterator[tuple[Piece, Rows]]:
        """The rows of each piece with the current keys of its samples, in the order of the earlier SCORES."""
        for piece in sorted(pieces, key=lambda piece: (piece.layout.first, piece.unit.first)):
            rows, parts = parts_of(piece)
            keys = make_key(piece.layout.shard, 0) + rows
            found = [self._part(piece.folder, part) for part in parts]
            first = make_key(piece.unit.shard, piece.unit.first)
            yield (
                piece,
                tuple(
                    pa.concat_tables(_with_keys(table, keys, first) for table in tables)
                    for tables in zip(*found, strict=True)
                ),
            )


def read_rows(folder: str, number: int, *, name: str, beside: tuple[str, ...] = ()) -> Rows:
    """The rows of a part. `name`: of the files; `beside`: also these tables."""
    try:
        rejects = _read(_uri(folder, "rejects", number), "rejects")
    except FileNotFoundError:  # a part without rejects; a lost file is found by the count of rows
        rejects = REJECTS.empty_table()
    return read_part(folder, name, number), rejects, *(read_part(folder, other, number) for other in beside)


def _with_keys(table: pa.Table, keys: np.ndarray, first: int) -> pa.Table:
    """The rows of a part, in key order, that have one of `keys`, ascending. Their new key is `first` plus the index of
    theirs in `keys`."""
    key = table.column("key").to_numpy()
    start, end = np.searchsorted(key, keys[0]), np.searchsorted(key, keys[-1], side="right")
    table, key = table[start:end], key[start:end]
    at = np.searchsorted(keys, key)
    if not (mine := keys[at] == key).all():  # a smaller share of the corpus
        table, at = table.filter(pa.array(mine)), at[mine]
    return table.set_column(0, table.schema.field("key"), pa.array(first + at, pa.int64()))


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
