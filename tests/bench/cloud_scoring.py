"""Scoring where the corpus is in an object store, and with many actors: figures of reading, of work items and of pixels
that tasks send.

    python tests/bench/cloud_scoring.py 3 14 17       # the numbers of the rows of "Object stores"

The store is `SlowFiles` of tests/support/cloud.py: 30 ms a request and 80 MB/s a stream, without CPU time of its own.
"""

import functools
import itertools
import logging
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cheap_scorers import CheapScorer
from figures import print_ratio, print_value
from processes import in_fresh_process
from pytest import MonkeyPatch

from raylabel.compute.resources import Pool
from raylabel.corpus import UNIT, Corpus, Shards, Units, index_corpus
from raylabel.corpus.ahead import UnitReader
from raylabel.inference import actor, pool
from raylabel.inference.batches import Facts, ScoringTask, _pack, batches, item, unpack_batches
from raylabel.inference.scores import PART, _part
from raylabel.media.sandbox.sandbox import Sandbox
from raylabel.schema import SHARDS
from raylabel.store.artifact import Built, Root, write_table
from raylabel.store.fetch import REQUESTS, Fetcher
from raylabel.store.files import CONNECTIONS

sys.path.append(str(Path(__file__).resolve().parents[1] / "support"))  # where a bench does not look by itself
from cloud import SlowFiles, install, uninstall  # noqa: E402  (its folder is added above)

IMAGES, BYTES = 8192, 60_000
FILES = 8
FORMS = ("parquet", "tar", "files")


def write_corpus(folder: Path, form: str, images: int, size: int) -> None:
    """Random bytes that are not images, in FILES shards."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    per = images // FILES
    for shard in range(FILES):
        media = [rng.bytes(size) for _ in range(per)]
        if form == "parquet":
            table = pa.table({"image": pa.array(media, pa.binary()), "label": pa.array(range(per))})
            pq.write_table(table, folder / f"{shard}.parquet", row_group_size=128, compression="none")
        elif form == "tar":
            with tarfile.open(folder / f"{shard}.tar", "w") as tar:
                for number, one in enumerate(media):
                    info = tarfile.TarInfo(f"{number:06}.jpg")
                    info.size = len(one)
                    tar.addfile(info, BytesIO(one))
        else:
            for number, one in enumerate(media):
                (folder / f"{shard}-{number:06}.jpg").write_bytes(one)


def read(task: ScoringTask, fetcher: Fetcher, sandbox: Sandbox, threads: ThreadPoolExecutor) -> float:
    """Images per second of reading and handing over all units, in two work items."""
    units = list(Units(task.shards.rows, UNIT))
    begin, count = time.perf_counter(), 0
    items = (units[: len(units) // 2], units[len(units) // 2 :])
    readers = [UnitReader(task.corpus, task.shards, some, fetcher) for some in items]
    for facts, _ in itertools.chain.from_iterable(batches(task, reader, sandbox, threads) for reader in readers):
        count += len(facts.key)
        if any(facts.reason):
            raise SystemExit(f"a sample was rejected: {next(filter(None, facts.reason))}")
    return count / (time.perf_counter() - begin)


def index(work: str, images: int, size: int) -> dict[str, dict[str, ScoringTask]]:
    """Form → where it is → the task that scores it."""
    import ray

    store = SlowFiles(f"{work}/store", f"{work}/requests", speed=100)
    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    ray.init(address="local", num_cpus=2, runtime_env=install(store), **quiet)
    tasks: dict[str, dict[str, ScoringTask]] = {}
    for form in FORMS:
        folder = Path(work) / "store" / "bucket" / form
        write_corpus(folder, form, images, size)
        for name, uri in (("local", str(folder)), ("store", f"s3://bucket/{form}")):
            corpus = Corpus(uri=(uri,))
            shards = Shards(index_corpus(Root.open(tempfile.mkdtemp(dir=work)), name, corpus))
            tasks.setdefault(form, {})[name] = ScoringTask(CheapScorer(3), corpus, shards, 256, Pool(1, 1, 0, 2))
    ray.shutdown()
    return tasks


def measure_reading(work: str, tasks: dict[str, ScoringTask], repeats: int) -> dict[str, Any]:
    """Rates from the local disk and from the store, interleaved; and the requests and bytes of the store."""
    store = SlowFiles(f"{work}/store", f"{work}/requests")
    install(store)
    found: dict[str, Any] = {"local": [], "store": []}
    with Sandbox(CheapScorer(3).parser, 2) as sandbox, ThreadPoolExecutor(2) as threads:
        fetchers = {name: Fetcher(min(CONNECTIONS, 2 * REQUESTS)) for name in tasks}
        for number in range(repeats + 1):
            for name, task in tasks.items():
                Path(store.log).write_bytes(b"")
                rate = read(task, fetchers[name], sandbox, threads)
                print(name, f"{rate:,.0f}/s", file=sys.stderr)
                if number:  # the first round warms up
                    found[name].append(rate)
                if name == "store":
                    found["requests"], found["bytes"] = len(store.requests()), store.requests().bytes
    uninstall()
    return found


def measure_actor(work: str, tasks: dict[str, ScoringTask], repeats: int) -> dict[str, Any]:
    """Rates of an actor that is called with one unit after the other, as by Ray in CALLS threads, interleaved; and the
    requests for the next item that were answered before the last rows of one, for each item but the last."""
    store = SlowFiles(f"{work}/store", f"{work}/requests")
    install(store)
    found: dict[str, Any] = {"local": [], "store": [], "next": []}
    actor._journal_path = lambda: f"{work}/journal"
    for number in range(repeats + 1):
        for name, task in tasks.items():
            Path(store.log).write_bytes(b"")
            units = Units(task.shards.rows, UNIT)
            rate, ends = _call(actor.ScoringActor(task), [item([unit]) for unit in units])
            print("actor,", name, f"{rate:,.0f}/s", file=sys.stderr)
            if number:
                found[name].append(rate)
            if number and name == "store":
                keys = [task.shards.row(unit.shard)["uri"].rpartition("/")[2] for unit in units]
                for end, key in zip(ends, keys[1:], strict=False):
                    found["next"].append(sum(one.time < end for one in store.requests().of(f"/{key}", "GET")))
    uninstall()
    return found


def _call(scoring: actor.ScoringActor, items: list[pa.Table]) -> tuple[float, list[float]]:
    """(rows per second, the time at which each item ended)."""

    def call(one: pa.Table) -> tuple[int, float]:
        return sum(len(table) for table in scoring(one)), time.monotonic()

    begin = time.monotonic()
    with ThreadPoolExecutor(actor.CALLS) as threads:
        rows, ends = zip(*threads.map(call, items), strict=True)
    return sum(rows) / (max(ends) - begin), list(ends)


def row_3(images: int = IMAGES, size: int = BYTES, repeats: int = 3) -> None:
    """Reading from the store over reading from the local disk, without and with an actor. On an idle machine: many
    threads that take turns are slower than one where other programs run."""
    with tempfile.TemporaryDirectory() as work:
        for form, tasks in in_fresh_process(index, work, images, size).items():
            found = in_fresh_process(measure_reading, work, tasks, repeats)
            print_value("cloud_scoring", f"3, {form}: read from the local disk", found["local"], "images/s")
            print_value("cloud_scoring", f"3, {form}: read from the store", found["store"], "images/s")
            print_ratio("cloud_scoring", f"3, {form}: from the store", "local disk", found["store"], found["local"])
            print_value("cloud_scoring", f"3, {form}: requests per image", [found["requests"] / images], "requests")
            share = found["bytes"] / (images * size)
            print_value("cloud_scoring", f"3, {form}: bytes read over bytes of media", [share], "x")
            found = in_fresh_process(measure_actor, work, tasks, repeats)
            print_value("cloud_scoring", f"3, {form}: an actor, from the store", found["store"], "images/s")
            print_ratio("cloud_scoring", f"3, {form}: an actor, store", "local disk", found["store"], found["local"])
            if form != "files":
                what = f"3, {form}: answered requests for the next item at the end of one"
                print_value("cloud_scoring", what, found["next"], "requests")


# ---- row 14 ----


@dataclass(frozen=True)
class PixelScorer(CheapScorer):
    """For its shape, that of pictures."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (224, 224, 3)


def row_14(images: int = 256, repeats: int = 30) -> None:
    """CPU time of a decoding task to send a batch of pixels, and of an actor to receive it.

    Without the copy into shared memory, which Ray makes of any block: here the batch is written to a buffer in its
    place, and received from there as from shared memory, without a copy.
    """
    sent, received = [], []
    task: Any = SimpleNamespace(batch=images, scorer=PixelScorer(3))
    for number in range(repeats + 1):
        facts, pixels = _batch(images, PixelScorer(3).shape)
        begin = time.process_time()
        table = _pack(facts, pixels)
        middle = time.process_time()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as out:
            out.write_table(table)
        buffer = sink.getvalue()
        arrived = time.process_time()
        ((again, found),) = unpack_batches(pa.ipc.open_stream(buffer).read_all(), task)
        end = time.process_time()
        assert again.uri == facts.uri and np.array_equal(found, pixels)
        if number:  # the first round warms up
            sent.append(1000 * (middle - begin))
            received.append(1000 * (end - arrived))
    what = f"14, {images} pictures at 224 px"
    print_value("cloud_scoring", f"{what}: CPU to send them", sent, "ms", "9.6 ms in the version before")
    print_value("cloud_scoring", f"{what}: CPU to receive them", received, "ms", "46.5 ms in the version before")


def _batch(images: int, shape: tuple[int, ...]) -> tuple[Facts, np.ndarray]:
    rng = np.random.default_rng(0)
    uri = [f"s3://bucket/pictures/{number:05}.parquet#{number}" for number in range(images)]
    facts = Facts(np.arange(images), [rng.bytes(16) for _ in uri], [0] * images, uri, *([""] * images for _ in "1234"))
    return facts, rng.integers(0, 256, (images, *shape), np.uint8)


# ---- row 17 ----


def row_17(actors: int = 700) -> None:
    """CPU time of the driver from the beginning of scoring a corpus of a billion samples to the first result.

    100,000 shards of 10,000 samples, which are one file. The work items are those for 700 actors, but one actor is
    started: the others would need 70 GB of memory here, and the driver does not wait for them.
    """
    with tempfile.TemporaryDirectory() as work:
        found = in_fresh_process(first_result, work, actors)
    what = f"17, 1e9 samples, {actors} actors, {found['items']:,} items"
    print_value("cloud_scoring", f"{what}: CPU to make the items", [found["made"]], "s")
    print_value("cloud_scoring", f"{what}: CPU to the first result", [found["cpu"]], "s", "80 s in the version before")
    print_value("cloud_scoring", f"{what}: time to the first result", [found["wall"]], "s")


def first_result(work: str, actors: int, shards: int = 100_000, rows: int = 10_000) -> dict[str, float]:
    """Runs in a new process, with its own Ray."""
    import processes

    media = np.random.default_rng(0).bytes(16 * rows)
    images = pa.array([media[16 * row : 16 * row + 16] for row in range(rows)], pa.binary())
    pq.write_table(pa.table({"image": images}), f"{work}/x.parquet", row_group_size=UNIT, compression="none")
    processes.connect()
    root, corpus = Root.open(f"{work}/root"), Corpus(uri=(f"{work}/x.parquet",))
    one = Shards(index_corpus(root, "one", corpus)).row(0)
    column = {name: [one[name]] * shards for name in SHARDS.names} | {"shard": range(shards)}
    table = pa.Table.from_pydict(column, schema=SHARDS)
    many = Shards(root.make("shards-all", {}, lambda to: Built([write_table(to.uri, "shards-0.parquet", table)], {})))
    task = ScoringTask(CheapScorer(3), corpus, many, 256, Pool(1, 1, 0, 1, grows=False))
    units, plain, blocks = Units(many.rows, UNIT), pool.units_of_item, pool._blocks
    parts = functools.partial(map, functools.partial(_part, units, None), range(-(-len(units) // PART)))
    found = {}
    begin, cpu = time.perf_counter(), time.process_time()

    def counted(items: Any) -> Any:
        made = blocks(items)
        found.update(items=len(items), made=time.process_time() - cpu)
        return made

    with MonkeyPatch.context() as patch:
        patch.setattr(pool, "units_of_item", lambda count, _: plain(count, actors))
        patch.setattr(pool, "_blocks", counted)
        stream: Any = pool._spans(task, parts)
        part, spans = next(stream)
        found |= {"wall": time.perf_counter() - begin, "cpu": time.process_time() - cpu}
        assert sum(rows for _, _, rows in spans) == part.rows
        stream.close()
    return found


if __name__ == "__main__":
    for number in sys.argv[1:] or ["3", "14", "17"]:
        globals()[f"row_{number}"]()
