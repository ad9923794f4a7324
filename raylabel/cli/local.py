"""What a command does that needs no Ray: parse the command line, run, and end with a readable message."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pyarrow.fs as pafs
import tyro

from raylabel.cli.exit import readable
from raylabel.cli.main import with_commands
from raylabel.cli.output import guard_output
from raylabel.errors import InputError
from raylabel.store.artifact import Root
from raylabel.store.files import filesystem, is_local, reading

T = TypeVar("T")


@contextmanager
def parsed(description: str, kind: type[T]) -> Iterator[T]:
    """The options of the command line. If the block fails or is stopped, the process ends: see `exit`."""
    guard_output()
    with readable():
        yield tyro.cli(kind, description=with_commands(description))


def existing_root(uri: str) -> Root:
    """The root at `uri`, in which nothing is written. InputError if there is none."""
    fs, path = filesystem(uri)
    with reading(uri):
        kind = fs.get_file_info(path).type
    if kind == pafs.FileType.File or (kind == pafs.FileType.NotFound and is_local(uri)):
        raise InputError(f"there is no root '{uri}': give the folder of all results as --root")
    return Root(path if is_local(uri) else uri.rstrip("/"))
