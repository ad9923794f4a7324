"""Cuts loose files into runs, each of which is a shard.

A run ends after a file whose name says so by its hash. So files that are added or deleted change the run that they are
in, and the other runs stay as they are: their scores are reused.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

RUN = 1024  # files of a run on average; in roots of earlier versions of each run but the last
LEAST = 256
MOST = 4096


def cut(files: Iterator[tuple[str, Any, Any]], by_number: bool) -> Iterator[list[tuple[str, Any, Any]]]:
    """The files in runs; the first field of a file is its line in SHARDS. `by_number`: as earlier versions did."""
    run: list[tuple[str, Any, Any]] = []
    for file in files:
        run.append(file)
        ends = len(run) == RUN if by_number else len(run) == MOST or (len(run) >= LEAST and ends_run(file[0]))
        if ends:
            yield run
            run = []
    if run:
        yield run


def ends_run(line: str) -> bool:
    """Whether a run of at least LEAST files ends after this one."""
    value = hashlib.blake2b(line.encode(), digest_size=8).digest()
    return int.from_bytes(value, "little") % (RUN - LEAST) == 0
