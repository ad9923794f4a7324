"""The samples of a WebDataset tar, one after another, from any sample's start.

The file is only read, never extracted. Its headers may be hostile: links, devices, sparse files (a few bytes that claim
terabytes), absolute names and names with '..' are passed over; a size that the file cannot hold is an error.
Names are split as WebDataset does: github.com/webdataset/webdataset, tariterators.py, base_plus_ext.
"""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow.fs as pafs

from raylabel.corpus.config import IMAGE_EXTENSIONS, Corpus, locate
from raylabel.errors import InputError
from raylabel.storage import line


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar: its name, and where its data stands (bytes)."""

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
        """The member that holds the media: the first with an image extension, unless `corpus.media` says which."""
        if corpus.media:
            return self.members.get(corpus.media)
        return next((m for extension, m in self.members.items() if extension.lower() in IMAGE_EXTENSIONS), None)


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

    def read(self, size: int | None = 0, /) -> bytes:
        # Never more than there is: a header may claim 2^60 bytes, and Python would set them aside before reading.
        return super().read(max(0, min(size or 0, self.size - self.tell())))

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
        if current is not None:
            yield current

    def _members(self, offset: int) -> Iterator[tuple[int, Member]]:
        """(where its header begins, member) of every plain file that has a harmless name."""
        self.seek(offset)
        at = offset  # where the next header begins
        try:
            tar = tarfile.open(fileobj=self, mode="r:", encoding="utf-8", errors="backslashreplace")
            while (info := tar.next()) is not None:
                at = info.offset
                tar.members.clear()  # it would keep them all  # pyright: ignore[reportAttributeAccessIssue]
                if info.size < 0 or tar.offset <= info.offset:  # would lead back, for ever
                    raise tarfile.ReadError(f"negative size of '{info.name}'")
                if not info.isreg() or info.issparse():
                    continue
                if info.offset_data + info.size > self.size:
                    raise tarfile.ReadError(f"'{info.name}' reaches beyond the end of the file, byte {self.size}")
                if info.name.startswith("/") or ".." in info.name.split("/"):
                    continue
                yield info.offset, Member(info.name, info.offset_data, info.size)
                at = tar.offset
            # tarfile takes a broken header after the first one for the end: samples would be lost without a word.
            at = tar.offset
            self.seek(at)
            block = self.read(tarfile.BLOCKSIZE)
            if block.strip(b"\0") or 0 < len(block) < tarfile.BLOCKSIZE:
                raise tarfile.ReadError("no tar header")
        except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
            raise InputError(
                f"cannot read tar '{self.uri}' from byte {at} on: {line(error)}; give a whole, uncompressed tar "
                "or take the file out"
            ) from error
