"""PICKS of loose files as lists that raylabel reads as a labeled corpus: a CSV for each file of PICKS, no media."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from raylabel.compute.watchdog import heartbeat
from raylabel.corpus import Corpus, Shards
from raylabel.corpus.addresses import entries
from raylabel.errors import InputError
from raylabel.schema import PICKS
from raylabel.selection.shuffle import open_table
from raylabel.store.artifact import Artifact
from raylabel.store.files import write_file

CLASSES = "classes.txt"
SEPARATORS = "\t\r\n"
FIX = "give --format hf or webdataset"


@dataclass(frozen=True, kw_only=True)
class ListTask:
    """What is written. Plain data, so that Ray can send it."""

    picks: Artifact
    classes: tuple[str, ...]
    corpus: Corpus
    shards: Shards
    out: str
    done: str
    """Folder of the records of what is written."""


def check_listable(shards: Shards, classes: Sequence[str]) -> None:
    """InputError if samples of the corpus have no paths, or a list cannot have the name of a class."""
    if shards.format != "files":
        what = "rows of parquet files" if shards.format == "parquet" else "members of tars"
        raise InputError(f"the samples are {what}, which a list cannot name: {FIX}, which have the media")
    if bad := [name for name in classes if any(letter in name for letter in SEPARATORS)]:
        raise InputError(f"class {bad[0]!r} has a TAB or a line end, which a list cannot have: {FIX}")


def write_list(task: ListTask, number: int) -> dict[str, Any]:
    """Writes the list of a file of PICKS, in their order. Writing the record, which is returned, commits it."""
    file = task.picks.files("picks-")[number]
    with open_table(task.picks.uri, file.name, PICKS) as opened:
        picks = opened.read()
    columns = {"path": [], "start": [], "end": []}
    key, index = np.unique(picks.column("key").to_numpy(), return_inverse=True)
    numbers, firsts = np.unique(key >> 32, return_index=True)
    for shard, keys in zip(numbers.tolist(), np.split(key, firsts[1:]), strict=True) if len(key) else ():
        heartbeat()
        for entry in entries(task.corpus, task.shards.row(shard), (keys & 0xFFFFFFFF).tolist()):
            if any(letter in entry.path for letter in SEPARATORS):
                raise InputError(f"file {entry.path!r} has a TAB or a line end, which a list cannot have: {FIX}")
            for name, column in columns.items():
                column.append(getattr(entry, name))
    found = {name: pa.array(column, pa.string()).take(pa.array(index)) for name, column in columns.items()}
    table = {"path": found["path"], "label": pa.array(task.classes, pa.string()).take(picks.column("label"))}
    if task.corpus.kind == "video":
        table |= {name: found[name] for name in ("start", "end")}
    table |= {name: picks.column(name) for name in ("rank", "score")}
    sink = io.BytesIO()
    pacsv.write_csv(pa.table(table), sink)
    name = f"picks-{number:05d}.csv"
    write_file(f"{task.out}/{name}", sink.getbuffer())
    files = [{"name": name, "rows": len(picks), "bytes": sink.getbuffer().nbytes}]
    record = {"number": number, "picks": len(picks), "files": files}
    write_file(f"{task.done}/{number:06d}.json", json.dumps(record).encode())
    return record
