"""A deduplication: the contents of its summary, and what of a corpus is a copy → COPIED."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raylabel.schema import COPIED, COPIES, DUPLICATES, PAIRS
from raylabel.selection.compare import KINDS, starts
from raylabel.selection.dropped import key_range, rows_between
from raylabel.selection.pairs import in_a_set
from raylabel.selection.samples import read_table
from raylabel.ship.output import Contents
from raylabel.ship.parts import Part, Places


@dataclass(frozen=True, kw_only=True)
class Deduplication(Contents):
    """What of a corpus is a copy: the contents of the summary."""

    KIND: ClassVar[str] = "deduplication"
    TABLE: ClassVar[str] = "copies"
    PAGE: ClassVar[bool] = True

    deduplication: str
    """Identifies what the files have: the corpus and where it is, the reference sets, the settings, the columns."""
    corpus: list[str]
    against: list[str]
    """The reference sets."""
    near: float | None
    """Similarity from which pictures are near-duplicates; None: only equal bytes are found, and source videos."""
    passed_over: list[dict[str, Any]]
    """Files beside the samples that are none, as in summary.json of a run."""
    artifacts: list[str] = dataclasses.field(default_factory=list)
    """The folders in the root of which the files are made: PICTURES, DUPLICATES, COPIES, PAIRS."""
    samples: int = 0
    kept: int = 0
    """Samples that are in no row of the table."""
    copies: int = 0
    """Samples that are in the table."""
    rejected: int = 0
    reasons: dict[str, int] = dataclasses.field(default_factory=dict)
    """Rejects by reason, most frequent first."""
    unread: dict[str, int] = dataclasses.field(default_factory=dict)
    """Samples of each reference set that could not be read, and so were not compared."""
    counts: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """Rows by set and kind: `set`, empty for the corpus itself, `kind`, and `samples`. A sample that is in several sets
    has a row for each."""
    groups: int = 0
    """Samples that have copies in the corpus and are not a copy there themselves."""
    largest: int = 0
    """Samples of the largest group, with the one that is kept."""
    files: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def made_of(self) -> str:
        against = f" against {', '.join(self.against)}" if self.against else ""
        near = "of equal bytes" if self.near is None else f"with --near {self.near:g}"
        return f"of {', '.join(self.corpus)}{against}, {near}"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found in a corpus. Plain data, so that Ray can send it."""

    places: Places
    """Of the PICTURES of the corpus."""
    references: Mapping[str, Places]
    """Of the PICTURES of each set."""
    duplicates: str
    """Folder of DUPLICATES."""
    duplicate_files: tuple[str, ...]
    """Those that have rows."""
    copies: str
    copy_files: tuple[str, ...]
    pairs: str
    paired: frozenset[int]
    """The parts that have PAIRS."""


def copied(found: Found, parts: list[Part]) -> tuple[np.ndarray, pa.Table]:
    """(the key of each row, ascending; COPIED) of some parts.

    A sample has a row for the corpus itself and for each set that it is in. Of several samples of a set it is that with
    the same bytes, or else the most similar one, or else one of the same video.
    """
    rows = pa.concat_tables([_within(found, parts), *(_in_sets(found, part.number) for part in parts)])
    rows = rows.sort_by([("key", "ascending"), ("set", "ascending")])
    key, other = (rows.column(name).to_numpy() for name in ("key", "reference"))
    of_set = np.array(rows.column("set").to_pylist(), object)
    original = np.empty(len(key), object)
    inside = of_set == ""
    named, uris = _by_key(found.places, np.concatenate([key, other[inside]]))
    original[inside] = uris[np.searchsorted(named, other[inside])]
    for name, places in found.references.items():
        mine = of_set == name
        theirs, addresses = _by_key(places, other[mine])
        original[mine] = addresses[np.searchsorted(theirs, other[mine])]
    columns = [uris[np.searchsorted(named, key)], original]
    arrays = [pa.array(column, pa.string()) for column in columns]
    arrays += [rows.column(name) for name in ("set", "kind")]
    # Rounding makes some correlations larger than 1.
    arrays.append(pc.min_element_wise(rows.column("similarity"), pa.scalar(1, pa.float32()), skip_nulls=False))  # pyright: ignore
    return key, pa.Table.from_arrays(arrays, schema=COPIED)


def count(table: pa.Table) -> Counter[tuple[str, str]]:
    """(set, kind) → rows of COPIED."""
    return Counter(zip(*(table.column(name).to_pylist() for name in ("set", "kind")), strict=True))


def _by_key(places: Places, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the keys, each once, ascending; their addresses)."""
    key = np.unique(keys)
    found = np.empty(len(key), object)
    found[:] = places.addresses(key) if len(key) else []
    return key, found


def _within(found: Found, parts: list[Part]) -> pa.Table:
    """What are copies within the corpus, as PAIRS with the set ''."""
    names = [f"pictures-{part.number:06d}.parquet" for part in parts]
    between = key_range(found.places.folder, names)
    tables = [PAIRS.empty_table()]
    for kind, folder, files, schema in (
        ("bytes", found.duplicates, found.duplicate_files, DUPLICATES),
        ("near", found.copies, found.copy_files, COPIES),
    ):
        if between and files:
            rows = rows_between([f"{folder}/{name}" for name in files], schema, *between)
            n = len(rows)
            similarity = rows.column("similarity") if kind == "near" else pa.array(np.ones(n, np.float32))
            texts = [pa.array([text] * n, pa.string()) for text in ("", kind)]
            columns = [rows.column("key"), texts[0], rows.column("original"), texts[1], similarity]
            tables.append(pa.Table.from_arrays(columns, schema=PAIRS))
    return pa.concat_tables(tables)


def _in_sets(found: Found, part: int) -> pa.Table:
    """PAIRS of a part, the first one of each sample and set."""
    if part not in found.paired:
        return PAIRS.empty_table()
    table = read_table(found.pairs, "pairs", part, PAIRS.names)
    table = table.filter(in_a_set(table))
    rank = pa.array([KINDS.index(kind) for kind in table.column("kind").to_pylist()], pa.int8())
    order = [("key", "ascending"), ("set", "ascending"), ("rank", "ascending")]
    order += [("similarity", "descending"), ("reference", "ascending")]
    table = table.append_column("rank", rank).sort_by(order).select(PAIRS.names)
    of_set = np.array(table.column("set").to_pylist(), str)
    return table.filter(pa.array(starts(table.column("key").to_numpy(), of_set)))
