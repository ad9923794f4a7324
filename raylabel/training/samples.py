"""PICKS → SAMPLES: each picked sample once with its labels, in key order; in bounded memory, whatever their number.

The corpus is cut into cells of rows. One map task per run of PICKS sorts its picks by key, and one reduce task per run
of cells merges theirs. The cells depend on the corpus alone. So the digest of the set of samples, a hash of the digests
of the cells, does not depend on their labels, nor on how the work was divided.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from raylabel.compute.progress import PatientProgress
from raylabel.compute.tasks import run_tasks
from raylabel.compute.watchdog import heartbeat
from raylabel.corpus import Shards
from raylabel.schema import SAMPLES, SOFT
from raylabel.store.artifact import Artifact, Built, Draft, File, Root, write_table
from raylabel.store.files import filesystem, reading, write_file
from raylabel.training.soft import add_soft

CELL = 1 << 16  # rows of the corpus; with P labels each, up to P times as many picks
PICKED = 1 << 22  # picks that a task holds, each about 60 bytes while they are sorted; more only if a cell has more
ROWS = 1 << 16  # of a row group of SAMPLES
THREADS = 16  # that read ranges of files; they mostly wait

PAIR = np.dtype([("key", "<i8"), ("label", "<i4")])


def make_samples(root: Root, name: str, picks: Artifact, shards: Shards, scores: Artifact | None = None) -> Artifact:
    """SAMPLES of the picks, the artifact `samples-<name>`, with the columns of SOFT if SCORES are given. Info: samples,
    picks, and keys, a digest of the set of samples: equal for equal sets, whatever their labels."""

    def build(draft: Draft) -> Built:
        scratch, of = draft.scratch("pairs"), Shards(shards.artifact)
        files = picks.files("picks")
        total = sum(file.rows for file in files)
        with PatientProgress(f"sort the picks of {name}", 2 * total, "picks") as progress:
            names = list(_runs(files, PICKED))
            maps = [_sort.remote(scratch, number, picks, some, of) for number, some in enumerate(names)]
            sorted_runs = _results(maps, lambda done: progress.update(done * total // len(maps)))
            runs = [run for some in sorted_runs for run in some]
            counts = np.array([count for _, count in runs])  # [runs, cells]
            ends = np.cumsum(counts, axis=1)
            ranges = list(_ranges(counts.sum(axis=0)))
            reduces = []
            for number, (low, high) in enumerate(ranges):
                begin, end = ends[:, low] - counts[:, low], ends[:, high - 1]
                pieces = [(run, int(b), int(e)) for (run, _), b, e in zip(runs, begin, end, strict=True) if e > b]
                reduces.append(_merge.remote(draft.uri, number, pieces, of, scores))
            merged = _results(reduces, lambda done: progress.update(total + done * total // len(reduces)))
        made, keys = [file for file, _ in merged], _digest_of(cells for _, cells in merged)
        return Built(made, {"samples": sum(file.rows for file in made), "picks": total, "keys": keys})

    identity = {"picks": picks.digest, "shards": shards.artifact.info["content"]}
    identity |= {"scores": scores.digest} if scores else {}
    return root.make(f"samples-{name}", identity, build)


def all_samples(root: Root, name: str, shards: Shards) -> Artifact:
    """SAMPLES of every sample of a corpus, without labels, the artifact `samples-<name>`. Info: as of `make_samples`.

    Nothing but SHARDS is read.
    """

    def build(draft: Draft) -> Built:
        step, cells, of = PICKED // CELL, shards.samples // CELL + 1, Shards(shards.artifact)
        tasks = [(draft.uri, number, of, low, low + step) for number, low in enumerate(range(0, cells, step))]
        made = [one for one in run_tasks(_write_all, tasks) if one]
        files = [file for file, _ in made]
        return Built(files, {"samples": shards.samples, "picks": 0, "keys": _digest_of(cells for _, cells in made)})

    return root.make(f"samples-{name}", {"all": True, "shards": shards.artifact.info["content"]}, build)


def read_samples(samples: Artifact, stretches: Sequence[tuple[int, int]], columns: list[str]) -> list[pa.Table]:
    """Columns of SAMPLES: a table for each stretch (begin, end), of the samples begin..end-1 in key order. Each file is
    opened once."""
    fields = {field.name: field for field in (*SAMPLES, *SOFT)}
    schema, first = pa.schema([fields[name] for name in columns]), 0
    found = [[schema.empty_table()] for _ in stretches]
    for file in samples.files("samples-"):
        ends = [(max(begin - first, 0), min(end - first, file.rows)) for begin, end in stretches]
        first += file.rows
        inside = [(tables, low, high) for tables, (low, high) in zip(found, ends, strict=True) if low < high]
        if not inside:
            continue
        with samples.opened(file) as opened:
            for tables, low, high in inside:
                groups = range(low // ROWS, -(-high // ROWS))
                table = opened.read_row_groups(list(groups), columns=columns, use_threads=False)
                tables.append(table.slice(low - groups.start * ROWS, high - low))
    return [pa.concat_tables(tables) for tables in found]


def _runs(files: list[File], most: int) -> Iterator[list[str]]:
    """The names of the files, in order, in runs of up to `most` rows; a larger file is a run of its own."""
    run, rows = [], 0
    for file in files:
        if run and rows + file.rows > most:
            yield run
            run, rows = [], 0
        run.append(file.name)
        rows += file.rows
    if run:
        yield run


def _ranges(counts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Runs of cells with up to PICKED picks, as (first, end); a cell with more is a run of its own."""
    first, picks = 0, 0
    for cell, count in enumerate(counts.tolist()):
        if picks and picks + count > PICKED:
            yield first, cell
            first, picks = cell, 0
        picks += count
    if picks:
        yield first, len(counts)


def _results(references: list[Any], progress: Any) -> list[Any]:
    waiting = references
    while waiting:
        ready, waiting = ray.wait(waiting)
        ray.get(ready)
        progress(len(references) - len(waiting))
    return ray.get(references)


def _cells(key: np.ndarray, shards: Shards) -> np.ndarray:
    """The cell of each key."""
    starts = np.cumsum(shards.rows) - shards.rows
    return (starts[key >> 32] + (key & 0xFFFFFFFF)) // CELL


def sort_picks(
    folder: str, number: int, picks: Artifact, names: list[str], shards: Shards
) -> list[tuple[str, np.ndarray]]:
    """Writes the picks of some files as sorted runs of PAIR; for each its name and the picks in each cell."""
    fs, path = filesystem(picks.uri)
    found: list[tuple[str, np.ndarray]] = []
    held: list[pa.RecordBatch] = []
    cells = shards.samples // CELL + 1

    def write() -> None:
        pairs = np.empty(sum(map(len, held)), PAIR)
        for column in ("key", "label"):
            pairs[column] = np.concatenate([batch.column(column).to_numpy() for batch in held])
        held.clear()
        pairs = pairs[np.argsort(pairs["key"], kind="stable")]  # the merge sorts by label
        run = f"{folder}/{number:05d}-{len(found):05d}.pairs"
        write_file(run, pairs.data.cast("B"))
        found.append((run, np.bincount(_cells(pairs["key"], shards), minlength=cells)))

    for name in names:
        heartbeat()
        with reading(f"{picks.uri}/{name}"), pq.ParquetFile(f"{path}/{name}", filesystem=fs) as file:
            for batch in file.iter_batches(1 << 20, columns=["label", "key"], use_threads=False):
                held.append(batch)
                if sum(map(len, held)) >= PICKED:
                    write()
    if held:
        write()
    return found


def merge_picks(
    folder: str, number: int, pieces: list[tuple[str, int, int]], shards: Shards, scores: Artifact | None
) -> tuple[File, list[tuple[int, str]]]:
    """Writes the SAMPLES of a range of cells, from pieces of sorted runs (name, begin, end), with SOFT if SCORES are
    given; also the digest of the keys of each cell that has some."""

    def read(piece: tuple[str, int, int]) -> np.ndarray:
        run, begin, end = piece
        fs, path = filesystem(run)
        with reading(run), fs.open_input_file(path) as file:
            return np.frombuffer(file.read_at((end - begin) * PAIR.itemsize, begin * PAIR.itemsize), PAIR)

    with ThreadPoolExecutor(THREADS) as pool:
        pairs = np.concatenate(list(pool.map(read, pieces)))
    heartbeat()
    order = np.lexsort((pairs["label"], pairs["key"]))
    label, key = pairs["label"][order], pairs["key"][order]
    del pairs, order
    firsts = np.flatnonzero(np.diff(key, prepend=-1))  # where a new key begins; its labels end before the next one
    table = samples_table(key[firsts], np.append(firsts, len(key)), label)
    table = add_soft(table, scores, shards) if scores else table
    groups = [table.slice(i, ROWS) for i in range(0, len(table), ROWS)]
    file = write_table(folder, f"samples-{number:05d}.parquet", *groups)
    return file, _digests(key[firsts], shards)


def _write_all(
    folder: str, number: int, shards: Shards, low: int, high: int
) -> tuple[File, list[tuple[int, str]]] | None:
    """As `merge_picks`, of all rows of the cells low..high-1; None if there are none."""
    rows = np.arange(low * CELL, min(high * CELL, shards.samples), dtype=np.int64)
    if not len(rows):
        return None
    ends = np.cumsum(shards.rows)
    shard = np.searchsorted(ends, rows, side="right")
    key = (shard << 32) + rows - (ends - shards.rows)[shard]
    table = samples_table(key, np.zeros(len(key) + 1, np.int64), np.empty(0, np.int64))
    groups = [table.slice(first, ROWS) for first in range(0, len(table), ROWS)]
    return write_table(folder, f"samples-{number:05d}.parquet", *groups), _digests(key, shards)


def _digests(key: np.ndarray, shards: Shards) -> list[tuple[int, str]]:
    """(cell, digest of its keys) of keys in order."""
    cell, first = np.unique(_cells(key, shards), return_index=True)
    parts = np.split(key, first[1:])
    digests = [hashlib.sha256(np.ascontiguousarray(part, "<i8").tobytes()).hexdigest() for part in parts]
    return list(zip(cell.tolist(), digests, strict=True))


def _digest_of(cells: Iterable[list[tuple[int, str]]]) -> str:
    """That of the set of samples."""
    digests = dict(cell for some in cells for cell in some)
    return hashlib.sha256("".join(f"{cell} {digests[cell]}\n" for cell in sorted(digests)).encode()).hexdigest()


_sort = ray.remote(num_cpus=1, max_retries=3)(sort_picks)
_merge = ray.remote(num_cpus=1, max_retries=3)(merge_picks)


def samples_table(key: np.ndarray, ends: np.ndarray, label: np.ndarray) -> pa.Table:
    """SAMPLES of n keys. The labels of sample i are label[ends[i]:ends[i + 1]]; ends: integers [n + 1]."""
    lists = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(label, pa.int32()))
    return pa.Table.from_arrays([pa.array(key, pa.int64()), lists], schema=SAMPLES)
