"""Requests and bytes of each stage, as an object store counts them: a pure function of sizes.

What grows with the corpus, the cluster or the length of a training follows from the sizes that the stages themselves
use. The numbers in the formulas, what a stage requests whatever its size, were counted in runs of `digits`;
`tests/plan/test_traffic.py` counts them again. Files of a local root are read and written in the same way.
"""

import math
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Self

from raylabel.corpus import Shards
from raylabel.corpus.fingerprint import EDGE
from raylabel.corpus.ranges import BLOCK
from raylabel.selection.duplicates import BUCKET_ROWS
from raylabel.selection.select import GROUP_CANDIDATES, GROUP_ROWS, KEPT, KEYS, SLICE
from raylabel.store.artifact import WHOLE
from raylabel.store.root_lock import HEARTBEAT_EVERY
from raylabel.tracking.tracker import EVERY
from raylabel.training import media, samples
from raylabel.training.layout import BANDS, UNIT, Layout
from raylabel.training.loop import POINTS
from raylabel.training.row_groups import OPEN

FOOTER = 1 << 16  # bytes that pyarrow reads from the end of a parquet file
DIGEST_ROW = 24  # bytes of a digest and a key
CANDIDATE = 13  # bytes of a candidate: its class, score and key
EVENT = 70  # bytes of a point of a curve in TensorBoard's files
SETTINGS = 3_500  # bytes of a recipe there
TABLE_ROW = 2  # bytes of a pick in compressed tables of keys and labels


@dataclass(frozen=True)
class Traffic:
    """What is asked of the storage."""

    reads: float = 0
    """GET and HEAD requests."""
    writes: float = 0
    """PUT, POST and LIST requests. DELETE costs nothing."""
    bytes_read: float = 0
    bytes_written: float = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: float) -> "Traffic":
        return Traffic(*(value * times for value in astuple(self)))

    def rounded(self) -> Self:
        return type(self)(*map(round, astuple(self)))


def file(size: float) -> Traffic:
    """A file that is read: a request for its size, one for a small file, else one for the footer and one for data."""
    return Traffic(2 if size <= WHOLE else 3, 0, size)


def put(size: float) -> Traffic:
    """A file that is written."""
    return Traffic(0, 1, 0, size)


# Manifest and recipe found missing, record of the run's artifacts, recipe, scratch found missing, manifest, which is
# read again.
ARTIFACT = Traffic(5, 5, 1_000, 2_000)
SCORING = Traffic(19, 7, 5_000)  # SCORES of earlier versions are looked for, committed parts, SHARDS
SCRATCH = Traffic(1, 3)  # a folder of temporary files: its marker, and to delete it
LABELED_LEAKS = Traffic(11, 0, 30_000)  # the labeled set is compared with the test set before the corpus is labeled
# State, curve, checksums and the deletion of an older one; without its files of tensors.
CHECKPOINT = Traffic(1, 7)


@dataclass(frozen=True, kw_only=True)
class CorpusSize:
    """The form and the sizes of a corpus."""

    format: str
    """parquet, webdataset or files."""
    samples: int
    shards: int
    bytes: int

    @classmethod
    def of(cls, shards: Shards) -> Self:
        size = sum(shards.columns("bytes").column("bytes").to_pylist())
        return cls(format=shards.format, samples=shards.samples, shards=len(shards), bytes=size)

    @property
    def edge(self) -> float:
        """Bytes at each end of a shard that its fingerprint covers."""
        return min(EDGE, self.bytes / max(1, self.shards))

    def read(self, runs: float, samples: float, size: float) -> Traffic:
        """Reads `samples` samples, `size` bytes, in so many runs, each of neighbours in one shard.

        A file is opened and its two edges are compared with its fingerprint; parquet has a footer.
        """
        if self.format == "files":
            return Traffic(2 * samples, 0, size)
        footer = self.format == "parquet"
        data = max(runs, size / BLOCK + runs / 2)  # the last block of a run is half as large on average
        return Traffic(runs * (3 + footer) + data, 0, size + runs * self.edge * (2 + footer))

    @property
    def check(self) -> Traffic:
        """Compares every shard with its fingerprint."""
        if self.format == "files":
            return Traffic(0, self.samples / 1000)  # folders are listed
        footer = self.format == "parquet"
        return Traffic(3 + 2 * footer, 0, self.edge * (2 + footer)) * self.shards

    @property
    def verify(self) -> Traffic:
        """Compares every shard with its fingerprint after it was scored."""
        if self.format == "files":
            return Traffic()  # one that vanished is a reject
        return Traffic(3, 0, 2 * self.edge) * self.shards


def start(corpora: list[CorpusSize]) -> Traffic:
    """The inputs are checked, and the artifacts that exist are found."""
    return sum((corpus.check for corpus in corpora), Traffic(44, 6, 100_000, 2_000))


def lock(seconds: float) -> Traffic:
    """The heartbeats of the root lock."""
    return Traffic(2, 2, 300, 300) * (seconds / HEARTBEAT_EVERY)


def label(
    corpus: CorpusSize, items: int, parts: int, actors: int, weights: int, bytes_per_row: float, share: float = 1
) -> Traffic:
    """Scores a share of the corpus, by actors that take work items and commit parts."""
    loaded = (file(weights) + Traffic(3, 0, 50_000)) * min(actors, items)  # the network and SHARDS
    written = (put(corpus.samples * bytes_per_row / max(1, parts)) + put(500)) * parts
    runs = corpus.shards + items - 1
    scored = (corpus.read(runs, corpus.samples, corpus.bytes) + written) * share
    return ARTIFACT + SCORING + loaded + scored + corpus.verify


def rank_stored(samples: int, parts: int, feature_row: float, score_row: float) -> Traffic:
    """Reads FEATURES and writes SCORES, part by part; a part without REJECTS is asked for them too."""
    part = samples / max(1, parts)
    each = file(part * feature_row) + Traffic(1) + put(part * score_row) + put(500)
    return ARTIFACT + SCORING + each * parts


def pairs(files: int, size: float, thumbnails: float, sets: float) -> Traffic:
    """Compares SCORES of the corpus, in files of `size` bytes in all, and their thumbnails with the evaluation sets, of
    `sets` bytes. Few files have pairs."""
    files = max(1, files)
    each = file(size / files) + (file(thumbnails / files) if thumbnails else Traffic()) + put(300)
    return ARTIFACT + Traffic(7, 4, 3_000 + sets) + each * files


def select(rows: int, files: int, size: float, p: int, k: int, classes: int, cpus: int, picked: float) -> Traffic:
    """Finds duplicates in SCORES, in files of `size` bytes in all, and selects. `picked`: bytes of PICKS."""
    footer = min(FOOTER, size / max(1, files))
    tasks = -(-rows // BUCKET_ROWS)
    buckets = 1 << max(0, (rows - 1) // BUCKET_ROWS).bit_length()
    hashes = Traffic(0, 0, rows * DIGEST_ROW, rows * DIGEST_ROW)
    duplicates = Traffic(3, 0, footer) * files + hashes + Traffic(0, 1) * (tasks + buckets)
    duplicates += Traffic(4, 0) * (tasks * buckets) + hashes * 0.5
    maps = max(min(cpus, -(-rows * p // GROUP_CANDIDATES)), -(-rows // GROUP_ROWS), 1)
    held = min(classes * k, rows * p / maps)  # candidates of a map task
    written = maps * max(1, math.ceil(held / KEPT))
    slices = -(-classes // SLICE)
    counted = 1 << max(0, (min(classes * k, rows * p) - 1) // KEYS).bit_length()
    candidates = Traffic(0, 1, CANDIDATE * held, CANDIDATE * held)  # written by a map task, read by the reduce tasks
    chosen = Traffic(4, 0, footer) * files + Traffic(0, 0, size) + candidates * written
    chosen += Traffic(4, 0) * (slices * (written + counted)) + Traffic(0, 2, 0, picked / slices) * slices
    return (ARTIFACT + SCRATCH) * 2 + Traffic(4, 0, 10_000, 1_000) + duplicates + chosen


def materialize(corpus: CorpusSize, layout: Layout, rows: float, picks: int, size: float, left: float = 1) -> Traffic:
    """Writes SAMPLES, MEDIA of `size` bytes and their labels. `rows`: rows of the corpus that are read; `left`: the
    share of the parts that is not committed."""
    parts, blocks = layout.parts, -(-layout.parts // media.BLOCK)
    runs, table = max(1, -(-picks // samples.PICKED)), TABLE_ROW * picks
    pairs = (TABLE_ROW + samples.PAIR.itemsize) * picks
    sort = Traffic(5, 2) * runs + Traffic(2) * runs**2 + Traffic(0, 0, pairs, pairs)
    each = min(corpus.shards, BANDS + corpus.shards / parts, layout.samples / parts)  # shards that a part reads
    planned = (file(table / blocks) * 2 + put(table / blocks) * 2 + Traffic(4)) * blocks
    share = rows / max(1, corpus.samples)
    read = corpus.read(parts * each, layout.samples, corpus.bytes * share) + Traffic(BANDS * (parts - 1))
    written = (Traffic(3, 0, 1_000) + Traffic(6, 0, 10_000) + put(size / parts) + put(1_000)) * parts
    return ARTIFACT * 3 + SCRATCH * 2 + Traffic(5, 3, 5_000) + sort + planned + (read + written) * left


def stream(layout: Layout, workers: int, size: float, epochs: float) -> Traffic:
    """All workers read the media of their lanes, `size` bytes in all, in each epoch; a lane that one read covers only
    once."""
    lanes, groups = layout.lanes, layout.lane_groups
    classes = math.gcd(lanes, workers)
    shared = min(workers - classes, lanes) if lanes % workers else 0  # lanes that several workers read (shares.py)
    alone = lanes - shared
    several = workers - classes + lanes - alone if shared else 0  # the workers of each shared lane, summed
    files = max(1, layout.parts // lanes)  # of a lane
    units = files * max(1, groups // files // UNIT)
    opened = min((alone + several) * max(1, layout.parts / lanes), workers * layout.parts)
    if opened / workers > OPEN:
        opened *= max(1.0, epochs)
    passes, of_several = (1.0 if layout.read_once(one) else epochs for one in (False, True))
    requests = alone * groups * passes + several * units * of_several
    return Traffic(opened + requests, 0, size * (alone * passes + several * of_several) / lanes)


def train(
    layout: Layout,
    workers: int,
    size: float,
    items: int,
    images: float,
    weights: int,
    checkpoints: int,
    tensors: int = 2,
) -> Traffic:
    """Trains on `images` images, of EXAMPLES with `items` items and `size` bytes. `checkpoints`: without the last.
    `tensors`: files of a checkpoint that are as large as the weights, these among them."""
    state = put(weights) * tensors + CHECKPOINT
    last = Traffic(2 * (tensors + 3), 0, tensors * weights)  # the last checkpoint, read to become the result
    read = examples(layout, workers, size, items, images)
    return ARTIFACT + SCRATCH + Traffic(9, 12, 3_000) + read + state * (checkpoints + 1) + last + put(weights)


def examples(layout: Layout, workers: int, size: float, items: int, images: float) -> Traffic:
    """Reads EXAMPLES with `items` items and `size` bytes to train on `images` images."""
    tables = file(40 * layout.groups) + Traffic(3, 0, 8 * items)  # ROW_GROUPS and labels
    return stream(layout, workers, size, images / items) + tables * workers


def validate(layout: Layout, workers: int, size: float, items: int, points: int) -> Traffic:
    """Reads EXAMPLES of `items` items and `size` bytes at each of the points, shared by the workers."""
    tables = file(40 * layout.groups) + Traffic(3, 0, 8 * items)
    opened = Traffic(min(layout.groups, workers * layout.parts))
    return tables * workers + opened + Traffic(layout.groups, 0, size) * points


def tracking(seconds: Iterable[float]) -> Traffic:
    """The event files of TensorBoard: of the run, and of trainings that take so many seconds. A file is written anew
    when it has new points."""
    total = Traffic(0, 3, 0, 2 * SETTINGS)
    for one in seconds:
        times = 1 + min(POINTS, one / EVERY)
        total += Traffic(0, 1 + times, 0, times * POINTS * EVENT * (0.5 if times > 1 else 1))
    return total


def report() -> Traffic:
    """The metrics, and the page with its pictures."""
    return ARTIFACT * 2 + Traffic(40, 5, 450_000, 350_000)
