"""Tasks over runs of SCORES files, and the files they exchange: what one writes in parts, others read part by part.

A file's name says all that its bytes depend on, so a task that runs twice does no harm. The driver holds names only.
"""

import io
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import ray

from raylabel.compute.watchdog import beat, moved
from raylabel.schema import SCORES, check
from raylabel.store.artifact import File
from raylabel.store.files import filesystem, reading, write_file

BATCH_ROWS = 65_536  # rows read at a time; small enough that a batch's columns stay in the CPU's cache

T = TypeVar("T")


def run_tasks(
    task: Callable[..., T], arguments: Iterable[tuple[Any, ...]], tell: Callable[[float], None] | None = None
) -> list[T]:
    """The results of `task` on each tuple of arguments, in order, run by Ray; `tell` hears the share that is done."""
    # Where one fails the others run to their end, which does no harm. No ray.cancel: where it meets the reply of a task
    # that is just done, Ray 2.60 aborts the driver (task_manager.cc, "Tried to complete task that was not pending").
    references = [_remote(task).remote(*a) for a in arguments]
    waiting = references
    while waiting:
        ready, waiting = ray.wait(waiting)
        ray.get(ready)
        moved()
        if tell:
            tell(1 - len(waiting) / len(references))
    return ray.get(references)


@cache
def _remote(task: Callable[..., Any]) -> Any:
    return ray.remote(num_cpus=1, max_retries=3)(task)  # once per function: Ray exports each one it is given


def group_files(files: list[File], count: int) -> list[list[str]]:
    """The names of `files`, in order, cut into at most `count` runs of about equal rows; at least one run."""
    ends = np.cumsum([f.rows for f in files])
    total = max(1, int(ends[-1])) if files else 1
    middle = {f.name: int(end) - f.rows // 2 for f, end in zip(files, ends, strict=True)}
    runs = itertools.groupby(middle, key=lambda name: min(middle[name] * count // total, count - 1))
    return [list(run) for _, run in runs] or [[]]


def group_name(index: int, groups: list[list[str]]) -> str:
    # With the count in the name, a file that a stopped run left, cut otherwise, is never taken for one of this run.
    return f"{index:05d}-of-{len(groups):05d}"


@contextmanager
def open_scores(folder: str, name: str) -> Iterator[pq.ParquetFile]:
    """A file of SCORES. InputError if its columns are others, or if it cannot be read."""
    beat()  # a task reads as many as its share of the corpus has
    fs, path = filesystem(folder)
    where = f"{folder}/{name}"
    with reading(where), pq.ParquetFile(f"{path}/{name}", filesystem=fs) as file:
        check(file.schema_arrow.empty_table(), SCORES, where)
        yield file


def write_parts(folder: str, name: str, schema: pa.Schema, parts: Iterable[list[np.ndarray]]) -> str:
    """Writes columns, part by part, as one file that `read_part` reads; returns its name."""
    # Arrow's own format: any part is found by its number at the cost of a footer of 24 bytes a part, where parquet
    # has one of some hundred bytes for each column of each part, which many readers of many parts would all parse.
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, schema) as writer:
        for columns in parts:
            writer.write_batch(pa.record_batch(columns, schema=schema))
    write_file(f"{folder}/{name}", sink.getbuffer())
    return name


def read_part(folder: str, name: str, part: int) -> list[np.ndarray]:
    """The columns of one part, from 0, of a file of `write_parts`. No other part is read."""
    fs, path = filesystem(folder)
    with reading(f"{folder}/{name}"), fs.open_input_file(f"{path}/{name}") as file:
        batch = pa.ipc.open_file(file).get_batch(part)
        return [column.to_numpy() for column in batch.columns]
