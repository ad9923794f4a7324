"""Runs of SCORES files for map and reduce tasks, and the partitioned files that these exchange.

The name of a file contains everything that its bytes depend on, so a task may run twice. The driver holds only names.
"""

import io
import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from raylabel.compute.watchdog import heartbeat
from raylabel.schema import check
from raylabel.store.artifact import File
from raylabel.store.files import filesystem, reading, write_file

BATCH_ROWS = 65_536  # rows read at a time; small enough that a batch's columns stay in the CPU's cache


def group_files(files: list[File], count: int) -> list[list[str]]:
    """The names of `files`, in order, cut into at most `count` runs of about equal rows; at least one run."""
    ends = np.cumsum([f.rows for f in files])
    total = max(1, int(ends[-1])) if files else 1
    middle = {f.name: int(end) - f.rows // 2 for f, end in zip(files, ends, strict=True)}
    runs = itertools.groupby(middle, key=lambda name: min(middle[name] * count // total, count - 1))
    return [list(run) for _, run in runs] or [[]]


def group_name(index: int, groups: list[list[str]]) -> str:
    # The count is in the name so that a file of a stopped run, which had other groups, is never read in this run.
    return f"{index:05d}-of-{len(groups):05d}"


@contextmanager
def open_table(folder: str, name: str, schema: pa.Schema) -> Iterator[pq.ParquetFile]:
    """A file of a table. InputError if it has other columns than the schema or cannot be read."""
    heartbeat()  # one task reads many files
    fs, path = filesystem(folder)
    where = f"{folder}/{name}"
    with reading(where), pq.ParquetFile(f"{path}/{name}", filesystem=fs) as file:
        check(file.schema_arrow.empty_table(), schema, where)
        yield file


def write_partitions(folder: str, name: str, schema: pa.Schema, partitions: Iterable[list[np.ndarray]]) -> str:
    """Writes columns, one partition after another, as one file for `read_partition`; returns its name."""
    # Arrow's IPC format finds a partition by its number and has a footer of 24 bytes per partition. Parquet has about a
    # hundred bytes for each column of each partition, which every reader would parse.
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, schema) as writer:
        for columns in partitions:
            writer.write_batch(pa.record_batch(columns, schema=schema))
    write_file(f"{folder}/{name}", sink.getbuffer())
    return name


def read_partition(folder: str, name: str, number: int) -> list[np.ndarray]:
    """The columns of one partition, counted from 0, of a file of `write_partitions`. No other partition is read."""
    fs, path = filesystem(folder)
    with reading(f"{folder}/{name}"), fs.open_input_file(f"{path}/{name}") as file:
        batch = pa.ipc.open_file(file).get_batch(number)
        return [column.to_numpy() for column in batch.columns]
