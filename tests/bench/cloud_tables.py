"""Figures of issue 14 about scores, their reuse and the selection: rows 9, 11 and 13.

python tests/bench/cloud_tables.py 9 11 13       # the numbers of the rows; 13 takes minutes and 5 GB of disk
"""

import dataclasses
import functools
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import cloud
import numpy as np
import pyarrow as pa
from bench_select import FILE_ROWS, make_scores
from cloud import Requests
from figures import print_value

from raylabel.corpus import Shards, Units
from raylabel.inference.pool import _commit, _together
from raylabel.inference.reuse import Earlier
from raylabel.inference.scorer import RANKED
from raylabel.inference.scores import _part
from raylabel.schema import PICKS, SCORES, SHARDS
from raylabel.selection.candidates import Scored
from raylabel.selection.config import Select
from raylabel.selection.select import (
    GROUP_CANDIDATES,
    KEYS,
    SelectionTask,
    _count_keys,
    _write_candidates,
    _write_picks,
    write_keys,
)
from raylabel.store.artifact import Artifact, Built, Draft, File, Root, write_table


def row_9() -> None:
    """See cloud_head.py."""
    import cloud_head

    cloud_head.row_9()


# ---- row 11 ----

SCORING = 1e6 / 1390  # microseconds of CPU for an image of 500×375: `label` decodes 1,390 a second and core


def row_11(units: int = 2048) -> None:
    """Growth by 1%: requests and bytes of the earlier SCORES, and CPU seconds, of the tasks that commit reused parts.

    SCORES of `units` units of 1,024 images, one shard each; P = 10. The new shards are at the end, or spread over the
    corpus. The cost of scoring is taken to be the CPU time of decoding, SCORING: a network adds to it, and so makes the
    share of reuse smaller.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = cloud.SlowFiles(f"{folder}/store", f"{folder}/log", latency=0, rate=1e12)
        cloud.install(store)
        try:
            root, names = Root("s3://bucket/root"), [f"file{i:06d}" for i in range(units)]
            rows = np.full(units, 1024)
            was = _shards(root, names, rows)
            scores = root.make("scores", {"of": "earlier"}, functools.partial(_write_scores, units))
            bytes_ = sum(file.bytes for file in scores.files())
            for where, fresh in (("at the end", range(units, units + units // 100)), ("spread", range(50, units, 100))):
                new = {f"file{i:06d}{'' if i >= units else 'x'}" for i in fresh}
                now = _shards(root, sorted([*names, *new]), np.full(units + len(new), 1024))
                _grow(store, f"{units} units, 1% of new shards {where}", scores, bytes_, was, now)
        finally:
            cloud.uninstall()


def _grow(store: cloud.SlowFiles, what: str, scores: Artifact, bytes_: int, was: Shards, now: Shards) -> None:
    earlier, units = Earlier(scores, was, now, 1024, 64), Units(now.rows, 1024)
    start = time.process_time()
    parts = [_part(units, earlier, number) for number in range(-(-len(units) // 64))]
    driver, before = time.process_time() - start, len(store.requests())
    for run in _together((part, []) for part in parts):
        pieces = [dataclasses.replace(part, units=()) for part, _ in run]  # new units are scored elsewhere
        _commit._function(f"{scores.uri}-grown", RANKED, False, pieces, [[]] * len(pieces))  # pyright: ignore
    seconds = time.process_time() - start
    made = Requests(store.requests()[before:]).of("/scores-", "GET", "HEAD")
    read, files = made.of(scores.uri.removeprefix("s3://") + "/"), [file.name for file in scores.files("scores-")]
    each = [len(read.of(name, "GET")) for name in files]
    print_value("row 11", f"{what}: CPU to make all parts in the driver", [1e6 * driver / len(units)], "us a unit")
    print_value("row 11", f"{what}: requests for each earlier file", [len(read) / len(files)], "requests")
    print_value("row 11", f"{what}: reads of each earlier file", each, "reads", "65 in the version before")
    print_value("row 11", f"{what}: reads of each earlier byte", [read.bytes / bytes_], "reads")
    print_value("row 11", f"{what}: CPU of reuse", [1e6 * seconds / was.samples], "us a row")
    grown = seconds + SCORING / 1e6 * (now.samples - was.samples)
    share = 100 * grown / (SCORING / 1e6 * was.samples)
    print_value("row 11", f"{what}: growth, if an image takes {SCORING:.0f} us of CPU, over scoring all", [share], "%")


def _shards(root: Root, names: list[str], rows: np.ndarray) -> Shards:
    columns = {"shard": range(len(names)), "uri": names, "format": ["parquet"] * len(names), "rows": rows}
    columns |= {"bytes": [1] * len(names), "fingerprint": names}
    columns |= {name: [[]] * len(names) for name in SHARDS.names if name not in columns}
    table = pa.Table.from_pydict(columns, schema=SHARDS)
    return Shards(
        root.make(
            "shards-unlabeled",
            {"corpus": {}, "names": len(names), "first": names[60]},
            lambda draft: Built([write_table(draft.uri, "shards-00000.parquet", table)], {}),
        )
    )


def _write_scores(units: int, draft: Draft) -> Built:
    """SCORES of units of 1,024 rows, one shard each."""
    table = make_scores(0, 64 * 1024)
    row = np.arange(64 * 1024)
    files = []
    for part in range(units // 64):
        key = ((row // 1024 + 64 * part) << 32) + row % 1024
        files.append(
            write_table(
                draft.uri, f"scores-{part:06d}.parquet", table.set_column(0, SCORES.field("key"), pa.array(key))
            )
        )
    return Built(files, {"rejected": 0, "p": 10})


# ---- row 13 ----


def row_13(classes: int = 21_000, k: int = 16_000) -> None:
    """Peak resident memory of each kind of process of a selection of K of each of C classes, of 1e9 samples.

    Each kind is run alone, with the rows that one process has at that size: a map task has GROUP_CANDIDATES candidates
    of classes that are equally frequent, and a reduce task the K best of its 64 classes from 20 files. The page reads
    PICKS of which only the files that it needs exist.
    """
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as folder:
        rows = GROUP_CANDIDATES // 10
        with ProcessPoolExecutor() as workers:
            numbers = range(-(-rows // FILE_ROWS))
            files = list(workers.map(functools.partial(_uniform_scores, folder, classes), numbers, chunksize=8))
        task = SelectionTask(
            scores=Scored(folder=folder, kept=10, classes=classes, grouped=False),
            copies=[],
            removed=[],
            config=Select(k=k, p=10),
            lengths=np.full(classes, k),
            scratch=f"{folder}/scratch",
            key_bits=(classes * k // KEYS).bit_length(),
            out=f"{folder}/out",
        )
        names = [file.name for file in files]
        for grouped in (False, True):
            written = _peak(
                "map task" + ", with groups" * grouped,
                _write_candidates,
                dataclasses.replace(task, scores=dataclasses.replace(task.scores, grouped=grouped)),
                names,
                f"{grouped}",
            )
            print_value("row 13", "files of candidates of a map task", [len(written)], "files")
            if not grouped:
                picked = _peak("reduce task", _write_picks, task, written * 20, 3)
                many = dataclasses.replace(task, key_bits=0)
                keys = [
                    write_keys(many.scratch, np.random.default_rng(i).integers(0, 10**9, KEYS // 16), i, many.key_bits)
                    for i in range(16)
                ]
                _peak("counting the samples", _count_keys, task.scratch, keys, 0)
                assert picked[0].rows == 64 * k
        _peak("the picks that the page shows, in the driver", _strips, folder, classes, k)


def _strips(folder: str, classes: int, k: int) -> None:
    from raylabel.report.run import shown_picks

    shown = np.linspace(0, classes - 1, 10).round().astype(int)
    needed = {c // 64 for c in shown.tolist()}

    def build(draft: Draft) -> Built:
        files = []
        for number in range(-(-classes // 64)):
            low, high = number * 64, min(number * 64 + 64, classes)
            name, count = f"picks-{number:05d}.parquet", (high - low) * k
            files.append(File(name, count, 0, ""))
            if number in needed:
                columns = [
                    np.repeat(np.arange(low, high), k),
                    np.tile(np.arange(1, k + 1), high - low),
                    np.zeros(count),
                    np.arange(count),
                ]
                write_table(
                    draft.uri,
                    name,
                    pa.table([pa.array(c).cast(f.type) for c, f in zip(columns, PICKS, strict=True)], schema=PICKS),
                )
        return Built(files, {"per_class": [k] * classes})

    picks = Root.open(folder).make("picks", {}, build)
    print_value("row 13", "the driver before, with PyTorch and Ray imported", [_status("VmRSS") / 1e6], "MB")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    label, rank, *_ = shown_picks(picks, shown)
    assert sorted(set(label.tolist())) == shown.tolist() and rank.max() == k


def _uniform_scores(folder: str, classes: int, number: int) -> File:
    """A file of SCORES in which all classes are equally frequent."""
    rng, table = np.random.default_rng(number), make_scores(number)
    first = rng.integers(0, classes, FILE_ROWS)[:, None] + np.arange(10) * (classes // 10)
    values = pa.array((first % classes).astype(np.int32).ravel())
    lists = pa.ListArray.from_arrays(table.column("classes").chunk(0).offsets, values)
    return write_table(folder, f"scores-{number:06d}.parquet", table.set_column(3, SCORES.field("classes"), lists))


def _peak(what: str, work: Callable[..., Any], *arguments: Any) -> Any:
    """Runs work in a new process, and prints its peak resident memory."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        result, memory, seconds = pool.submit(_measured, work, arguments).result()
    print_value("row 13", f"{what}: peak memory of the process", [memory / 1e6], "MB")
    print_value("row 13", f"{what}: CPU", [seconds], "s")
    return result


def _measured(work: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, float, float]:
    start = time.process_time()
    result = work(*arguments)
    return result, _status("VmHWM"), time.process_time() - start


def _status(field: str) -> float:
    """Bytes of a field of this process's status."""
    return 1024.0 * int(Path("/proc/self/status").read_text().partition(f"{field}:")[2].split()[0])


def main() -> None:
    for number in sys.argv[1:] or ["9", "11", "13"]:
        globals()[f"row_{number}"]()


if __name__ == "__main__":
    main()
