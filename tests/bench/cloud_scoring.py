"""Scoring where the corpus is in an object store, and with many actors: figures of reading, of work items and of pixels
that tasks send.

    python tests/bench/cloud_scoring.py [--row 3|14|17] [--images N] [--bytes B]

The store is `SlowFiles` of tests/support/cloud.py: 30 ms a request and 80 MB/s a stream, without CPU time of its own.
"""

import argparse
import itertools
import logging
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cheap_scorers import CheapScorer
from figures import print_ratio, print_value
from processes import in_fresh_process

from raylabel.compute.resources import Pool
from raylabel.corpus import Corpus, Shards, Units, index_corpus
from raylabel.corpus.ahead import UnitReader
from raylabel.inference.batches import ScoringTask, batches
from raylabel.media.sandbox.sandbox import Sandbox
from raylabel.store.artifact import Root
from raylabel.store.fetch import Fetcher

sys.path.append(str(Path(__file__).resolve().parents[1] / "support"))  # where a bench does not look by itself
from cloud import SlowFiles, install, uninstall  # noqa: E402

IMAGES, BYTES = 8192, 60_000
SHARDS = 8
FORMS = ("parquet", "tar", "files")
UNIT = 1024


def write_corpus(folder: Path, form: str, images: int, size: int) -> None:
    """Random bytes that are not images, in SHARDS shards."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    per = images // SHARDS
    for shard in range(SHARDS):
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
        fetchers = {name: Fetcher(128) for name in tasks}
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


def row_3(images: int = IMAGES, size: int = BYTES, repeats: int = 3) -> None:
    """Reading from the store over reading from the local disk."""
    with tempfile.TemporaryDirectory() as work:
        for form, tasks in in_fresh_process(index, work, images, size).items():
            found = in_fresh_process(measure_reading, work, tasks, repeats)
            print_value("cloud_scoring", f"3, {form}: read from the local disk", found["local"], "images/s")
            print_value("cloud_scoring", f"3, {form}: read from the store", found["store"], "images/s")
            print_ratio("cloud_scoring", f"3, {form}: from the store", "local disk", found["store"], found["local"])
            print_value("cloud_scoring", f"3, {form}: requests per image", [found["requests"] / images], "requests")
            share = found["bytes"] / (images * size)
            print_value("cloud_scoring", f"3, {form}: bytes read over bytes of media", [share], "x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rows = {"3": row_3}
    parser.add_argument("--row", choices=[*rows], help="only this row of the issue's table")
    options = parser.parse_args()
    for name, row in rows.items():
        if options.row in (None, name):
            row()


if __name__ == "__main__":
    main()
