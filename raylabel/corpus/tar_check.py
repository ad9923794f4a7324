"""Measures a tar and checks that its samples are complete: the members of a sample follow each other."""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raylabel.corpus.config import Corpus, is_media
from raylabel.corpus.members import Names, TarSample, apart, first_dot, last_dot
from raylabel.corpus.passed_over import PassedOver, extension_of
from raylabel.corpus.tar import TarReader
from raylabel.corpus.tar_index import TarIndex
from raylabel.errors import InputError
from raylabel.text import listed

EXTENSIONS = 1000  # extensions with dots that are compared, at most


@dataclass
class TarMeasure:
    """What indexing finds in a tar."""

    rows: int = 0
    runs: int = 0
    """Samples if each were a run of members with one name up to the first dot: the rows in earlier versions."""
    without: int = 0
    """Samples without media, which are rejects."""
    example: str = ""
    """One of these, and what it has instead."""
    passed: list[dict[str, Any]] = field(default_factory=list)
    """PassedOver: members that belong to no sample, and media that are not those of their sample."""
    starts: list[tuple[int, int]] = field(default_factory=list)
    """(row, byte) as in SHARDS; empty if they are not known."""
    read: int = 0
    """1 if the headers were read, 0 if the members are known from before or from an index file."""
    indexed: int = 0
    """1 if the members are known from an index file beside the tar."""
    unused: int = 0
    """1 if there is an index file that was not used."""
    why: str = ""
    """The name of the tar, and why its index file was not used."""
    offsets: array = field(default_factory=lambda: array("q"), repr=False)
    """The position of each sample's first header, then the end of the last entry (bytes)."""

    def cut(self, rows: np.ndarray) -> None:
        """Sets `starts` to these rows, and drops `offsets`."""
        self.starts = [(row, self.offsets[row]) for row in [*rows.tolist(), self.rows]]
        self.offsets = array("q")


def measure_tar(corpus: Corpus, tar: TarReader, index: TarIndex | None = None) -> TarMeasure:
    """Reads all headers, or takes the members from an index file. InputError naming two members if they belong to one
    sample and do not follow each other, or if their names can be read in two ways; and if a header is broken."""
    found, passed, names, more = TarMeasure(), PassedOver(), _Names(), corpus.more
    prefix, uri = None, tar.uri
    samples = index.samples(passed) if index else tar.samples(corpus, passed=passed)
    for sample in samples:
        found.rows += 1
        found.offsets.append(sample.offset)
        found.runs += first_dot(sample.name) != prefix
        prefix = first_dot(sample.name)
        names.add(sample)
        if sample.media is None:
            found.without += 1
            found.example = found.example or f"'{uri}#{sample.name}' has {listed(list(sample.members))}"
        for extension, member in sample.members.items():
            if member is not sample.media and is_media(member.name.rpartition("/")[2], corpus.kind, more):
                passed.add(f"{uri}#{member.name}", extension_of(member.name))
                names.add_field(extension, member.name)
    found.offsets.append(index.end if index else tar.end)
    names.check(corpus, tar)
    found.passed = passed.table()
    found.indexed, found.read = int(index is not None), int(index is None)
    return found


def merge(tars: Iterable[TarMeasure]) -> TarMeasure:
    """The sums over some tars."""
    found, passed = TarMeasure(), PassedOver()
    for tar in tars:
        passed.merge(tar.passed)
        found.rows += tar.rows
        found.runs += tar.runs
        found.without += tar.without
        found.example = found.example or tar.example
        found.read += tar.read
        found.indexed += tar.indexed
        found.unused += tar.unused
        found.why = found.why or tar.why
    found.passed = passed.table()
    return found


class _Names:
    """The names of the samples of a tar, 24 bytes each: hashes and positions. What is found by a hash is read again."""

    def __init__(self) -> None:
        self._media, self._others = _Hashes(), _Hashes()
        self._dotted = _Hashes()  # names up to the first dot of samples whose names have more
        self._alone = True
        self._fields: dict[str, str] = {}  # extension with dots → a medium that has it and is not that of its sample
        self._samples: dict[str, str] = {}  # such an extension → a medium that has it and is that of its sample

    def add(self, sample: TarSample) -> None:
        if sample.media is None:
            for name in dict.fromkeys([sample.name, *(last_dot(member.name) for member in sample.members.values())]):
                self._others.add(name, sample.offset)
            return
        self._media.add(sample.name, sample.offset)
        self._alone = self._alone and len(sample.members) == 1
        if (name := first_dot(sample.name)) != sample.name:
            if name != self._dotted.last:
                self._dotted.add(name, sample.offset)
            self._note(self._samples, sample.media.name[len(name) + 1 :], sample.media.name)

    def add_field(self, extension: str, name: str) -> None:
        self._note(self._fields, extension, name)

    def _note(self, extensions: dict[str, str], extension: str, name: str) -> None:
        parts = extension.lower().split(".")[:-1]
        if parts and not any(part.isdecimal() for part in parts) and len(extensions) < EXTENSIONS:
            extensions.setdefault(extension.lower(), name)

    def check(self, corpus: Corpus, tar: TarReader) -> None:
        def found(here: _Hashes, there: _Hashes, which: str = "names") -> Iterator[tuple[TarSample, TarSample]]:
            for one, other in here.common(there, which):
                yield next(tar.samples(corpus, one)), next(tar.samples(corpus, other))

        for lost, media in found(self._others, self._media):
            for member in lost.members.values():
                if media.name in (lost.name, last_dot(member.name)):
                    raise apart(tar.uri, media.media or member, member)
        for one, other in found(self._media, self._dotted):
            if one.name == first_dot(other.name) and one.media and other.media:
                raise Names(corpus, tar.uri).ambiguous(one.media, other.media)
        for lost, media in found(self._others, self._media, "bases") if self._alone else ():
            if lost.name.rpartition("/")[2] == media.name.rpartition("/")[2]:
                member = next(iter(lost.members.values()))
                what = "have the name of one sample, but are in two folders"
                raise apart(tar.uri, media.media or member, member, what)
        if both := self._fields.keys() & self._samples.keys():
            extension = min(both)
            one, other = self._fields[extension], self._samples[extension]
            raise InputError(
                f"the member '{one}' of '{tar.uri}' belongs to a sample with another {corpus.kind}, and '{other}' has "
                f"none beside it: set corpus.media to '{extension}' if it is the {corpus.kind} of the samples, or else "
                "leave such members out"
            )


class _Hashes:
    """Hashes of names, whole and without the folder, with positions (bytes)."""

    def __init__(self) -> None:
        self.last = ""
        self._arrays = {name: array("q") for name in ("names", "bases", "offsets")}

    def add(self, name: str, offset: int) -> None:
        self.last = name
        for values, value in zip(
            self._arrays.values(), (hash(name), hash(name.rpartition("/")[2]), offset), strict=True
        ):
            values.append(value)

    def common(self, other: "_Hashes", which: str) -> list[tuple[int, int]]:
        """(position here, position there) of the first few names that are in both."""
        if not self._arrays[which] or not other._arrays[which]:
            return []
        mine, theirs = (np.frombuffer(one._arrays[which], np.int64) for one in (self, other))
        _, here, there = np.intersect1d(mine, theirs, return_indices=True)
        order = np.argsort(here)[:3]
        return [(self._arrays["offsets"][here[i]], other._arrays["offsets"][there[i]]) for i in order]
