"""The corpus of `bench_scale.py`: tiny samples that are not images, and a scorer that ranks them by their bytes.

Sample i is 16 bytes, a pseudo-random function of i, which determine its rank in every class. So the picks of a run over
N samples can be computed from N. Letters: N samples, B batch, C classes, P classes kept per sample.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from processes import CORES

from raylabel.inference.scorer import RANKED, Found, Kept, Run
from raylabel.media.sandbox.sandbox import Parser

CLASSES = 1000
ROWS = 50_000  # samples per shard
TWIN = 128  # the last of every so many samples is a copy of the one before it


def build(folder: str, rows: int) -> list[str]:
    """Writes the first `rows` samples (whole shards) as parquet; shards that exist are kept. Returns the paths."""
    paths = [f"{folder}/{shard:05d}.parquet" for shard in range(rows // ROWS)]
    os.makedirs(folder, exist_ok=True)
    todo = [(path, shard) for shard, path in enumerate(paths) if not os.path.exists(path)]
    with ProcessPoolExecutor(CORES, get_context("spawn")) as pool:
        for _ in pool.map(_write, todo, chunksize=8):
            pass
    return paths


def _write(task: tuple[str, int]) -> None:
    path, shard = task
    words = payload(np.arange(shard * ROWS, (shard + 1) * ROWS, dtype=np.uint64))
    offsets = np.arange(ROWS + 1, dtype=np.int32) * 16
    media = pa.BinaryArray.from_buffers(pa.binary(), ROWS, [None, pa.py_buffer(offsets), pa.py_buffer(words)])
    table = pa.table([media], ["image"])
    # Ten units per row group. Dictionaries and compression have no effect on random bytes.
    pq.write_table(table, f"{path}.tmp", row_group_size=10_240, use_dictionary=False, compression="none")
    os.rename(f"{path}.tmp", path)


def payload(sample: np.ndarray) -> np.ndarray:
    """The bytes of samples, uint64 [N, 2]."""
    seed = sample - (sample % np.uint64(TWIN) == np.uint64(TWIN - 1))
    return np.stack([_mix(seed * np.uint64(2)), _mix(seed * np.uint64(2) + np.uint64(1))], axis=1)


def copies(rows: int) -> int:
    """How many of the first `rows` samples are copies of another."""
    return rows // TWIN


def rank(words: np.ndarray, p: int) -> Found:
    """The p best classes of samples uint64 [B, 2]. Log-odds and logits are equal, and fall by 0.5 per class."""
    step = CLASSES // p
    first = (words[:, :1] % np.uint64(CLASSES)).astype(np.int64)
    classes = ((first + step * np.arange(p)) % CLASSES).astype(np.int32)
    best = (words[:, 1:] >> np.uint64(40)).astype(np.float32) / np.float32(1 << 20)  # 0 to 16 in 24 bits: ties occur
    log_odds = best - np.arange(p, dtype=np.float32) / np.float32(2)
    return classes, log_odds, log_odds


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64 (Steele, Lea and Flood 2014), elementwise on uint64."""
    x = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def identity() -> Callable[[bytes, Sequence[int]], bytes]:
    """The sample's bytes are its pixels."""
    return lambda data, _: data


@dataclass(frozen=True)
class NullScorer:
    """Ranks by the sample's bytes, which takes almost no time."""

    p: int

    @property
    def kept(self) -> Kept:
        return RANKED

    @property
    def shape(self) -> tuple[int, ...]:
        return (16,)

    @property
    def parser(self) -> Parser:
        return Parser.of(identity)

    def start(self, gpu: bool) -> Run:
        def run(batches: Iterable[np.ndarray]) -> Iterator[Found]:
            for batch in batches:
                yield rank(batch.view(np.uint64), self.p)

        return run
