"""Reads the samples of a WebDataset tar in sequence, from the start of any sample.

The file is only read, never extracted. Its headers may be hostile. Links, devices, sparse files (a few bytes that claim
terabytes), absolute names and names with '..' are skipped. A size beyond the end of the file is an error, and so are
more attributes than names need. Headers are parsed here and not by tarfile, which keeps everything before a member in
memory (a sparse map of 1 GB as 18 GB of integers) and, in some releases of Python, searches it in quadratic time. It
also treats a broken header after the first one as the end of the file, so samples would be lost silently.

Layouts: POSIX.1-2008 pax, "ustar and pax interchange format"; GNU tar manual, "Basic Tar Format".
Samples are divided by their names, in corpus/members.py.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from raylabel.corpus.config import Corpus
from raylabel.corpus.forward import ForwardReader
from raylabel.corpus.members import Found, Member, Names, TarSample
from raylabel.corpus.passed_over import HIDDEN, SPECIAL, PassedOver, extension_of
from raylabel.corpus.ranges import AheadReader
from raylabel.errors import InputError
from raylabel.text import one_line

BLOCK = tarfile.BLOCKSIZE
ATTRIBUTES = 1 << 20  # bytes of extension headers before one member, at most: a long name, times, access lists

_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_EXTENDS = (*_PAX, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
# Links, devices, folders, pipes: no data follow them, whatever size their header gives.
_BARE = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)


class TarReader:
    """A tar file. `samples` raises InputError naming the file if a header is broken or the file is truncated."""

    def __init__(self, uri: str, streams: int = 1, source: ForwardReader | AheadReader | None = None) -> None:
        """`streams`: see ForwardReader; `source`: the file if it is open. FileNotFoundError if there is none."""
        self.uri = uri
        self.source = source or ForwardReader(uri, streams)
        self.size = self.source.size
        self.end = 0
        """Where `samples` ended (bytes): at its `end`, or after the last member."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.source.close()

    def read_member(self, member: Member) -> bytes:
        return self.source.read(member.offset, member.size)

    def samples(
        self,
        corpus: Corpus,
        offset: int = 0,
        passed: PassedOver | None = None,
        end: int | None = None,
        whole: bool = False,
    ) -> Iterator[TarSample]:
        """The samples, from the one whose first header is at byte `offset`, up to byte `end`, where another sample or
        the end of the archive is. Counts in `passed` the members that belong to no sample. InputError also if the names
        can be read in two ways. `whole`: the members of most samples up to `end` will be read.

        The members of a sample can be read without another request until the next sample is taken.
        """
        names = Names(corpus, self.uri)
        self.source.start(offset, end if whole and end else 0)
        for sample in names.samples(self._members(names, offset, passed, end)):
            self.source.release(sample.offset)
            yield sample

    def _members(self, names: Names, offset: int, passed: PassedOver | None, end: int | None) -> Iterator[Found]:
        """(position of its header, member) of every regular file with a safe name that may belong to a sample."""
        at = after = offset
        try:
            if not self.size:
                raise tarfile.ReadError("the file is empty")
            while (end is None or at < end) and (entry := self.entry(at)):
                name = entry.member.name
                regular = entry.plain and is_member_path(name)
                if end is not None and entry.end > end:
                    raise tarfile.ReadError(f"'{name}' extends beyond byte {end}, where another sample began")
                if regular and names.is_member(name):
                    yield at, entry.member
                    after = entry.end
                else:
                    if passed is not None and not entry.folder:
                        pass_over(passed, self.uri, name, regular)
                    self.source.release(entry.end, after)
                at = entry.end
            self.end = at
        except (tarfile.TarError, ValueError) as error:
            raise self._broken(at, one_line(error)) from error

    def _broken(self, at: int, why: str) -> InputError:
        what = f"cannot read tar '{self.uri}' from byte {at} on: {why}"
        return InputError(f"{what}; give a complete, uncompressed tar or remove the file")

    def entry(self, start: int) -> "Entry | None":
        """The entry at byte `start`: extension headers, a header and its data. None at the end of the archive."""
        at, attributes = start, {}
        while (info := self._header(at)) is not None:
            at += BLOCK
            if info.size < 0:
                raise tarfile.ReadError(f"negative size of '{info.name}'")
            if info.type not in _EXTENDS:
                return self._complete(info, at, attributes)
            if at + info.size - start > ATTRIBUTES:
                raise tarfile.ReadError(f"more than {ATTRIBUTES:,} bytes of attributes before a member")
            data = self.source.read(at, info.size)
            at += whole_blocks(info.size)
            if info.type in _PAX:
                attributes |= _pax_records(data)
            elif info.type == tarfile.GNUTYPE_LONGNAME:
                attributes[b"path"] = data.partition(b"\0")[0]
            # Ignored: attributes for all members (XGLTYPE), and the target of a link (GNUTYPE_LONGLINK).
        if at > start:
            raise tarfile.ReadError("attributes without a member")
        return None

    def _header(self, at: int) -> tarfile.TarInfo | None:
        """The header at byte `at`; None if the archive ends there."""
        block = self.source.read(at, BLOCK)
        if not block.strip(b"\0") and len(block) in (0, BLOCK) and at <= self.size:
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"not a tar header: {error}") from error

    def _complete(self, info: tarfile.TarInfo, at: int, attributes: dict[bytes, bytes]) -> "Entry":
        """The entry of the member whose own header ends at byte `at`."""
        sparse = info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith(b"GNU.sparse.") for key in attributes)
        if info.type == tarfile.GNUTYPE_SPARSE:
            at = self._after_sparse_map(at)
        name, size = info.name, info.size
        if b"path" in attributes:
            name = attributes[b"path"].decode("utf-8", "backslashreplace")
        if b"size" in attributes:
            size = int(attributes[b"size"])
        if size < 0:
            raise tarfile.ReadError(f"negative size of '{name}'")
        end = at if info.type in _BARE else at + whole_blocks(size)
        if end > self.size:
            raise tarfile.ReadError(f"'{name}' extends beyond the end of the file, at byte {self.size}")
        return Entry(Member(name, at, size), info.type in _PLAIN and not sparse, info.type == tarfile.DIRTYPE, end)

    def _after_sparse_map(self, at: int) -> int:
        """Where the data of an old GNU sparse file begin: after the blocks of its map. Its header ends at byte `at`."""
        start = at
        more = self.source.read(at - BLOCK, BLOCK)[482]
        while more:
            block = self.source.read(at, BLOCK)
            if len(block) < BLOCK:
                raise tarfile.ReadError("the map of a sparse file extends beyond the end of the file")
            self.source.release(at, start)
            at, more = at + BLOCK, block[504]
        return at


@dataclass(frozen=True, slots=True)
class Entry:
    """A member with its header and data."""

    member: Member
    plain: bool
    """Whether it is a regular file that is not sparse."""
    folder: bool
    end: int
    """The position of the next header (bytes)."""


def is_member_path(name: str) -> bool:
    """Whether the name of a member is relative and stays below its folder."""
    return not name.startswith("/") and ".." not in name.split("/")


def pass_over(passed: PassedOver, uri: str, name: str, regular: bool) -> None:
    """Counts a member that belongs to no sample."""
    what = HIDDEN if name.rpartition("/")[2].startswith(".") else extension_of(name)
    passed.add(f"{uri}#{name}", what if regular else SPECIAL)


def whole_blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """{key: value} of consecutive records "<length of the record> <key>=<value>\\n". ValueError if one is damaged."""
    found, at = {}, 0
    while at < len(data) and data[at]:  # some writers count the padding too
        digits, blank, _ = data[at : at + 8].partition(b" ")
        length = int(digits)
        record = data[at : at + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if not (blank and equals) or len(record) != length or not record.endswith(b"\n"):
            raise ValueError(f"damaged attributes at {at} of {len(data)} bytes")
        found[key] = value
        at += length
    return found
