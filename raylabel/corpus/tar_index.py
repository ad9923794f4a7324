"""Index files beside tars: `a.idx` of `a.tar` saves reading the headers of the tar.

The format is v1.2 of `wds2idx`, a tool of NVIDIA DALI (tools/wds2idx.py there): a line `v1.2 N`, then N lines, each
with one or more members as `extension offset size name`. The offset is that of the data. Version 1.1 has no names,
which say how members are divided into samples. Hidden members, folders and links are not listed, so they are not
counted.

Such a file may be of an earlier tar of this name, and wds2idx writes wrong offsets beside names of more than 100
characters. So it only gives the number of samples and where units begin, and only if the headers there, the first one,
those after a gap in the list and what follows the last one are those in the tar. Members are read by their own headers.
"""

import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise

from raylabel.corpus.config import Corpus, locate
from raylabel.corpus.members import Found, Member, Names, TarSample
from raylabel.corpus.passed_over import PassedOver
from raylabel.corpus.tar import BLOCK, TarReader, is_member_path, pass_over, whole_blocks

VERSION = "v1.2"
GAPS = 100  # between members that are checked: each takes a request


class UnusableError(Exception):
    """Why an index file is not used."""


@dataclass
class TarIndex:
    """The members of a tar as its index file lists them."""

    corpus: Corpus
    uri: str
    """Of the tar."""
    lines: list[str]
    end: int = 0
    """Where the last member ends (bytes)."""

    def samples(self, passed: PassedOver) -> Iterator[TarSample]:
        """As `TarReader.samples`. The position of a member's header is that where the member before it ends."""
        names = Names(self.corpus, self.uri)

        def members() -> Iterator[Found]:
            for at, member in self.members():
                if is_member_path(member.name) and names.is_member(member.name):
                    yield at, member
                else:
                    pass_over(passed, self.uri, member.name, is_member_path(member.name))

        yield from names.samples(members())

    def members(self) -> Iterator[Found]:
        """(where the member before it ends, member) of all listed members."""
        at = 0
        for line in self.lines:
            fields = line.split(" ")
            for _, offset, size, name in zip(*(fields[i::4] for i in range(4)), strict=True):
                yield at, (member := Member(name, int(offset), int(size)))
                at = member.offset + whole_blocks(member.size)

    def check(self, tar: TarReader, starts: list[tuple[int, int]]) -> None:
        """UnusableError if the tar has other headers at the starts of the units, or other members where the list leaves
        more room between two members than is usual in it."""
        wanted = {0, *(byte for _, byte in starts[:-1])}
        gaps = Counter(member.offset - at for at, member in self.members())
        usual = max(gaps, key=lambda gap: gaps[gap], default=0)
        if (wide := sum(count for gap, count in gaps.items() if gap > usual)) > GAPS:
            raise UnusableError(f"before {wide:,} of its members there is room for others")
        for at, member in self.members():
            if at in wanted or member.offset - at > usual:
                self._check_header(tar, at, member)
        if (more := _next_member(tar, self.end)) is not None:
            raise UnusableError(f"'{more.name}' follows its last member")

    def _check_header(self, tar: TarReader, at: int, member: Member) -> None:
        if _next_member(tar, at) != member:
            raise UnusableError(f"'{member.name}' is not at byte {member.offset} of the tar")


def read_index(corpus: Corpus, tar: TarReader) -> "TarIndex | None":
    """The index file beside a tar; None if there is none. UnusableError if it is not one, or not of this tar."""
    uri = f"{tar.uri.removesuffix('.tar')}.idx"
    fs, path, _ = locate(uri)
    try:
        with fs.open_input_file(path) as file:
            if file.size() > tar.size:
                raise UnusableError("it is larger than the tar")
            head, *lines = file.read().decode().removesuffix("\n").split("\n")
    except FileNotFoundError:
        return None
    except (UnicodeDecodeError, ValueError) as error:
        raise UnusableError("it is empty or no text") from error
    version, _, count = head.partition(" ")
    if version != VERSION:
        raise UnusableError(f"its version is '{version[:20]}', not {VERSION}")
    index = TarIndex(corpus, tar.uri, lines)
    try:
        if int(count) != len(lines) or not all(_has_extensions(line) for line in lines):
            raise ValueError
        for (_, one), (_, other) in pairwise(chain([(0, Member("", 0, 0))], index.members())):
            index.end = other.offset + whole_blocks(other.size)
            if other.size < 0 or other.offset % BLOCK or other.offset < one.offset + whole_blocks(one.size) + BLOCK:
                raise ValueError
    except ValueError:
        raise UnusableError(f"it is no list of members in the form of {VERSION}") from None
    if index.end > tar.size:
        raise UnusableError("its last member ends after the tar")
    return index


def _has_extensions(line: str) -> bool:
    """Whether names and extensions in a line fit together, as they do not if a name contains blanks."""
    fields = line.split(" ")
    names = [name.rpartition("/")[2] for name in fields[3::4]]
    pairs = zip(names, fields[::4], strict=False)
    return all(name.partition(".")[2] == extension or "." not in name for name, extension in pairs)


def _next_member(tar: TarReader, at: int) -> Member | None:
    """The first member from byte `at` on that wds2idx would list; None at the end of the archive."""
    try:
        while entry := tar.entry(at):
            if entry.plain and not entry.member.name.rpartition("/")[2].startswith("."):
                return entry.member
            at = entry.end
    except (tarfile.TarError, ValueError) as error:
        raise UnusableError(f"there is no header at byte {at} of the tar") from error
    return None
