"""Training examples in an object store: requests and bytes of the stream, shares of workers, shared media, the plan.

    python tests/bench/cloud_examples.py --quick

Requests and bytes are counted by a file system that answers as an object store does; none of them is predicted.
"""

import argparse
import dataclasses
import functools
import io
import logging
import multiprocessing
import os
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import numpy as np
import pyarrow as pa
import ray
from cloud import SlowFiles, install, uninstall
from figures import print_value
from PIL import Image

from raylabel.corpus import Corpus, Shards, index_corpus
from raylabel.schema import EXAMPLES, PICKS, SAMPLES, SHARDS
from raylabel.store.artifact import Artifact, Built, Draft, Root, write_table
from raylabel.store.reject_limit import RejectTally
from raylabel.training.examples import labels_of_part, materialize, media_of, write_labels
from raylabel.training.layout import Layout
from raylabel.training.media import Materialize, WritingTask, _write_media, finish_media
from raylabel.training.samples import merge_picks, sort_picks
from raylabel.training.shares import Share
from raylabel.training.stream import Stream

SPAWN = multiprocessing.get_context("spawn")  # so that a process has the memory of its task alone
WORKERS = (1, 2, 8, 48, 63, 64, 127, 128)
LANES = 64


def examples(root: Root, layout: Layout, classes: int = 1000) -> Artifact:
    """EXAMPLES of samples of 16 bytes, with keys and classes in corpus order: as of a folder sorted by class."""
    records: dict[int, dict[str, Any]] = {}

    def build_media(draft) -> Built:
        for part in range(layout.parts):
            keys = [key for begin, end in layout.stretches(part, part + 1) for key in range(begin, end)]
            kept = {key: b"%16d" % key for key in keys}
            file, groups = _write_media(draft.uri, f"media-{part:06d}.arrows", kept, layout.lanes_of(part))
            files = [dataclasses.asdict(file)]
            records[part] = {"samples": len(keys), "row_groups": groups, "keys": keys, "files": files, "reasons": {}}
        tally = RejectTally(layout.samples, 1.0)
        for record in records.values():
            tally.add(record["samples"], {})
        return finish_media(draft, records, tally)

    media = root.make("media-bench", {}, build_media)

    def build(draft) -> Built:
        tables = []
        for part, record in records.items():
            keys = np.array(record["keys"])
            lists = pa.ListArray.from_arrays(np.arange(len(keys) + 1, dtype=np.int32), class_of(keys, layout, classes))
            samples = pa.Table.from_arrays([keys, lists], schema=SAMPLES)
            tables.append(labels_of_part(samples, np.empty(0), len(layout.lanes_of(part))))
        return write_labels(draft, media, [write_table(draft.uri, "examples-000000.parquet", *tables)], layout.samples)

    return root.make("examples-bench", {}, build)


def class_of(keys: np.ndarray, layout: Layout, classes: int) -> np.ndarray:
    return (keys * classes // layout.samples).astype(np.int32)


def earlier_examples(root: Root, samples: int, classes: int = 1000) -> Artifact:
    """The same as the version before wrote them: 64 row groups of 64 samples in a file of 4,096."""

    def build(draft) -> Built:
        rng, files, items = np.random.default_rng(0), [], []
        for number, first in enumerate(range(0, samples, 4096)):
            keys = first + rng.permutation(min(4096, samples - first))
            groups = []
            for lane in range(LANES):
                own = keys[lane::LANES]
                labels = [[int(key) * classes // samples] for key in own]
                columns = [own, pa.array([b"%16d" % key for key in own], pa.large_binary()), labels]
                groups.append(
                    pa.Table.from_arrays(
                        [pa.array(c, f.type) for c, f in zip(columns, EXAMPLES, strict=True)], schema=EXAMPLES
                    )
                )
            files.append(write_table(draft.uri, f"examples-{number:06d}.parquet", *groups))
            items.append([len(group) for group in groups])
        return Built(files, {"lane_items": items, "samples": samples, "items": samples})

    return root.make("examples-earlier", {}, build)


@contextmanager
def store() -> Iterator[tuple[SlowFiles, Root]]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "log").touch()
        slow = SlowFiles(folder, f"{folder}/log", latency=0, rate=1e12)
        install(slow)
        try:
            yield slow, Root("s3://bench/root")
        finally:
            uninstall()


def row_4(groups: int = 8, workers: tuple[int, ...] = WORKERS) -> None:
    """Requests for 512 images, and bytes read over those of the media, in the first epoch; for the media alone, and for
    the table of labels, which is read at the start."""
    with store() as (slow, root):
        earlier = earlier_examples(root, 4 * 4096)
        before = len(slow.requests())
        for _ in Stream(earlier, 0).items(0, earlier.info["items"]):
            pass
        some = slow.requests()[before:]
        print_value("examples", "before: requests for 512 images", [len(some) * 512 / earlier.info["items"]], "")
        layout = Layout(samples=LANES * groups * 640, lanes=LANES, row_group_samples=640)
        made = examples(root, layout)
        size = sum(file.bytes for file in media_of(made).files("media-"))
        for world in workers:
            batch = 32 * world
            stop = layout.samples // batch * batch
            before, seen = len(slow.requests()), 0
            for rank in range(world):
                seen += sum(1 for _ in Stream(made, 0).items(0, stop, rank, world, batch))
            assert seen == stop
            found = slow.requests()[before:]
            media = [r for r in found if "/media-bench" in r.key and r.key.endswith(".arrows")]
            kinds = Counter(request.kind for request in media)
            name = f"{world} workers"
            print_value("examples", f"{name}: requests for 512 images", [len(media) * 512 / stop], str(dict(kinds)))
            read = sum(request.bytes for request in media) / size
            print_value("examples", f"{name}: bytes read over bytes stored", [read], "")
            print_value(
                "examples", f"{name}: requests of a worker at its start", [(len(found) - len(media)) / world], ""
            )


def row_5() -> None:
    """Efficiency: the equal share over the largest share of any worker, and for the version before."""
    for images in (24, 256):
        least, old = {}, {}
        for world in range(1, 129):
            batch = images * world
            most = max(
                len(Share(lanes=LANES, batch=batch, stop=batch, rank=rank, world=world).mine(0, batch))
                for rank in range(world)
            )
            least[world] = images / most
            if world <= LANES:
                owned = np.bincount(np.arange(batch) % LANES % world, minlength=world)
                old[world] = images / owned.max()
        print_value("examples", f"efficiency, 1 to 128 workers of {images} images", list(least.values()), "")
        print_value("examples", f"before, 1 to 64 workers of {images} images", list(old.values()), "")
        print_value("examples", f"before, 63 workers of {images} images", [old[63]], "")


def row_6(images: int = 1000) -> None:
    """Bytes written for the same samples with other labels."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "data").mkdir()
        rng = np.random.default_rng(0)
        for number in range(images):
            out = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (100, 100, 3), np.uint8)).save(out, "PNG")
            Path(folder, "data", f"{number:06d}.png").write_bytes(out.getvalue())
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        root, corpus = Root.open(f"{folder}/root"), Corpus(uri=(f"{folder}/data",))
        shards = index_corpus(root, "unlabeled", corpus)
        task, sizes = WritingTask(shards=Shards(shards), corpus=corpus, config=Materialize()), []
        for shift in (0, 3):
            rows = [{"label": (key + shift) % 10, "rank": 1, "score": 0.0, "key": key} for key in range(images)]
            table = pa.Table.from_pylist(rows, schema=PICKS).sort_by("label")
            picks = root.make("picks", {"shift": shift}, functools.partial(_one_file, table))
            before = _written(root)
            materialize(root, "picked", picks, task, 0.05)
            sizes.append(_written(root) - before)
        ray.shutdown()
    print_value("examples", "bytes written for the first labels", [sizes[0]], "bytes")
    print_value("examples", "bytes written for other labels of the same samples", [sizes[1]], "bytes")


def _one_file(table: pa.Table, draft: Draft) -> Built:
    return Built([write_table(draft.uri, "picks-00000.parquet", table)], {})


def _written(root: Root) -> int:
    return sum(path.stat().st_size for path in Path(root.uri).rglob("*") if path.is_file())


def row_13(classes: int = 21_000, k: int = 16_000, share: int = 1) -> None:
    """Peak memory of the tasks that sort the picks, each in a process of its own; picks of `classes` / `share` classes
    of an imagined corpus of a billion samples."""
    with tempfile.TemporaryDirectory() as folder:
        root = Root.open(folder)
        with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
            files = [
                pool.submit(_picks, folder, number, 64 * k).result() for number in range(-(-classes // share // 64))
            ]
        picks = root.make("picks", {}, lambda draft: Built(_moved(folder, draft.uri, files), {}))
        table = pa.Table.from_pylist(
            [
                {
                    f.name: {"rows": 1 << 20, "shard": i}.get(f.name, {"string": "", "int64": 0}.get(str(f.type), []))
                    for f in SHARDS
                }
                for i in range(954)
            ],
            schema=SHARDS,
        )
        shards = Shards(root.make("shards-x", {}, lambda d: Built([write_table(d.uri, "shards-0.parquet", table)], {})))
        names = [file.name for file in picks.files("picks")]
        runs = []
        peak = Counter[str]()
        for number, name in enumerate(range(0, len(names), 4)):
            with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
                found, most = pool.submit(
                    _sort, f"{folder}/pairs", number, picks, names[name : name + 4], shards
                ).result()
            runs += found
            peak["sort"] = max(peak["sort"], most)
        counts = np.array([count for _, count in runs])
        ends = np.cumsum(counts, axis=1)
        total = counts.sum(axis=0)
        cells = int(np.searchsorted(np.cumsum(total), 1 << 22))
        pieces = [(run, 0, int(ends[i, cells - 1])) for i, (run, _) in enumerate(runs)]
        with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
            rows, most = pool.submit(_merge, folder, pieces, shards).result()
        peak["merge"] = most
    print_value("examples", "picks", [sum(f.rows for f in files)], "")
    print_value("examples", "peak memory of a task that sorts", [peak["sort"] / 1e9], "GB")
    print_value("examples", "peak memory of a task that merges", [peak["merge"] / 1e9], f"GB, {rows:,} samples")
    print_value("examples", "counts of cells in the driver", [counts.nbytes / 1e9], "GB")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _picks(folder: str, number: int, rows: int):
    rng = np.random.default_rng(number)
    shard, row = rng.integers(0, 954, rows), rng.integers(0, 1 << 20, rows)
    label = np.repeat(np.arange(64, dtype=np.int32) + 64 * number, rows // 64)
    columns = [label, np.ones(rows, np.int32), np.zeros(rows, np.float32), shard << 32 | row]
    return write_table(f"{folder}/new", f"picks-{number:05d}.parquet", pa.Table.from_arrays(columns, schema=PICKS))


def _moved(folder: str, to: str, files: list) -> list:
    for file in files:
        os.rename(f"{folder}/new/{file.name}", f"{to}/{file.name}")
    return files


def _sort(*arguments: Any) -> tuple[Any, int]:
    return sort_picks(*arguments), _peak()


def _merge(folder: str, pieces: Any, shards: Shards) -> tuple[int, int]:
    return merge_picks(folder, 0, pieces, shards, None)[0].rows, _peak()


def mixing(samples: int = 256 * 4096, classes: int = 1000, batch: int = 1536) -> None:
    """Distinct classes in a batch of a corpus that is sorted by class, and in 50 batches."""
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout(samples=samples, lanes=LANES, row_group_samples=640)
        arms = {
            "now": Stream(examples(Root.open(folder), layout, classes), 0),
            "before": Stream(earlier_examples(Root.open(folder), samples, classes), 0),
        }
        some = 50 * batch
        for name, stream in arms.items():
            label = np.array([item[3] for item in stream.items(0, some)])
            _show(name, label, batch)
        _show("random order", np.random.default_rng(0).permutation(samples)[:some] * classes // samples, batch)


def _show(name: str, label: np.ndarray, batch: int) -> None:
    counts = [len(np.unique(label[i : i + batch])) for i in range(0, len(label), batch)]
    print_value("examples", f"{name}: classes in a batch of {batch}, sorted corpus", counts, "")
    print_value("examples", f"{name}: classes in {len(label) // batch} batches", [len(np.unique(label))], "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less work")
    quick = parser.parse_args().quick
    row_5()
    row_6(200 if quick else 1000)
    row_4(2 if quick else 8)
    mixing(64 * 4096 if quick else 256 * 4096)
    row_13(share=32 if quick else 1)


if __name__ == "__main__":
    main()
