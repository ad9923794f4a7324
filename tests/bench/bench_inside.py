"""Near-duplicates within a corpus: recall against brute force on a sample, time and memory.

    python tests/bench/bench_inside.py --data DIR     # DIR: the folder of cifar10; a million pictures, 2 CPUs
    python tests/bench/bench_inside.py --data DIR --samples 150000

There are no million real pictures here. So each is made of two: the left half of one of the 60,000 pictures, mirrored
or turned, and the right half of another. One in 20 is a copy of one before it, altered at 24 x 24 pixels: moved and
scaled as by a crop of up to 4% on each side, brighter or darker, with noise. Media are not decoded.

Recall: of 1,000 samples that brute force finds to be a near-duplicate of one before it, those that COPIES has, or that
are near no sample that is kept. By partitions of which a sample has one, two or three.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
import torch
from bench_pairs import load
from figures import print_value

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from processes import connect

from raylabel.features.alignment import similarities
from raylabel.features.search import References, screen_precision
from raylabel.features.thumbnails import SIDE, descriptors
from raylabel.inference.pictures import PICTURES
from raylabel.schema import COPIES, THUMBNAILS
from raylabel.selection.copies import find_copies
from raylabel.selection.duplicates import find_duplicates
from raylabel.selection.leaders import CANDIDATE
from raylabel.selection.pairs import THRESHOLD
from raylabel.store.artifact import Artifact, Built, Draft, Root, write_table

PART = 1 << 17
COPIED = 20  # every so many is a copy
ASKED = 1000


def halves(pictures: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Pictures uint8 [count, SIDE, SIDE, 3] that differ, of halves of pictures."""
    found = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for side in (slice(0, SIDE // 2), slice(SIDE // 2, SIDE)):
        some = pictures[rng.integers(0, len(pictures), count)]
        kind = rng.integers(0, 8, count)
        for number in range(8):
            mine = np.rot90(some[kind == number], number // 2, (1, 2))
            found[kind == number, :, side] = (mine[:, :, ::-1] if number % 2 else mine)[:, :, side]
    return found


def altered(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    count = len(pictures)
    crop = torch.from_numpy(rng.uniform(0, 0.04, (count, 4)).astype(np.float32))
    place = torch.zeros(count, 2, 3)
    for axis in (0, 1):
        place[:, axis, axis] = 1 - crop[:, axis] - crop[:, axis + 2]
        place[:, axis, 2] = crop[:, axis] - crop[:, axis + 2]
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    grid = torch.nn.functional.affine_grid(place, list(pixels.shape), align_corners=False)
    moved = torch.nn.functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    bright = torch.from_numpy(rng.uniform(0.85, 1.15, (count, 1, 1, 1)).astype(np.float32))
    noise = torch.from_numpy(rng.normal(0, 3, moved.shape).astype(np.float32))
    return (moved * bright + noise).clamp(0, 255).permute(0, 2, 3, 1).round().to(torch.uint8).numpy()


def corpus_of(root: Root, pictures: np.ndarray, samples: int) -> Artifact:
    """PICTURES with THUMBNAILS."""

    def build(draft: Draft) -> Built:
        files, rng = [], np.random.default_rng(0)
        for number, first in enumerate(range(0, samples, PART)):
            count = min(PART, samples - first)
            made = halves(pictures, count, rng)
            copies = np.arange(COPIED, count, COPIED)
            made[copies] = altered(made[rng.integers(0, copies)], rng)
            key = pa.array(np.arange(first, first + count))
            digest = pa.array([b"%16d" % one for one in range(first, first + count)], PICTURES.field("digest").type)
            table = pa.table([key, digest, pa.array(np.zeros(count, np.int64))], schema=PICTURES)
            files.append(write_table(draft.uri, f"pictures-{number:06d}.parquet", table))
            flat = made.reshape(count, -1)
            pixels: pa.Array = pa.FixedSizeBinaryArray.from_buffers(
                THUMBNAILS.field("thumbnail").type, count, [None, pa.py_buffer(flat.tobytes())]
            )
            beside = pa.table([key, pixels], schema=THUMBNAILS)
            files.append(write_table(draft.uri, f"thumbnails-{number:06d}.parquet", beside))
        return Built(files, {})

    return root.make("pictures", {"samples": samples}, build)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"))
    parser.add_argument("--samples", type=int, default=1_000_000)
    arguments = parser.parse_args()
    names = "labeled-4k", "unlabeled-0", "unlabeled-1", "test"
    real = np.concatenate([load(Path(arguments.data, f"{name}.parquet")) for name in names])
    with tempfile.TemporaryDirectory() as folder:
        connect()
        root = Root.open(folder)
        corpus = corpus_of(root, real.reshape(-1, SIDE, SIDE, 3), arguments.samples)
        duplicates = find_duplicates(root, corpus)
        begin = time.perf_counter()
        found = find_copies(root, corpus, duplicates)
        seconds = time.perf_counter() - begin
        table = found.table("copies-", COPIES)
        title = f"inside {arguments.samples:,} samples, 2 cores"
        print_value("inside", f"{title}: time", [seconds], "s")
        print_value("inside", f"{title}: rate", [arguments.samples / seconds / 2], "samples a second and core")
        print_value("inside", f"{title}: copies", [len(table)], "samples")
        print_value("inside", f"{title}: largest process", [ray.get(_peak.remote()) / 1e9], "GB")
        print_value("inside", f"{title}: recall against brute force", [100 * recall(corpus, table)], "%")


@ray.remote
def _peak() -> float:
    """Bytes of the largest process that this worker, or one that it waited for, has had."""
    return 1024 * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def recall(corpus: Artifact, copies: pa.Table) -> float:
    """Of samples with a near-duplicate among those before them that are kept, the share in COPIES."""
    column = corpus.table("thumbnails-", THUMBNAILS).column("thumbnail").combine_chunks()
    pictures = np.frombuffer(column.buffers()[1], np.uint8).reshape(len(column), -1)
    kept = np.ones(len(pictures), bool)
    kept[copies.column("key").to_numpy()] = False
    rng = np.random.default_rng(1)
    asked = np.sort(rng.choice(np.arange(COPIED, len(pictures), COPIED), ASKED, replace=False))
    near = np.zeros(ASKED, bool)
    for first in range(0, len(pictures), PART):
        mine = pictures[first : first + PART]
        pairs = References(descriptors(mine), CANDIDATE, screen_precision()).pairs(descriptors(pictures[asked]))
        other = pairs.reference + first
        before = (other < asked[pairs.at]) & kept[other]
        at, other = pairs.at[before], other[before]
        near[at[similarities(pictures[asked[at]], pictures[other]) >= np.float32(THRESHOLD)]] = True
    return float((~kept[asked])[near | ~kept[asked]].mean())


if __name__ == "__main__":
    main()
