"""Where a table for other programs is written: one file, or a folder with a file for each part.

Beside it are rejects, a summary, and maybe a page.

The summary is written first without the results, so that what exists of a killed call is known to be of the same
command, and last with them. Each file is written in one atomic step.
"""

import dataclasses
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar, get_args

import pyarrow.fs as pafs

from raylabel.corpus import Corpus
from raylabel.corpus.apart import inside
from raylabel.corpus.config import absolute
from raylabel.errors import InputError
from raylabel.ship.encode import Form
from raylabel.store.artifact import File, write_bytes
from raylabel.store.files import filesystem, read_file, reading

ONE_FILE = 1_000_000  # samples, at most: a spreadsheet opens 1,048,576 rows, and one task writes the file in memory
REJECTED = "rejects"


class Contents(ABC):
    """What a command has written: the contents of its summary. A subclass is a dataclass, with a field of the name
    KIND that identifies what the files have."""

    KIND: ClassVar[str]
    """In messages."""
    TABLE: ClassVar[str]
    """Name of the table: its folder, where each part has a file."""
    PAGE: ClassVar[bool] = False
    """Whether there is a page."""
    files: list[dict[str, Any]]
    """Name, rows, bytes and sha256 of each file; empty while the output is not complete."""

    @property
    @abstractmethod
    def made_of(self) -> str:
        """What the files are made of, in messages."""

    @property
    def identity(self) -> str:
        return getattr(self, self.KIND)


C = TypeVar("C", bound=Contents)


@dataclass(frozen=True)
class Output(Generic[C]):
    """Where a table is written."""

    uri: str
    """As an absolute path, or s3://, gs://."""
    form: Form
    whole: bool
    """One file; otherwise a folder."""
    contents: type[C]

    @classmethod
    def of(cls, to: str, form: Form | None, contents: type[C]) -> Self:
        """`to` is one file if it ends in .parquet or .csv, otherwise a folder of parquet, or of the form that is given.
        InputError if the form is another one than that of the file."""
        named = next((one for one in get_args(Form) if to.lower().endswith(f".{one}")), None)
        if named and form not in (None, named):
            raise InputError(f"form is {form}, but to is '{to}': leave form out, or change the ending")
        return cls(absolute(to.rstrip("/")), named or form or "parquet", bool(named), contents)

    @property
    def folder(self) -> str:
        return self.uri.rpartition("/")[0] if self.whole else self.uri

    def name(self, table: str, part: int = 0) -> str:
        """The name in `folder` of the file with the table or the rejects of a part, or of all."""
        if not self.whole:
            return f"{table}/{part:06d}.{self.form}"
        base = self.uri.rpartition("/")[2]
        return base if table == self.contents.TABLE else f"{base.rpartition('.')[0]}.{table}.{self.form}"

    @property
    def summary(self) -> str:
        """The name in `folder` of the summary."""
        return f"{self._base}.summary.json" if self.whole else "summary.json"

    @property
    def page(self) -> str:
        """The name in `folder` of the page."""
        return f"{self._base}.html" if self.whole else "index.html"

    @property
    def _base(self) -> str:
        return self.uri.rpartition("/")[2].rpartition(".")[0]

    def check_size(self, samples: int) -> None:
        """InputError if it is one file, and the corpus has too many samples for that."""
        if self.whole and samples > ONE_FILE:
            folder = self.uri.rpartition(".")[0]
            raise InputError(
                f"to is the file '{self.uri}', and the corpus has {samples:,} samples: a file gets at most "
                f"{ONE_FILE:,}, so give a folder, for example --to {folder} --form {self.form}"
            )

    def check_outside(self, corpus: Corpus, name: str = "corpus") -> None:
        """InputError if it is in a folder of the corpus, of which its files would be a part. `name`: of the corpus."""
        for uri in map(absolute, corpus.uri):
            if inside(self.uri, uri):
                raise InputError(f"to is '{self.uri}', in the {name} '{uri}' itself: give a place outside of it")

    def claim(self, wanted: C) -> C | None:
        """What is written here of `wanted`, if the call that wrote it was complete. InputError if something else is
        written here."""
        sizes = self._sizes()
        found = self._read() if self.summary in sizes else None
        if found is None:
            if sizes:
                raise InputError(f"'{self.uri}' exists ({min(sizes)}): delete it, or give another --to")
            return None
        if found.identity != wanted.identity:
            kind = self.contents.KIND
            raise InputError(f"'{self.uri}' has another {kind}, {found.made_of}: delete it, or give another --to")
        for file in found.files:
            if sizes.get(file["name"], file["bytes"]) != file["bytes"]:
                raise InputError(
                    f"'{self.folder}/{file['name']}' was changed after it was written: move it away, or give another "
                    "--to"
                )
        complete = found.files and sizes.keys() >= {file["name"] for file in found.files}
        return found if complete else None

    def write_summary(self, contents: C) -> None:
        text = json.dumps(vars(contents), indent=2, ensure_ascii=False)
        write_bytes(self.folder, self.summary, text.encode())

    def write(self, name: str, data: memoryview, rows: int) -> File:
        return dataclasses.replace(write_bytes(self.folder, name, data), rows=rows)

    def _read(self) -> C:
        """The summary. InputError if a file of its name is none."""
        uri = f"{self.folder}/{self.summary}"
        try:
            return self.contents(**json.loads(read_file(uri)))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"'{uri}' exists and is no summary of a {self.contents.KIND}: move it away, or give another --to"
            ) from error

    def _sizes(self) -> dict[str, int]:
        """The name in `folder` and the bytes of each file that exists: in a folder of all, otherwise of those that are
        written."""
        fs, path = filesystem(self.folder)
        with reading(self.uri):
            if self.whole:
                names = self.name(self.contents.TABLE), self.name(REJECTED), self.summary
                names += (self.page,) * self.contents.PAGE
                infos = fs.get_file_info([f"{path}/{name}" for name in names])
                found = [info for info in infos if info.type != pafs.FileType.NotFound]
            else:
                info = fs.get_file_info(path)
                if info.is_file:
                    return {info.base_name: info.size}
                selector = pafs.FileSelector(path, recursive=True, allow_not_found=True)
                found = [one for one in fs.get_file_info(selector) if one.is_file]
        return {info.path[len(path.rstrip("/")) + 1 :]: info.size or 0 for info in found}
