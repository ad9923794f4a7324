"""EXAMPLES → batches: the order of training data is a pure function of (seed, epoch, position).

It does not depend on the number of workers or on restarts. An item is a (sample, label) pair: a sample with three
labels is three items; or, for the binary cross-entropy of all classes, one. Each lane repeats its items epoch after
epoch, in a new permutation each time (lanes.py). With L lanes, item g of the stream is item g // L of lane g % L. Each
worker knows its share of any batch without communication (shares.py). Elastic determinism is an idea of MosaicML's
streaming library, which does not use lanes.

Reading and decoding run ahead of training, in threads of the worker: groups of samples are read before they are needed,
evenly over time, and images are decoded some batches ahead. With 64 lanes and W workers:

| W | 1 | 2 | 8 | 48 | 63 | 64 | 127 | 128 |
|---|---|---|---|---|---|---|---|---|
| requests per 512 images | 0.9 | 0.9 | 0.9 | 0.8 | 0.6 | 0.9 | 0.9 | 0.6 |
| bytes read, over those of the samples | 1.0 | 1.0 | 1.0 | 1.5 | 2.0 | 1.0 | 3.0 | 2.0 |

One request reads a row group of about 640 images (40 videos), or four of them if workers share the lane: then each
keeps the items that are its own. A worker holds the encoded bytes of one such read per lane, of SPARE more, and the
pixels of AHEAD + 2 batches. With photographs of 70 KB, by computation, that is 3.0 GB for a single worker, 0.2 GB for
each of 64, and 0.5 GB for each of 63 or 127. A lane that one read covers is read once and kept; the table counts the
first epoch, with a request for the size of each file, of lanes of 8 groups (tests/bench/cloud_examples.py).
"""

import contextlib
import heapq
import itertools
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property

import numpy as np

from raylabel.errors import InputError
from raylabel.media.parsers import train_parser
from raylabel.media.sandbox.sandbox import Parser, Sandbox
from raylabel.media.view import View
from raylabel.prefetch import ahead
from raylabel.rng import AUGMENT, WINDOW_ORDER, rng
from raylabel.store.artifact import Artifact
from raylabel.training.examples import undecodable
from raylabel.training.lanes import Lane, Read
from raylabel.training.losses import stack_labels
from raylabel.training.row_groups import RowGroup, row_groups_of
from raylabel.training.shares import Share
from raylabel.training.soft import Soft, stack

SPARE = 4  # reads ahead in addition to one per lane: they cover about a second of an object store's latency
READERS = 8  # reads in parallel; the threads mostly wait
AHEAD = 4  # batches that are prepared before the device needs them
RUN = 8  # least number of images that one call of a thread decodes
CHUNK = 4096  # positions of the stream that are looked at together

Label = int | np.ndarray
"""Of an item; or all labels of the sample."""
Item = tuple[int, int, bytes, Label, Soft | None]  # global position, key, encoded bytes, Label, Soft [P] of the sample


class Stream:
    """The items of EXAMPLES, in order, for one worker."""

    def __init__(self, examples: Artifact, seed: int, several: bool = False):
        """`several`: an item is a sample with all its labels."""
        self.examples, self.seed, self._several = examples, seed, several
        self._kept: dict[int, list[RowGroup]] = {}
        self._locks: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)

    @cached_property
    def _groups(self):
        return row_groups_of(self.examples, self._several)

    @cached_property
    def lanes(self) -> list[Lane]:
        """All lanes, with all labels. A worker loads only its own."""
        found = self._groups.load(range(self._groups.lanes), self.seed)
        return [found[lane] for lane in sorted(found)]

    def check_workers(self, world: int, batch: int) -> None:
        """InputError if a worker would get fewer than 2 images of some batch, which BatchNorm needs."""
        if (least := self.least(world, batch)) < 2:
            raise InputError(
                f"a batch of {batch} over {world} training workers gives one worker only {least} images, but BatchNorm "
                "needs 2: lower --resources.workers, or raise the batch"
            )

    def serves(self, world: int, batch: int) -> bool:
        """Whether that many workers can share a batch."""
        return self.least(world, batch) >= 2

    def least(self, world: int, batch: int) -> int:
        """The fewest items of a whole batch that a worker gets."""
        return batch // world

    def examples_at(self, position: int, batch: int) -> Artifact:
        """The EXAMPLES of the item at a position."""
        return self.examples

    def share(self, batch: int, stop: int, rank: int = 0, world: int = 1) -> Share:
        """A worker's share of the stream's batches of that size, until item `stop`."""
        return Share(lanes=self._groups.lanes, batch=batch, stop=stop, rank=rank, world=world)

    def positions(self, start: int, end: int, stop: int, rank: int, world: int, batch: int) -> np.ndarray:
        """The positions in [start, end) of this worker's items, ascending, int64, if the stream is used in batches of
        that size until `stop`."""
        return self.share(batch, stop, rank, world).mine(start, end)

    def items(
        self, start: int, stop: int, rank: int = 0, world: int = 1, batch: int = 1
    ) -> Generator[Item, None, None]:
        """(global position, key, encoded bytes, label, Soft) of this worker's items in [start, stop), in stream order,
        if the stream is used in batches of that size until `stop`.

        Threads read the groups in the order in which they are needed, each as soon as enough items were consumed to
        make room for it. So the reads are spread evenly over time, although all lanes finish a group at about the same
        time.
        """
        share = self.share(batch, stop, rank, world)
        parts = share.parts
        lanes = self._groups.load(parts, self.seed)
        largest = {n: parts[n] * (lane.largest if parts[n] == 1 else lane.largest_unit) for n, lane in lanes.items()}
        room = sum(largest.values()) + SPARE * max(largest.values(), default=0)
        reads = heapq.merge(*(lane.reads(start, share, parts[n] < 1) for n, lane in lanes.items()))
        coming, held = next(reads, None), 0
        reading: defaultdict[int, deque[Future]] = defaultdict(deque)
        current: dict[int, list[Item]] = {}  # lane → items left of its read, the next one last
        pool = ThreadPoolExecutor(READERS, thread_name_prefix="stream-read")
        try:
            for begin in range(start, stop, CHUNK):
                for g in share.mine(begin, begin + CHUNK).tolist():
                    while coming and (held < room or coming.first <= g):
                        reading[coming.lane].append(pool.submit(self._load, coming, lanes[coming.lane]))
                        held += int(coming.mine.sum())
                        coming = next(reads, None)
                    lane = g % share.lanes
                    if not current.get(lane):
                        current[lane] = reading[lane].popleft().result()
                    held -= 1
                    yield current[lane].pop()
        finally:
            pool.shutdown(cancel_futures=True)

    def _load(self, read: Read, lane: Lane) -> list[Item]:
        """The worker's items of what is read, in reverse order. The items of a sample with several labels share its
        bytes."""
        groups = self._read(read, lane)
        found: list[Item] = []
        at = 0
        for window in read.windows:
            some = [groups.pop(0) for _ in window.groups]
            order = rng(self.seed, WINDOW_ORDER, read.epoch, read.lane, window.number).permutation(window.size)
            places = [(group, item) for group in some for item in range(len(group.label))]
            media: dict[tuple[int, int], bytes] = {}
            for index in np.flatnonzero(read.mine[at : at + window.size]).tolist():
                group, item = places[order[index]]
                sample = int(group.sample[item])
                if (where := (id(group), sample)) not in media:
                    value = group.media[sample]
                    media[where] = value if isinstance(value, bytes) else value.as_py()
                place = int(read.positions[at + index])
                soft = group.soft and Soft(*(column[sample] for column in group.soft))
                label = group.labels[item] if group.labels else int(group.label[item])
                found.append((place, int(group.key[sample]), media[where], label, soft))
            at += window.size
        return found[::-1]

    def _read(self, read: Read, lane: Lane) -> list[RowGroup]:
        numbers = [group for window in read.windows for group in window.groups]
        if not read.once:
            return self._groups.read(read.lane, numbers)
        with self._locks[read.lane]:
            if read.lane not in self._kept:
                self._kept[read.lane] = self._groups.read(read.lane, list(range(len(lane.items))))
            return [self._kept[read.lane][group] for group in numbers]

    def batches(
        self,
        view: View,
        batch: int,
        first: int,
        images: int,
        rank: int,
        world: int,
        threads: int = 1,
        empty: Callable[[tuple[int, ...]], np.ndarray] = lambda shape: np.empty(shape, np.uint8),
    ) -> Generator[tuple[np.ndarray, np.ndarray, Soft | None], None, None]:
        """(pixels uint8 [b, H, W, 3], or [b, T, H, W, 3] for clips; labels int64 [b], or [b, L] if items have several;
        Soft [b, P] if the EXAMPLES have it) of this worker, batch after batch, prepared ahead of use.

        The stream starts at global item `first` (a multiple of `batch`) and ends before item `images`; b is this
        worker's share of the global batch. Decoding and augmentation run in `threads` threads, into memory that `empty`
        allocates for a shape. An error in them is raised here at its batch, after the batches before it. All threads
        have ended when the iterator ends or is closed.
        """
        sandbox = Sandbox(Parser.of(train_parser, view.cpu_seconds, view=view), threads)

        def fill(pixels: np.ndarray, items: list[Item]) -> None:
            numbers = [(self.seed, AUGMENT, item[0]) for item in items]
            rejects = sandbox.fill(pixels, [item[2] for item in items], numbers)
            for (position, key, *_), reject in zip(items, rejects, strict=True):
                if reject:
                    raise undecodable(self.examples_at(position, batch), key, reject)

        def prepare() -> Generator[tuple[list[Future], np.ndarray, np.ndarray, Soft | None], None, None]:
            """Each batch as soon as its decoding is submitted: (calls that fill the pixels, pixels, labels, Soft)."""
            source = self.items(first, images, rank, world, batch)
            pool = ThreadPoolExecutor(threads, thread_name_prefix="stream-decode")
            try:
                for start in range(first, images, batch):
                    stop = min(start + batch, images)
                    mine = self.positions(start, stop, images, rank, world, batch)
                    some = list(itertools.islice(source, len(mine)))
                    pixels = empty((len(some), *view.train_shape))
                    run = max(RUN, -(-len(some) // (4 * threads)))  # work for all threads, but not too many calls
                    runs = range(0, len(some), run)
                    filling = [pool.submit(fill, pixels[i : i + run], some[i : i + run]) for i in runs]
                    labels = stack_labels([item[3] for item in some])
                    yield filling, pixels, labels, stack([item[4] for item in some])
            except GeneratorExit:
                pool.shutdown(cancel_futures=True)  # their results are no longer needed
                raise
            finally:
                pool.shutdown()
                source.close()
                sandbox.close()

        with contextlib.closing(ahead(prepare(), AHEAD)) as batches:
            for filling, pixels, labels, soft in batches:
                for run in filling:
                    run.result()
                yield pixels, labels, soft
