"""The samples of a WebDataset tar, one after another, from any sample's start.

The file is only read, never extracted. Its headers may be hostile: links, devices, sparse files (a few bytes that claim
terabytes), absolute names and names with '..' are passed over; a size that the file cannot hold is an error, and so are
more attributes than names need. They are read here and not by tarfile, which holds all that stands before a member (a
sparse map of 1 GB as 18 GB of integers) and, in some releases of Python, searches it in quadratic time. It also takes
a broken header after the first one for the end of the file, where samples would be lost silently.

Layouts: POSIX.1-2008 pax, "ustar and pax interchange format"; GNU tar manual, "Basic Tar Format".
Names are split as WebDataset does: github.com/webdataset/webdataset, tariterators.py, base_plus_ext.
"""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow.fs as pafs

from raylabel.corpus.config import EXTENSIONS, Corpus, locate
from raylabel.errors import InputError
from raylabel.store.files import line

BLOCK = tarfile.BLOCKSIZE
ATTRIBUTES = 1 << 20  # bytes before one member, in headers that extend its own: a name, times, access lists
MEMBERS = 1000  # of one sample, held together

_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_EXTENDS = (*_PAX, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
# Links, devices, folders, pipes: no data follow them, whatever size they claim.
_BARE = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar: its name, and the position of its data (bytes)."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class TarSample:
    """The members of one sample by extension; `offset` is where the first one's header begins (bytes)."""

    name: str
    offset: int
    members: dict[str, Member]

    def media(self, corpus: Corpus) -> Member | None:
        """What holds the media: the member that `corpus.media` names, or the first with an extension of the kind."""
        if corpus.media:
            return self.members.get(corpus.media)
        extensions = EXTENSIONS[corpus.kind]
        return next((m for extension, m in self.members.items() if extension.lower() in extensions), None)


class TarReader(io.BufferedReader):
    """A tar file. InputError, in `samples`, naming the file if a header is broken or the file is cut short."""

    def __init__(self, uri: str) -> None:
        """FileNotFoundError if there is none."""
        fs, path, _ = locate(uri)
        raw = fs.open_input_file(path)
        self.uri = uri
        self.file = raw
        self.size = raw.size()
        # Headers are far apart: a local file is read around each; for an object store few, large requests are quicker.
        super().__init__(raw, 1 << 14 if isinstance(fs, pafs.LocalFileSystem) else 1 << 22)  # pyright: ignore[reportArgumentType]

    def read_member(self, member: Member) -> bytes:
        self.seek(member.offset)
        return self.read(member.size)

    def samples(self, offset: int = 0) -> Iterator[TarSample]:
        """The samples from the one that begins at `offset` on."""
        current: TarSample | None = None
        for start, member in self._members(offset):
            folder, slash, basename = member.name.rpartition("/")
            stem, dot, extension = basename.partition(".")
            if not stem or not dot:  # README, or what macOS adds: ._a.jpg
                continue
            name = folder + slash + stem
            if current is None or current.name != name:
                if current is not None:
                    yield current
                current = TarSample(name, start, {})
            current.members.setdefault(extension, member)
            if len(current.members) > MEMBERS:
                raise self._broken(start, f"sample '{name}' has more than {MEMBERS:,} members")
        if current is not None:
            yield current

    def _members(self, offset: int) -> Iterator[tuple[int, Member]]:
        """(where its header begins, member) of every plain file that has a harmless name."""
        at = offset
        try:
            if not self.size:
                raise tarfile.ReadError("the file is empty")
            while entry := self._entry(at):
                member = entry.member
                if entry.plain and not member.name.startswith("/") and ".." not in member.name.split("/"):
                    yield at, member
                at = entry.end
        except (tarfile.TarError, ValueError) as error:
            raise self._broken(at, line(error)) from error

    def _broken(self, at: int, why: str) -> InputError:
        what = f"cannot read tar '{self.uri}' from byte {at} on: {why}"
        return InputError(f"{what}; give a whole, uncompressed tar or take the file out")

    def _entry(self, start: int) -> "_Entry | None":
        """The entry at `start`: a header with those that extend it, and its data; None at the end."""
        at, attributes = start, {}
        while (info := self._header(at)) is not None:
            at += BLOCK
            if info.size < 0:
                raise tarfile.ReadError(f"negative size of '{info.name}'")
            if info.type not in _EXTENDS:
                return self._complete(info, at, attributes)
            if at + info.size - start > ATTRIBUTES:
                raise tarfile.ReadError(f"more than {ATTRIBUTES:,} bytes of attributes before a member")
            self.seek(at)
            data = self.read(info.size)
            at += _whole_blocks(info.size)
            if info.type in _PAX:
                attributes |= _pax_records(data)
            elif info.type == tarfile.GNUTYPE_LONGNAME:
                attributes[b"path"] = data.partition(b"\0")[0]
            # What is said of all members (XGLTYPE) is said of none in particular; where a link leads is of no interest.
        if at > start:
            raise tarfile.ReadError("attributes of no member")
        return None

    def _header(self, at: int) -> tarfile.TarInfo | None:
        """The header at a byte; None if the archive ends there."""
        self.seek(at)
        block = self.read(BLOCK)
        if not block.strip(b"\0") and len(block) in (0, BLOCK) and at <= self.size:
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no tar header: {error}") from error

    def _complete(self, info: tarfile.TarInfo, at: int, attributes: dict[bytes, bytes]) -> "_Entry":
        """The member whose own header ends at `at`."""
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
        end = at if info.type in _BARE else at + _whole_blocks(size)
        if end > self.size:
            raise tarfile.ReadError(f"'{name}' reaches beyond the end of the file, byte {self.size}")
        return _Entry(Member(name, at, size), info.type in _PLAIN and not sparse, end)

    def _after_sparse_map(self, at: int) -> int:
        """Where the data of an old GNU sparse file begin, whose header ends at `at`: behind the blocks of its map."""
        self.seek(at - BLOCK)
        more = self.read(BLOCK)[482]
        while more:
            block = self.read(BLOCK)
            if len(block) < BLOCK:
                raise tarfile.ReadError("the map of a sparse file reaches beyond the end of the file")
            at, more = at + BLOCK, block[504]
        return at


@dataclass(frozen=True, slots=True)
class _Entry:
    """A header of a member, and its data."""

    member: Member
    plain: bool
    """Whether it is a file with data as they are."""
    end: int
    """Where the next header begins (bytes)."""


def _whole_blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """Of "<bytes of the record> <key>=<value>\\n", one behind the other. ValueError if they are not that."""
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
