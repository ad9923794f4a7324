"""Selection: TopK against Polars, then the whole stage as N grows.

    pip install polars              # for this bench only
    python tests/bench/bench_select.py --folder /a/disk/with/room       # 58 bytes a row: 12 GB for 200 million
    python tests/bench/bench_select.py --quick

Rates are per CPU-second: of all threads of the process for TopK and Polars, of all processes of Ray for the stage.
SCORES are synthetic: 1,000 classes of Zipf frequency, 10 of them per sample, descending log-odds; 2% of the samples are
copies. Peak memory is the largest peak of the resident set of any process (VmHWM of the kernel, with file pages).
Workers have started and imported their modules before the measurement begins.
"""

import argparse
import dataclasses
import functools
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["POLARS_MAX_THREADS"] = "1"  # Polars reads it once, on import
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from figures import interleave, print_ratio, print_value

from raylabel.schema import DUPLICATES, SCORES
from raylabel.selection.config import Select
from raylabel.selection.duplicates import find_duplicates
from raylabel.selection.select import select
from raylabel.selection.topk import TopK
from raylabel.store.artifact import Artifact, Built, Draft, File, Root, write_table

C, P = 1000, 10
FILE_ROWS = 16_384  # rows per file, as in a part that a scoring actor commits
BATCH = 65_536
MILLION = 1_000_000


def make_scores(number: int, rows: int = FILE_ROWS) -> pa.Table:
    """File `number` of SCORES. Each sample has one class of each of P strata, so that its classes are distinct."""
    rng = np.random.default_rng(number)
    frequency = np.cumsum(1 / np.arange(1, C // P + 1))
    stratum = (rng.integers(0, P, (rows, 1)) + np.arange(P)) % P
    position = np.searchsorted(frequency, rng.random(rows * P) * frequency[-1]).reshape(rows, P)
    steps = rng.standard_exponential((rows, P), np.float32)
    steps[:, 0] = 3 * rng.standard_normal(rows, np.float32)
    key = (np.int64(number) << 32) + np.arange(rows)
    source = np.where(rng.random(rows) < 0.02, (rng.integers(0, number + 1, rows) << 32) + key % rows // 2, key)
    digest = np.zeros((rows, 2), np.uint64)
    digest[:, 0] = source.astype(np.uint64) * np.uint64(
        0x9E3779B97F4A7C15
    )  # the factor is odd, so different keys have different digests

    def lists(values: np.ndarray) -> pa.ListArray:
        return pa.ListArray.from_arrays(np.arange(0, rows * P + 1, P, dtype=np.int32), pa.array(values.ravel()))

    log_odds = -np.cumsum(steps, 1, dtype=np.float32)
    columns = [
        pa.array(key),
        pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), rows, [None, pa.py_buffer(digest)]),
        pa.array(np.zeros(rows, np.int64)),
        lists((position * P + stratum).astype(np.int32)),
        lists(log_odds),
        lists(np.zeros_like(log_odds)),
        pa.ListArray.from_arrays(np.zeros(rows + 1, np.int32), pa.array([], pa.int32())),
    ]
    return pa.table(columns, schema=SCORES)


# ---- TopK against Polars ----


def against_polars(rows: int, k: int, repeats: int, folder: str) -> None:
    """Candidates per second on one core: both from the same SCORES in memory, then both from the same parquet file."""
    numbers = range(-(-rows // FILE_ROWS))
    columns = ["key", "classes", "log_odds"]
    table = pa.concat_tables([make_scores(i).select(columns) for i in numbers]).combine_chunks()
    name, idiom = best_idiom(table, k)
    found: dict[str, Any] = {}

    def timed(arm: str, work: Callable[[], Any]) -> float:
        start = time.process_time()
        found[arm] = work()
        return len(table) * P / (time.process_time() - start)

    groups = [table[start : start + FILE_ROWS] for start in range(0, len(table), FILE_ROWS)]
    parquet = f"{folder}/{write_table(folder, 'scores.parquet', *groups).name}"
    import polars as pl  # pyright: ignore[reportMissingImports]  (bench only)

    arms = {
        "memory": (lambda: top_k(table.to_batches(BATCH), k), lambda: idiom(pl.from_arrow(table).lazy(), k)),
        "parquet": (lambda: top_k(read(parquet), k), lambda: idiom(pl.scan_parquet(parquet), k)),
    }
    for source, (mine, theirs) in arms.items():
        rates = interleave(
            {"raylabel": functools.partial(timed, "mine", mine), "polars": functools.partial(timed, "theirs", theirs)},
            repeats,
        )
        for ours, column in zip(found["mine"], ("classes", "rank", "log_odds", "key"), strict=True):
            assert column == "rank" or np.array_equal(ours, found["theirs"][column].to_numpy()), f"{column} differs"
        what = f"candidates/s/core from {source}, C={C} P={P} K={k}, {len(table) / MILLION:g} M samples"
        print_value("select", what, rates["raylabel"], "candidates/s/core")
        print_ratio("select", what, f"polars {pl.__version__}, {name}", rates["raylabel"], rates["polars"])
    os.remove(parquet)


def top_k(batches: Any, k: int) -> tuple[np.ndarray, ...]:
    top = TopK(C, k)
    for batch in batches:
        label, score = (batch.column(name).flatten().to_numpy() for name in ("classes", "log_odds"))
        top.add(label, score, np.repeat(batch.column("key").to_numpy(), P))
    return top.result()


def read(parquet: str) -> Iterator[pa.RecordBatch]:
    return pq.ParquetFile(parquet).iter_batches(BATCH, columns=["key", "classes", "log_odds"], use_threads=False)


def best_idiom(table: pa.Table, k: int) -> tuple[str, Callable[[Any, int], Any]]:
    """The fastest query in Polars: all are tried on a tenth of the rows, the best three on all rows. AssertionError if
    results differ."""
    import polars as pl  # pyright: ignore[reportMissingImports]  (bench only)

    order = {"by": ["classes", "log_odds", "key"], "descending": [False, True, False]}
    within = {"by": ["log_odds", "key"], "k": k, "reverse": [False, True]}
    odds, pair = pl.col("log_odds"), pl.struct("log_odds", "key")

    def head(x: Any) -> Any:
        return x.sort(**order).group_by("classes", maintain_order=True).head(k)

    def kth(x: Any) -> Any:
        return x.group_by("classes").agg(odds.top_k(k).min().alias("kth"))

    idioms = {
        "sort, head": head,
        "group_by top_k_by": lambda x: (
            x.group_by("classes").agg(pair.top_k_by(**within).alias("s")).explode("s").unnest("s")
        ),
        "group_by sort_by head": lambda x: (
            x.group_by("classes")
            .agg(pair.sort_by(["log_odds", "key"], descending=[True, False]).head(k).alias("s"))
            .explode("s")
            .unnest("s")
        ),
        "filter rank over": lambda x: head(x.filter(odds.rank("min", descending=True).over("classes") <= k)),
        "filter top_k over": lambda x: head(x.filter(odds >= odds.top_k(k).min().over("classes"))),
        "join with the k-th": lambda x: head(x.join(kth(x), on="classes").filter(odds >= pl.col("kth"))),
    }

    def with_engine(idiom: Any, engine: str) -> Callable[[Any, int], Any]:
        def run(lazy: Any, k: int) -> Any:
            flat = lazy.select("key", "classes", "log_odds").explode("classes", "log_odds")
            return idiom(flat).select("classes", "log_odds", "key").sort(**order).collect(engine=engine)

        return run

    ways = {
        f"{name} ({engine})": with_engine(idiom, engine)
        for name, idiom in idioms.items()
        for engine in ("in-memory", "streaming")
    }
    for rows, rest in ((len(table) // 10, 3), (len(table), 1)):
        seconds, wanted = {}, None
        for name, run in ways.items():
            start = time.process_time()
            result = run(pl.from_arrow(table[:rows]).lazy(), k)
            seconds[name] = time.process_time() - start
            wanted = result if wanted is None else wanted
            assert result.equals(wanted), f"polars, {name}: the result differs"
            print(f"polars, {name}: {seconds[name]:.3g} s of CPU for {rows:,} samples", file=sys.stderr)
        ways = {name: ways[name] for name in sorted(ways, key=lambda name: seconds[name])[:rest]}
    return ways.popitem()


# ---- the stage, as N grows ----


def write_scores(folder: str, number: int) -> File:
    return write_table(folder, f"scores-{number:06d}.parquet", make_scores(number))


def as_artifact(root: Root, pool: str, files: list[File]) -> Artifact:
    """SCORES of some files of the pool, which are hard-linked and not copied."""

    def build(draft: Draft) -> Built:
        for file in files:
            os.link(f"{pool}/{file.name}", f"{draft.uri}/{file.name}")
        return Built(files, {"p": P})

    return root.make("scores", {"files": len(files)}, build)


def no_duplicates(root: Root) -> Artifact:
    def build(draft: Draft) -> Built:
        return Built([write_table(draft.uri, "duplicates-00000.parquet", DUPLICATES.empty_table())], {})

    return root.make("duplicates", {"scores": None}, build)


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a stage."""

    seconds: float
    """CPU-seconds of all processes."""
    memory: float
    """Largest peak of the resident memory of any process, bytes."""


def measure(stage: str, uri: str, few: Artifact, scores: Artifact, k: int) -> Cost:
    """The cost of a stage on `scores`, in a new process with its own Ray; a run on `few` before it is not counted."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, stage, uri, few, scores, k).result()


def _measure(stage: str, uri: str, few: Artifact, scores: Artifact, k: int) -> Cost:
    sys.stdout = sys.stderr  # stdout is for figures, not for the progress of the stage
    root, config = Root(uri), Select(k=k, p=P)
    names = tuple(f"class {c}" for c in range(C))

    def work(what: Artifact, config: Select) -> None:
        if stage == "find_duplicates":
            made = find_duplicates(root, what)
            assert 0 < made.info["duplicates"] < 0.03 * sum(f.rows for f in what.files())
        else:
            made = select(root, what, no_duplicates(root), config, names)
            assert made.info["picks"] <= C * config.k and min(made.info["per_class"]) > 0
        shutil.rmtree(made.uri)

    ray.init(address="local", include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000)
    try:
        for _ in range(2):  # so that every worker has run a task
            work(few, Select(k=10, p=P))
        before = _cpu_seconds()
        with _watched() as peak:
            work(scores, config)
        return Cost(_cpu_seconds() - before, max(peak.values()))
    finally:
        ray.shutdown()


def _processes() -> list[int]:
    """This process and all its descendants."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            parent = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended
        children.setdefault(parent, []).append(int(name))
    found = [os.getpid()]
    for process in found:
        found += children.get(process, [])
    return found


def _cpu_seconds() -> float:
    """CPU-seconds of all these processes, and of their children that have ended and were waited for."""
    ticks = 0
    for process in _processes():
        ticks += sum(map(int, Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def _watched() -> Iterator[dict[int, float]]:
    """Process → its peak resident bytes so far, sampled 5 times a second and at the end."""
    peak: dict[int, float] = {}
    done = threading.Event()

    def look() -> None:
        for process in _processes():
            try:
                status = Path(f"/proc/{process}/status").read_text()
            except OSError:
                continue
            if "VmHWM:" in status:
                peak[process] = 1024 * int(status.partition("VmHWM:")[2].split()[0])

    def watch() -> None:
        while not done.wait(0.2):
            look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
        look()


def as_it_grows(stage: str, millions: list[float], k: int, repeats: int, folder: str, pool: str) -> None:
    """Prints rate and peak memory for each N; the runs are interleaved."""
    root = Root.open(folder)
    names = sorted(os.listdir(pool))
    few = as_artifact(root, pool, [_describe(pool, name) for name in names[:4]])
    scores = {}
    for n in millions:
        files = [_describe(pool, name) for name in names[: -(-int(n * MILLION) // FILE_ROWS)]]
        scores[n] = as_artifact(root, pool, files)
    memory: dict[float, list[float]] = {n: [] for n in millions}

    def arm(n: float) -> float:
        cost = measure(stage, folder, few, scores[n], k)
        memory[n].append(cost.memory / 1e6)
        return sum(f.rows for f in scores[n].files()) / cost.seconds

    rates = interleave({f"{n:g} M": functools.partial(arm, n) for n in millions}, repeats)
    what = f"C={C} P={P} K={k}" if stage == "select" else "digests"
    for n in millions:
        print_value("select", f"{stage}, {n:g} M samples, {what}", rates[f"{n:g} M"], "samples/s/core")
        print_value("select", f"{stage}, {n:g} M samples, {what}: peak memory of any process", memory[n], "MB")
    for small, large in zip(millions, millions[1:], strict=False):
        figure = f"{stage}, samples/s/core at {large:g} M: 1 or more is a cost per row that does not rise"
        print_ratio("select", figure, f"at {small:g} M", rates[f"{large:g} M"], rates[f"{small:g} M"])
    for artifact in scores.values():
        shutil.rmtree(artifact.uri, ignore_errors=True)


def _describe(pool: str, name: str) -> File:
    return File(name, FILE_ROWS, os.path.getsize(f"{pool}/{name}"), "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, nargs="*", default=[10, 50, 200], help="N of the stage, in millions")
    parser.add_argument("--k", type=int, default=16_000, help="K of the stage")
    parser.add_argument("--polars-rows", type=float, default=16, help="N against Polars, in millions; 16 need 9 GB")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--folder", default=tempfile.gettempdir(), help="folder for the scores, which are deleted at the end"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a smoke test that takes seconds; its figures mean nothing"
    )
    args = parser.parse_args()
    if args.quick:
        args.rows, args.k, args.polars_rows, args.repeats = [0.1, 0.3], 100, 0.2, 1
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="bench_select-") as folder:
        if args.polars_rows:
            against_polars(int(args.polars_rows * MILLION), 1000, args.repeats, folder)
        if not args.rows:
            return
        pool = f"{folder}/pool"
        files = -(-int(max(args.rows) * MILLION) // FILE_ROWS)
        with ProcessPoolExecutor() as workers:
            list(workers.map(functools.partial(write_scores, pool), range(files), chunksize=16))
        as_it_grows("select", sorted(args.rows), args.k, args.repeats, folder, pool)
        # This stage writes the digests of all samples once more, so it is run with at most a quarter of the rows.
        fewer = [n for n in sorted(args.rows) if 4 * n <= max(args.rows)] or [min(args.rows)]
        as_it_grows("find_duplicates", fewer, args.k, args.repeats, folder, pool)


if __name__ == "__main__":
    main()
