"""The sets that a corpus is compared with, and what an earlier artifact of PAIRS compared with them.

Letters: E samples of the sets.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raylabel.schema import PAIRS, PICKS
from raylabel.selection.compare import MOST, Sets, starts
from raylabel.selection.samples import Samples, number_of, read_samples, read_table, take
from raylabel.store.artifact import Artifact, Root


@dataclass(frozen=True)
class Reference:
    """A set that a corpus is compared with."""

    samples: Artifact
    """SCORES or PICTURES."""
    picks: Artifact | None = None
    """PICKS of the samples that are in the set; None: all are."""

    @property
    def rows(self) -> int:
        """Samples, at most."""
        return sum(file.rows for file in self.samples.files(f"{self.samples.name}-"))

    def read(self, near: bool) -> Samples:
        """All samples in memory: 2 KB each."""
        names = [file.name for file in self.samples.files(f"{self.samples.name}-")]
        parts = [read_samples(self.samples, number_of(name), near) for name in names]
        key, digest, group = (np.concatenate([getattr(one, name) for one in parts]) for name in Samples.NAMES)
        samples = Samples(key, digest, group, np.concatenate([one.thumbnail for one in parts]) if near else None)
        if not self.picks:
            return samples
        return take(samples, np.isin(key, self.picks.table("picks-", PICKS, ["key"]).column("key").to_numpy()))


@dataclass(frozen=True)
class Gathered:
    """Sets in memory."""

    sets: Sets
    known: np.ndarray
    """bool [E]: the samples that are the same in the earlier sets."""


def gather(references: Mapping[str, Reference], earlier: Mapping[str, Reference], near: bool) -> Gathered:
    """Reads the sets, and those of the same names that an earlier artifact was compared with."""
    found = {name: one.read(near) for name, one in references.items()}
    known = [_among(mine, references[name], earlier.get(name), near) for name, mine in found.items()]
    number = np.repeat(np.arange(len(found)), [len(one.key) for one in found.values()])
    key, digest, group = (np.concatenate([getattr(one, name) for one in found.values()]) for name in Samples.NAMES)
    thumbnail = np.concatenate([one.thumbnail for one in found.values()]) if near else None
    return Gathered(Sets(tuple(found), number, Samples(key, digest, group, thumbnail)), np.concatenate(known))


def _among(mine: Samples, reference: Reference, earlier: Reference | None, near: bool) -> np.ndarray:
    """bool [E]: which samples of a set are also in the earlier set, with the same key, bytes, video and thumbnail."""
    if earlier is None:
        return np.zeros(len(mine.key), bool)
    if earlier == reference:
        return np.ones(len(mine.key), bool)
    theirs = earlier.read(near)
    same = np.isin(mine.key, theirs.key)
    at, here = np.searchsorted(theirs.key, mine.key[same]), take(mine, same)
    other = take(theirs, at)
    equal = (here.digest == other.digest) & (here.group == other.group)
    if near:
        equal &= (here.thumbnail == other.thumbnail).all(1)
    same[same] = equal
    return same


@dataclass(frozen=True)
class Known:
    """What an earlier artifact compared, of what is the same now."""

    uri: str
    parts: frozenset[int]
    """Parts of the corpus."""
    paired: frozenset[int]
    """Those that have pairs."""
    sets: Mapping[str, Reference]
    """The sets of the same names that it compared with; which of their samples are the same now, `gather` says."""

    def rows(self, part: int, gathered: Gathered) -> pa.Table | None:
        """PAIRS of a part with the samples of the sets that are the same; None if that is not all that is needed to
        know: there were as many pairs of a sample as are kept, and one of them is gone, so others may take its place.
        """
        if part not in self.parts:
            return None
        if part not in self.paired:
            return PAIRS.empty_table()
        table, sets = read_table(self.uri, "pairs", part, PAIRS.names), gathered.sets
        table = table.filter(pc.is_in(table.column("set"), pa.array(sets.names, pa.string())))  # pyright: ignore
        reference, of_set = table.column("reference").to_numpy(), np.array(table.column("set").to_pylist(), str)
        keep = np.zeros(len(table), bool)
        for number, name in enumerate(sets.names):
            keep |= (of_set == name) & np.isin(reference, sets.samples.key[(sets.number == number) & gathered.known])
        kind = np.array(table.column("kind").to_pylist(), str)
        begin = starts(table.column("key").to_numpy(), of_set, kind)
        group = np.cumsum(begin) - 1
        full = np.bincount(group, minlength=1) >= MOST
        return None if full[group[~keep]].any() else table.filter(pa.array(keep))


def find_known(
    root: Root, scores: Artifact, references: Mapping[str, Reference], identity: Mapping[str, Any]
) -> Known | None:
    """Of all earlier artifacts that which was compared with the most of these sets, for the most parts of `scores`.
    `identity`: that of PAIRS."""
    best, most = None, (0, 0)
    earlier = root.named("pairs")
    if not earlier:
        return None
    names = {scores.name, *(one.samples.name for one in references.values())}
    names |= {one.picks.name for one in references.values() if one.picks}
    artifacts, mine = {one.digest: one for name in sorted(names) for one in root.named(name)}, _contents(scores)
    for pairs in earlier:
        before = pairs.identity
        corpus = artifacts.get(before["scores"])
        if not corpus or any(before[name] != identity[name] for name in ("threshold", "version")):
            continue
        picks = before.get("picks", {})
        sets = {
            name: Reference(artifacts[before["sets"][name]], artifacts[picks[name]] if name in picks else None)
            for name in references
            if artifacts.keys() >= {before["sets"].get(name), picks.get(name, before["sets"].get(name))}
        }
        theirs = _contents(corpus)
        parts = frozenset(number for number in mine if theirs.get(number) == mine[number])
        rank = len(parts) * sum(sets[name] == references[name] for name in sets), len(parts) * len(sets)
        if rank > most:
            paired = {number_of(file.name) for file in pairs.files("pairs-")}
            best, most = Known(pairs.uri, parts, parts & paired, sets), rank
    return best


def _contents(scores: Artifact) -> dict[int, tuple[str, ...]]:
    """Part → the checksums of its samples and its thumbnails."""
    found: dict[int, tuple[str, ...]] = {}
    for file in (*scores.files(f"{scores.name}-"), *scores.files("thumbnails-")):
        found[number_of(file.name)] = (*found.get(number_of(file.name), ()), file.sha256)
    return found
