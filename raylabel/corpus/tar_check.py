"""Measures a tar and checks that its samples are complete: the members of a sample follow each other."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raylabel.corpus.config import Corpus, is_media
from raylabel.corpus.members import TarSample, first_dot
from raylabel.corpus.passed_over import PassedOver
from raylabel.corpus.tar import TarReader
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


def measure_tar(corpus: Corpus, uri: str) -> TarMeasure:
    """Reads all headers. InputError naming two members if they belong to one sample and do not follow each other, or if
    their names can be read in two ways; and if a header is broken."""
    found, passed, names, more = TarMeasure(), PassedOver(), _Names(), corpus.more
    prefix = None
    with TarReader(uri) as tar:
        for sample in tar.samples(corpus, passed=passed):
            found.rows += 1
            found.runs += first_dot(sample.name) != prefix
            prefix = first_dot(sample.name)
            names.add(sample)
            if sample.media is None:
                found.without += 1
                found.example = found.example or f"'{uri}#{sample.name}' has {listed(list(sample.members))}"
            for extension, member in sample.members.items():
                if member is not sample.media and is_media(member.name.rpartition("/")[2], corpus.kind, more):
                    passed.add(f"{uri}#{member.name}")
                    names.add_field(extension, member.name)
        names.check(corpus, tar)
    found.passed = passed.table()
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
    found.passed = passed.table()
    return found


class _Names:
    """The names of the samples of a tar, 24 bytes each: hashes and positions. What is found by a hash is read again."""

    def __init__(self) -> None:
        self._media, self._others = _Hashes(), _Hashes()
        self._alone = True
        self._fields: dict[str, str] = {}  # extension with dots → a medium that has it and is not that of its sample
        self._samples: dict[str, str] = {}  # such an extension → a medium that has it and is that of its sample

    def add(self, sample: TarSample) -> None:
        if sample.media is None:
            self._others.add(sample.name, sample.offset)
            return
        self._media.add(sample.name, sample.offset)
        self._alone = self._alone and len(sample.members) == 1
        if (name := first_dot(sample.name)) != sample.name:
            if name != self._media.last:
                self._media.add(name, sample.offset)  # of members without media, only this part is the name
            self._note(self._samples, sample.media.name[len(name) + 1 :], sample.media.name)

    def add_field(self, extension: str, name: str) -> None:
        self._note(self._fields, extension, name)

    def _note(self, extensions: dict[str, str], extension: str, name: str) -> None:
        parts = extension.lower().split(".")[:-1]
        if parts and not any(part.isdecimal() for part in parts) and len(extensions) < EXTENSIONS:
            extensions.setdefault(extension.lower(), name)

    def check(self, corpus: Corpus, tar: TarReader) -> None:
        for other, one in self._others.common(self._media, "names"):
            media, lost = (next(tar.samples(corpus, at)) for at in (one, other))
            if lost.name in (media.name, first_dot(media.name)):
                raise _apart(tar, media, lost, "belong to one sample, and do not follow each other")
        for other, one in self._others.common(self._media, "bases") if self._alone else ():
            media, lost = (next(tar.samples(corpus, at)) for at in (one, other))
            if lost.name.rpartition("/")[2] == media.name.rpartition("/")[2]:
                raise _apart(tar, media, lost, "have the name of one sample, but are in two folders")
        if both := self._fields.keys() & self._samples.keys():
            extension = min(both)
            one, other = self._fields[extension], self._samples[extension]
            raise InputError(
                f"the member '{one}' of '{tar.uri}' belongs to a sample with another {corpus.kind}, and '{other}' has "
                f"none beside it: set corpus.media to '{extension}' if it is the {corpus.kind} of the samples, or else "
                "leave such members out"
            )


def _apart(tar: TarReader, media: TarSample, lost: TarSample, what: str) -> InputError:
    first = media.media or next(iter(media.members.values()))
    second = next(iter(lost.members.values()))
    return InputError(
        f"the members '{first.name}' and '{second.name}' of '{tar.uri}' {what}: write the tar again with the members "
        "of each sample one after the other, under one name (tar --sort=name)"
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
