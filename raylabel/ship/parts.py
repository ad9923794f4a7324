"""The parts of SCORES or PICTURES, from which tasks write tables for other programs; and where their samples are."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import ray

from raylabel.compute.progress import PatientProgress
from raylabel.compute.tasks import CHUNK, chunks, fetch
from raylabel.compute.watchdog import heartbeat
from raylabel.corpus import Corpus, Shards, Units
from raylabel.corpus.addresses import addresses
from raylabel.corpus.config import THREADS
from raylabel.inference.reuse import read_part
from raylabel.schema import LEFT_OUT, make_key
from raylabel.ship.encode import encode
from raylabel.ship.output import REJECTED, Output
from raylabel.store.artifact import Artifact, File


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part: its number, and how many samples were read and rejected."""

    number: int
    scored: int
    rejected: int


def parts_of(made: Artifact) -> list[Part]:
    """The parts of SCORES or PICTURES."""
    rows = {file.name: file.rows for file in made.files()}
    return [
        Part(
            number=number,
            scored=rows[f"{made.name}-{number:06d}.parquet"],
            rejected=rows.get(f"rejects-{number:06d}.parquet", 0),
        )
        for number in range(len(made.files(f"{made.name}-")))
    ]


@dataclass(frozen=True)
class Places:
    """Where the samples of SCORES or PICTURES are, as a user names them. Plain data, so that Ray can send it."""

    folder: str
    """Of the artifact."""
    corpus: Corpus
    shards: Shards
    named: bool
    """Whether it has NAMES."""
    unit: int
    """Rows of a unit."""
    part: int
    """Units of a part."""

    @classmethod
    def of(cls, made: Artifact, corpus: Corpus, shards: Shards) -> Self:
        return cls(made.uri, corpus, shards, made.identity.get("names", False), *made.identity["unit"])

    def parts(self, key: np.ndarray) -> np.ndarray:
        """int64 [n]: the numbers of the parts of keys int64 [n]."""
        return Units(self.shards.rows, self.unit).containing(key >> 32, key & 0xFFFFFFFF) // self.part

    def addresses(self, key: np.ndarray) -> list[str]:
        """The addresses of keys, ascending. Each part that has some of them is read once, if it has NAMES."""
        found, names = list[str](), self._names(key) if self.named else [""] * len(key)
        numbers, first = np.unique(key >> 32, return_index=True)
        for number, start, end in zip(numbers.tolist(), first, [*first[1:], len(key)], strict=True):
            rows = (key[start:end] - make_key(number, 0)).tolist()
            found += addresses(self.corpus, self.shards.row(number), rows, names[start:end])
        return found

    def _names(self, key: np.ndarray) -> list[str]:
        def read(number: int, some: np.ndarray) -> list[str]:
            heartbeat()
            known = read_part(self.folder, "names", number)
            return (
                known.column("name").take(pa.array(np.searchsorted(known.column("key").to_numpy(), some))).to_pylist()
            )

        numbers, first = np.unique(self.parts(key), return_index=True)
        with ThreadPoolExecutor(THREADS) as pool:
            found = pool.map(read, numbers.tolist(), np.split(key, first[1:]))
            return [name for names in found for name in names]


def write_parts(
    write: Any, writing: Any, parts: list[Part], whole: bool, title: str, most: int = CHUNK
) -> Iterator[tuple[list[File], Any]]:
    """What the remote function `write` returns of `writing` and each run of parts: the files that it wrote, and what it
    found. `whole`: one run; otherwise runs of at most `most` parts. `title`: of the progress line."""
    size = min(most, len(chunks(len(parts))[0]))
    runs = [parts] if whole else [parts[first : first + size] for first in range(0, len(parts), size)]
    shared: Any = ray.put(writing)
    tasks, done = [write.remote(shared, run) for run in runs], 0
    with PatientProgress(title, sum(part.scored for part in parts), "samples") as progress:
        for run, task in zip(runs, tasks, strict=True):
            yield fetch(task)
            progress.update(done := done + sum(part.scored for part in run))


def write_files(
    output: Output[Any],
    places: Places,
    parts: list[Part],
    schema: pa.Schema,
    table: Callable[[list[Part]], Iterable[pa.Table]],
    p: int = 0,
) -> list[File]:
    """Writes the table and the rejects of some parts, all into one file or each into its own. `table`: the tables of
    some parts, of the schema; `p`: of PREDICTIONS."""
    files = list[File]()
    for run in [parts] if output.whole else [[part] for part in parts]:
        rejected = sum(part.rejected for part in run)
        if rejected or output.whole:  # the file says that there are none
            data = encode(output.form, LEFT_OUT, _left_out(places, run))
            files.append(output.write(output.name(REJECTED, run[0].number), data, rejected))
        counted = _Counted(table(run))
        data = encode(output.form, schema, counted, p)
        files.append(output.write(output.name(output.contents.TABLE, run[0].number), data, counted.rows))
    return files


class _Counted:
    """Tables whose rows are counted as they pass."""

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        self._tables, self.rows = tables, 0

    def __iter__(self) -> Iterator[pa.Table]:
        for table in self._tables:
            self.rows += len(table)
            yield table


def _left_out(places: Places, parts: list[Part]) -> Iterator[pa.Table]:
    """LEFT_OUT of each part."""
    for part in parts:
        if part.rejected:
            heartbeat()
            rejects = read_part(places.folder, "rejects", part.number)
            uris = pa.array(places.addresses(rejects.column("key").to_numpy()), pa.string())
            # Not the URI in REJECTS: what was made of a corpus serves a copy of it elsewhere.
            columns = [uris, *(rejects.column(name) for name in LEFT_OUT.names[1:])]
            yield pa.Table.from_arrays(columns, schema=LEFT_OUT)


def as_dicts(files: Iterable[File]) -> list[dict[str, Any]]:
    """For the summary."""
    return [dataclasses.asdict(file) for file in files]
