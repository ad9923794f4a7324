"""What indexing and reading a corpus in an object store costs: requests, bytes and heartbeats, by counting them.

python tests/bench/cloud_corpus.py
"""

import hashlib
import io
import itertools
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from figures import print_value
from pytest import MonkeyPatch

from raylabel.corpus import Corpus, Unit, Units, fingerprint, forward, read_rows, read_unit
from raylabel.corpus.fingerprint import Known, file_sizes, measure_files, measure_packed
from raylabel.corpus.runs import cut

sys.path.append(str(Path(__file__).resolve().parents[1] / "support"))  # where a bench does not look by itself
from cloud import LATENCY, STREAM, SlowFiles, install, uninstall  # noqa: E402  (its folder is added above)

SAMPLES, MEAN = 5000, 20_000  # of the tar: 100 MB, 5 units
SHARED = 1.5e9  # bytes per second that all streams share
TARS, TAR_BYTES = 1024, 1e9
VIDEOS, OF_A_TASK = 240_000, 32_768
FILES = 4096  # whose sizes are requested here


@contextmanager
def bucket() -> Iterator[tuple[Path, list[tuple[str, int]]]]:
    """(the folder of s3://b, the requests to it with their bytes and the heartbeats, in order). It does not wait."""
    events: list[tuple[str, int]] = []
    with tempfile.TemporaryDirectory() as folder, MonkeyPatch.context() as patch:
        patch.setattr(SlowFiles, "answer", lambda self, kind, key, count=0: events.append((kind, count)))
        for module in (fingerprint, forward):
            patch.setattr(module, "heartbeat", lambda: events.append(("beat", 0)))
        Path(folder, "b").mkdir()
        install(SlowFiles(folder, ""))
        try:
            yield Path(folder, "b"), events
        finally:
            uninstall()


def write_tar(path: Path, samples: int, mean: int) -> None:
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(samples):
            for extension, size in (("cls", 1), ("jpg", int(rng.integers(mean // 2, mean * 3 // 2)))):
                info = tarfile.TarInfo(f"{number:06}.{extension}")
                info.size = size
                tar.addfile(info, io.BytesIO(rng.bytes(size)))


def row_1() -> None:
    """Bytes and requests of a tar, for its first and second indexing and for scoring."""
    with bucket() as (folder, events):
        write_tar(folder / "x.tar", SAMPLES, MEAN)
        size, uri = (folder / "x.tar").stat().st_size, "s3://b/x.tar"
        corpus = Corpus(uri=(uri,))

        def counted(what: str, work: Callable[[], Any]) -> Any:
            events.clear()
            found = work()
            requests = [count for kind, count in events if kind != "beat"]
            print_value("corpus", f"row 1: {what}: bytes read / bytes of the tar", [sum(requests) / size], "x")
            print_value("corpus", f"row 1: {what}: requests", [len(requests)], "")
            return found

        def index(known: Known | None = None) -> Any:
            return measure_packed(corpus, uri, "webdataset", known, streams=4)

        rows, count, mark, tar = counted("first indexing", index)
        counted("second indexing", lambda: index(Known(rows, count, mark, tar)))
        write_index(folder / "x.tar")
        counted("first indexing with an index file", index)
        starts = [{"row": row, "byte": byte} for row, byte in tar.starts]
        shard = {"shard": 0, "uri": uri, "format": "webdataset", "rows": rows, "bytes": count, "fingerprint": mark}
        shard |= {"paths": [], "starts": starts}
        units = Units(np.array([rows]), 1024)
        counted("scoring, unit by unit", lambda: [drain(read_unit(corpus, shard, unit)) for unit in units])
        counted("scoring, one run of units", lambda: drain(read_unit(corpus, shard, Unit(0, 0, rows))))
        counted("one unit in a new process", lambda: drain(read_unit(corpus, shard, units[3])))
        counted("64 samples of 5,000", lambda: drain(read_rows(corpus, shard, range(10, rows, 78))))
        counted("one sample", lambda: drain(read_rows(corpus, shard, [3100])))


def drain(samples: Iterator[Any]) -> None:
    for _ in samples:
        pass


def write_index(path: Path) -> None:
    """As wds2idx of DALI."""
    with tarfile.open(path) as tar:
        lines = [f"{m.name.partition('.')[2]} {m.offset_data} {m.size} {m.name}\n" for m in tar.getmembers()]
    path.with_suffix(".idx").write_text(f"v1.2 {len(lines)}\n" + "".join(lines))


def row_2() -> None:
    """The longest time without a heartbeat, from what is requested between two of them."""
    with bucket() as (folder, events):
        for number in range(FILES):
            (folder / f"{number}.mp4").touch()
        flight, most, lock = 0, 0, threading.Lock()
        stat = fingerprint._stat

        def watched(location: str) -> tuple[int, int]:
            nonlocal flight, most
            with lock:
                flight += 1
                most = max(most, flight)
            barrier.wait()
            found = stat(location)
            with lock:
                flight -= 1
            return found

        barrier = threading.Barrier(fingerprint.REQUESTS)  # FILES is a multiple of it
        fingerprint._stat = watched
        try:
            file_sizes("s3://b/all.txt", [f"{number}.mp4" for number in range(FILES)])
        finally:
            fingerprint._stat = stat
        heads, gap = sum(kind == "HEAD" for kind, _ in events), longest(events, lambda run: len(run))
        print_value("corpus", "row 2: requests per listed file", [heads / FILES], "")
        print_value("corpus", "row 2: HEADs in flight in a task", [most], "")
        print_value("corpus", "row 2: HEADs without a heartbeat between them, at most", [gap], "")
        whole = OF_A_TASK / most * LATENCY
        print_value("corpus", f"row 2: {OF_A_TASK:,} videos of a task, 30 ms a HEAD", [whole], "s")
        print_value("corpus", "row 2: without a heartbeat, at most", [-(-gap // most) * LATENCY], "s")
        print_value("corpus", "row 2: before", [OF_A_TASK * LATENCY], "s", "no heartbeat in a task")
        events.clear()
        write_tar(folder / "x.tar", SAMPLES, MEAN)
        measure_packed(Corpus(uri=("s3://b/x.tar",)), "s3://b/x.tar", "webdataset")
        some = longest(events, lambda run: sum(count for _, count in run))
        streams = min(TARS, 512)  # 16 in each of 32 tasks
        seconds = some / min(STREAM, SHARED / streams)
        print_value("corpus", "row 2: bytes of a tar without a heartbeat between them, at most", [some], "bytes")
        print_value("corpus", f"row 2: {streams} tars share 1.5 GB/s: without a heartbeat, at most", [seconds], "s")
        print_value(
            "corpus", "row 2: before", [TAR_BYTES / (SHARED / streams)], "s", "a heartbeat for each tar of 1 GB"
        )


def longest(events: list[tuple[str, int]], measure: Callable[[list[tuple[str, int]]], int]) -> int:
    """The largest measure of what is between two heartbeats."""
    runs = itertools.groupby(events, key=lambda event: event[0] == "beat")
    return max(measure(list(run)) for beat, run in runs if not beat)


def row_12() -> None:
    """Runs of 10,240 files that stay the same when ten files are added at one place; the median over 50 folders."""
    for by_number in (True, False):
        shares, sizes = [], []
        for seed in range(50):
            names = sorted(hashlib.sha256(f"{seed} {number}".encode()).hexdigest() for number in range(10_240))
            at = names[(seed * 977) % len(names)]
            before, after = (
                marks(some, by_number) for some in (names, sorted([*names, *(f"{at}{i}" for i in range(10))]))
            )
            shares.append(len(before & after) / len(before))
            sizes.append(10_240 / len(before))
        how = "by number (before)" if by_number else "by name"
        print_value("corpus", f"row 12: runs kept, cut {how}", shares, "x")
        print_value("corpus", f"row 12: files in a run, cut {how}", sizes, "")
    for batch in (64, 256):
        runs = [len(run) for run in cut(((f"{number}.jpg", 1, 0) for number in range(300_000)), False)]
        units = [min(1024, size - first) for size in runs for first in range(0, size, 1024)]
        slots = sum(-(-rows // batch) * batch for rows in units)
        print_value("corpus", f"row 12: slots per image, batch {batch} (1 if cut by number)", [slots / sum(runs)], "x")


def marks(names: list[str], by_number: bool) -> set[str]:
    runs = ([name for name, *_ in run] for run in cut(((name, 1, 0) for name in names), by_number))
    return {measure_files(run, [1] * len(run))[1] for run in runs}


if __name__ == "__main__":
    row_1()
    row_2()
    row_12()
