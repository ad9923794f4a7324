"""SCORES of a new head over stored FEATURES, against the matrix product alone.

    python tests/bench/bench_features.py --folder /a/disk/with/room     # 1.1 kB a row: 11 GB for 10 million
    python tests/bench/bench_features.py --quick

FEATURES are synthetic: 512 numbers a sample, of unit length; C = 1,000, P = 10, batches of 256. The other arm is the
same product in fp32, in blocks of 4,096 features that are in memory, with as many threads as there are cores. Ours also
reads the features, ranks the classes in float64, and writes and commits SCORES. Peak memory is the largest of a process
that ranks, of its resident set.
"""

import argparse
import resource
import tempfile
import time

import numpy as np
import pyarrow as pa
import ray
import torch
from figures import interleave, print_ratio, print_value
from processes import CORES, connect

from raylabel.compute.resources import Pool
from raylabel.corpus import UNIT, Corpus, Units
from raylabel.inference.batches import ScoringTask
from raylabel.inference.network import Network
from raylabel.inference.parts import Part
from raylabel.inference.scores import PART
from raylabel.inference.stored import score_stored
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.plan.pilot import random_network
from raylabel.schema import features_schema
from raylabel.store.artifact import Artifact, Built, Draft, File, Root, write_table

D, C, P, BATCH, BLOCK = 512, 1000, 10, 256, 4096
ROWS = PART * UNIT
MILLION = 1_000_000


@ray.remote(num_cpus=1, max_calls=1)  # in a process of its own, whose memory does not count
def write_part(folder: str, number: int, rows: int) -> File:
    rng = np.random.default_rng(number)
    values = np.maximum(rng.standard_normal((rows, D), np.float32), 0)
    norm = np.linalg.norm(values, axis=1)
    digest = np.zeros((rows, 2), np.int64)
    digest[:, 0] = key = number * ROWS + np.arange(rows)
    schema = features_schema(D)
    unit = (values / norm[:, None]).astype(np.float16)
    columns = [
        pa.array(key),
        pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), rows, [None, pa.py_buffer(digest)]),
        pa.array(np.zeros(rows, np.int64)),
        pa.FixedSizeListArray.from_arrays(pa.array(unit.ravel()), type=schema.field("feature").type),
        pa.array(norm),
    ]
    return write_table(folder, f"features-{number:06d}.parquet", pa.table(columns, schema=schema))


def write_features(root: Root, samples: int) -> Artifact:
    def build(draft: Draft) -> Built:
        sizes = [min(ROWS, samples - first) for first in range(0, samples, ROWS)]
        files = ray.get([write_part.remote(draft.uri, number, rows) for number, rows in enumerate(sizes)])
        return Built(files, {"p": D, "samples": samples, "rejected": 0})

    return root.make("features", {"samples": samples}, build)


def rank(root: Root, features: Artifact, name: str) -> float:
    """Samples per second of the pass over stored features."""
    network = Network(
        random_network(root, Model(arch="resnet18", features="unit"), C), View(size=32, resize=32), "fp32", P
    )
    pool = Pool(actors=CORES, cpus=1, gpus=0, threads=1)
    # Corpus and SHARDS are not read.
    task = ScoringTask(network, Corpus(uri=("features",)), features, BATCH, pool)  # pyright: ignore[reportArgumentType]
    units = Units(np.array([features.info["samples"]]), UNIT)

    def parts():
        count = -(-len(units) // PART)
        return (Part(number, units.between(number * PART, (number + 1) * PART)) for number in range(count))

    begin, rows = time.monotonic(), 0
    for record in score_stored(features, task, parts, f"{root.uri}/{name}"):
        rows += record["rows"]
    assert rows == features.info["samples"]
    return rows / (time.monotonic() - begin)


def multiply(samples: int) -> float:
    """Samples per second of the product alone."""
    torch.set_num_threads(CORES)
    features, weight = torch.rand(16 * BLOCK, D), torch.rand(C, D)
    begin, done = time.monotonic(), 0
    while done < samples:
        first = done % len(features)
        torch.nn.functional.linear(features[first : first + BLOCK], weight)
        done += BLOCK
    return done / (time.monotonic() - begin)


@ray.remote(num_cpus=1)
def peak() -> float:
    """Megabytes, of the process that runs this task."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="default: a temporary folder")
    parser.add_argument("--quick", action="store_true", help="200,000 samples and one round")
    arguments = parser.parse_args()
    connect()
    with tempfile.TemporaryDirectory(prefix="bench-features-", dir=arguments.folder) as folder:
        root = Root.open(folder)
        samples = MILLION // 5 if arguments.quick else 2 * MILLION
        features, passes = write_features(root, samples), iter(range(100))
        rank(root, features, "warm")  # workers have started and imported torch
        arms = {
            "stored": lambda: rank(root, features, f"pass-{next(passes)}"),
            "product": lambda: multiply(samples),
        }
        found = interleave(arms, 1 if arguments.quick else 3)
        print_value("features", f"{samples:,} stored features to SCORES", found["stored"], "samples/s")
        print_ratio(
            "features", f"{samples:,} stored features to SCORES", "the product", found["stored"], found["product"]
        )
        small = max(ray.get([peak.remote() for _ in range(4 * CORES)]))
        print_value("features", f"{samples:,}: peak memory of a process that ranks", [small], "MB")
        if not arguments.quick:
            many = write_features(root, 10 * MILLION)
            print_value("features", "10,000,000 stored features to SCORES", [rank(root, many, "many")], "samples/s")
            large = max(ray.get([peak.remote() for _ in range(4 * CORES)]))
            print_value("features", "10,000,000: peak memory of a process that ranks", [large], "MB")


if __name__ == "__main__":
    main()
