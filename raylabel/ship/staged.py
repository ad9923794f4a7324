"""A folder for other programs that is complete where it can be found.

On a disk the files are written into a folder beside it, which is renamed at the end. An object store cannot rename: the
files are written in place, and the summary says whether they are all there. In both cases the same command continues
what a killed one has begun.
"""

import json
import os
from dataclasses import dataclass
from typing import Any, Self

import pyarrow.fs as pafs

from raylabel.corpus.apart import inside
from raylabel.corpus.config import absolute
from raylabel.errors import InputError
from raylabel.store.artifact import Draft
from raylabel.store.files import delete_folder, filesystem, is_local, list_files, read_file, sweep, write_file, writing

SUMMARY = "export.json"


@dataclass(frozen=True)
class Staged:
    """A folder that is written by tasks."""

    uri: str
    """As an absolute path, or s3://, gs://."""
    digest: str
    """Identifies its contents."""

    @classmethod
    def of(cls, to: str, digest: str) -> Self:
        return cls(absolute(to.rstrip("/")), digest)

    @property
    def folder(self) -> str:
        """Where its files are written."""
        return f"{self.uri}.{self.digest}.tmp" if is_local(self.uri) else self.uri

    @property
    def scratch(self) -> str:
        """A folder for files that are deleted at the end."""
        return Draft(self.folder).scratch("export")

    def check_outside(self, folders: dict[str, str]) -> None:
        """InputError if it is in one of these folders. `folders`: the folder → what it is."""
        for folder, what in folders.items():
            if inside(self.uri, absolute(folder)):
                raise InputError(f"to is '{self.uri}', in the {what} '{folder}' itself: give a place outside of it")

    def claim(self) -> dict[str, Any] | None:
        """The summary, if the folder is complete; otherwise None, and the folder may be written. InputError if
        something else is there."""
        found = self._read()
        if found and found["export"] == self.digest and found["complete"]:
            return found
        if (found and found["export"] != self.digest) or (not found and self._exists()):
            raise InputError(f"'{self.uri}' exists, and is another export: delete it, or give another --to")
        return None

    def begin(self, summary: dict[str, Any]) -> None:
        """Writes the summary before the other files."""
        self._write(summary, complete=False)

    def finish(self, summary: dict[str, Any]) -> None:
        """Writes the summary after the other files, and gives the folder its name."""
        delete_folder(f"{self.folder}/scratch")
        self._write(summary, complete=True)
        if self.folder != self.uri:
            sweep(self.folder)
            with writing(self.uri):
                os.rename(self.folder, self.uri)  # fails if a folder with files was made there since

    def _write(self, summary: dict[str, Any], complete: bool) -> None:
        contents = {"export": self.digest, "complete": complete, **summary}
        write_file(f"{self.folder}/{SUMMARY}", json.dumps(contents, indent=2, ensure_ascii=False).encode())

    def _read(self) -> dict[str, Any] | None:
        return read_summary(f"{self.uri}/{SUMMARY}") or None

    def _exists(self) -> bool:
        fs, path = filesystem(self.uri)
        return fs.get_file_info(path).type != pafs.FileType.NotFound or bool(list_files(self.uri))


def read_summary(uri: str) -> dict[str, Any]:
    """The summary of an export; empty if there is none, or if the file is of another program."""
    fs, path = filesystem(uri)
    if not fs.get_file_info(path).is_file:
        return {}
    try:
        found = json.loads(read_file(uri))
        return found if {"export", "complete"} <= found.keys() else {}
    except (ValueError, AttributeError):
        return {}
