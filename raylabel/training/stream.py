"""EXAMPLES → batches: the order of training data is a pure function of (seed, epoch, position).

It does not depend on the number of workers or on restarts. An item is a (sample, label) pair: a sample with three
labels is three items. Each lane repeats its items epoch after epoch, in a new permutation each time. With L lanes, item
g of the stream is item g // L of lane g % L. So a worker reads only the lanes that it owns, and knows its share of any
batch without communication. Elastic determinism is an idea of MosaicML's streaming library, which does not use lanes.

Reading and decoding run ahead of training, in threads of the worker: windows of row groups are read before they are
needed, evenly over time, and images are decoded some batches ahead. A worker holds the encoded bytes of one window per
lane and of SPARE more, each about 256 samples (with 64 lanes and photographs of 70 KB: 1.2 GB for a single worker,
0.1 GB for each of 64), and the pixels of AHEAD + 2 batches. A window of videos has an eighth as many samples.
"""

import contextlib
import heapq
import itertools
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from raylabel.errors import InputError
from raylabel.media.parsers import train_parser
from raylabel.media.sandbox.sandbox import Parser, Sandbox
from raylabel.media.view import View
from raylabel.prefetch import ahead
from raylabel.rng import AUGMENT, LANE_ORDER, WINDOW_ORDER, rng
from raylabel.store.artifact import Artifact
from raylabel.store.files import filesystem, reading

WINDOW = 4  # row groups of a lane that are held and shuffled together: about 256 samples
SPARE = 4  # windows that are read in addition to one per lane: they cover about a second of an object store's latency
READERS = 8  # windows read in parallel; the threads mostly wait
AHEAD = 4  # batches that are prepared before the device needs them
RUN = 8  # least number of images that one call of a thread decodes

Item = tuple[int, int, bytes, int]  # global position, key, encoded bytes, label


class _Window(NamedTuple):
    """Row groups of a lane that are shuffled together. Windows compare by `first`, that is by when they are needed."""

    first: int
    """Position in the stream of the first item needed from this window."""
    lane: int
    epoch: int
    number: int
    """Index of the window in the epoch."""
    skip: int
    """Items of the window before the first one needed."""
    groups: list[tuple[int, int]]
    """[(file, items)]"""

    @property
    def size(self) -> int:
        return sum(count for _, count in self.groups)


class _Lane:
    """The endless sequence of items of one lane."""

    def __init__(self, lane: int, items: list[list[int]], seed: int):
        self.lane, self.seed = lane, seed
        self.groups = [(file, lanes[lane]) for file, lanes in enumerate(items) if lane < len(lanes)]
        self.size = sum(count for _, count in self.groups)
        self.largest = sum(heapq.nlargest(WINDOW, (count for _, count in self.groups)))  # no window has more items

    def windows(self, epoch: int) -> list[list[tuple[int, int]]]:
        """The row groups in the order of the epoch, as windows of nearly equal length: [(file, items)].

        Otherwise the last window could be a single row group, whose samples are neighbours in the corpus.
        """
        order = rng(self.seed, LANE_ORDER, epoch, self.lane).permutation(len(self.groups))
        groups = [self.groups[i] for i in order]
        count = -(-len(groups) // WINDOW)
        ends = [i * len(groups) // count for i in range(count + 1)]
        return [groups[begin:end] for begin, end in itertools.pairwise(ends)]

    def windows_from(self, start: int, lanes: int) -> Iterator[_Window]:
        """The windows without end, from the one that holds the lane's first item at or after position `start`.

        `start`: a position in the stream; `lanes`: number of lanes of the stream.
        """
        position = -((self.lane - start) // lanes)
        begin, skip = divmod(position, self.size)
        for epoch in itertools.count(begin):
            for number, groups in enumerate(self.windows(epoch)):
                window = _Window(position * lanes + self.lane, self.lane, epoch, number, skip, groups)
                if skip >= window.size:
                    skip -= window.size
                    continue
                yield window
                position += window.size - skip
                skip = 0


class Stream:
    """The items of EXAMPLES, in order, for one worker."""

    def __init__(self, examples: Artifact, seed: int):
        items = examples.info["lane_items"]
        self.examples, self.seed = examples, seed
        self.lanes = [_Lane(lane, items, seed) for lane in range(max(map(len, items)))]
        self.names = [f.name for f in examples.files("examples-")]
        self._fs, self._path = filesystem(examples.uri)

    def check_workers(self, world: int, batch: int) -> None:
        """InputError if a worker would get no lane, or fewer than 2 images of some batch, which BatchNorm needs."""
        if world > len(self.lanes):
            raise InputError(
                f"{world} training workers, but {self.examples.name} has {len(self.lanes)} lanes: lower "
                "--resources.workers, or raise --materialize.lanes (at most the number of samples)"
            )
        starts = range(0, len(self.lanes) * batch, batch)  # first items of the batches, until their lanes repeat
        owner = np.arange(len(self.lanes)) % world
        shares = (np.bincount(owner[np.arange(s, s + batch) % len(owner)], minlength=world).min() for s in starts)
        if (least := min(shares)) < 2:
            raise InputError(
                f"a batch of {batch} over {world} training workers gives one worker only {least} images, but BatchNorm "
                "needs 2: lower --resources.workers, or raise the batch"
            )

    def serves(self, world: int, batch: int) -> bool:
        """Whether that many workers can share a batch."""
        try:
            self.check_workers(world, batch)
        except InputError:
            return False
        return True

    def mine(self, start: int, stop: int, rank: int, world: int) -> Iterator[int]:
        """The positions in [start, stop) of this worker's items. It owns the lanes with lane % world == rank."""
        return (g for g in range(start, stop) if g % len(self.lanes) % world == rank)

    def items(self, start: int, stop: int, rank: int = 0, world: int = 1) -> Generator[Item, None, None]:
        """(global position, key, encoded bytes, label) of this worker's items in [start, stop), in stream order.

        Threads read the windows in the order in which they are needed, each as soon as enough items were consumed to
        make room for it. So the reads are spread evenly over time, although all lanes finish a window at about the same
        time.
        """
        mine = [lane for lane in self.lanes if lane.lane % world == rank]
        # There is room for a window of every lane, so the window needed next has always been submitted.
        room = sum(lane.largest for lane in mine) + SPARE * max(lane.largest for lane in mine)
        windows = heapq.merge(*(lane.windows_from(start, len(self.lanes)) for lane in mine))
        coming, held = next(windows), 0
        reading: defaultdict[int, deque[Future]] = defaultdict(deque)
        current: dict[int, list[tuple[int, bytes, int]]] = {}  # lane → items left in its window, the next one last
        pool = ThreadPoolExecutor(READERS, thread_name_prefix="stream-read")
        try:
            for g in self.mine(start, stop, rank, world):
                while held < room and coming.first < stop:
                    reading[coming.lane].append(pool.submit(self._load, coming))
                    coming, held = next(windows), held + coming.size - coming.skip
                number = g % len(self.lanes)
                if not current.get(number):
                    current[number] = reading[number].popleft().result()
                held -= 1
                yield g, *current[number].pop()
        finally:
            pool.shutdown(cancel_futures=True)

    def _load(self, window: _Window) -> list[tuple[int, bytes, int]]:
        """The needed items (key, bytes, label) of the window, shuffled, in reverse order.

        The items of a sample with several labels share its bytes.
        """
        found: list[tuple[int, bytes, int]] = []
        for file, count in window.groups:
            uri, path = f"{self.examples.uri}/{self.names[file]}", f"{self._path}/{self.names[file]}"
            # pre_buffer: one request reads all columns
            with reading(uri), pq.ParquetFile(path, filesystem=self._fs, pre_buffer=True) as parquet:
                table = parquet.read_row_group(window.lane, use_threads=False)
            columns = (table.column(name).to_pylist() for name in ("key", "media", "labels"))
            rows = zip(*columns, strict=True)
            some = [(key, media, label) for key, media, labels in rows for label in labels]
            if len(some) != count:
                raise AssertionError(f"{self.names[file]}: lane {window.lane} has {len(some)} items, expected {count}")
            found += some
        order = rng(self.seed, WINDOW_ORDER, window.epoch, window.lane, window.number).permutation(len(found))
        return [found[i] for i in reversed(order[window.skip :])]

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
    ) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
        """(pixels uint8 [b, H, W, 3], or [b, T, H, W, 3] for clips; labels int64 [b]) of this worker, batch after
        batch, prepared ahead of use.

        The stream starts at global item `first` (a multiple of `batch`) and ends before item `images`; b is this
        worker's share of the global batch. Decoding and augmentation run in `threads` threads, into memory that `empty`
        allocates for a shape. An error in them is raised here at its batch, after the batches before it. All threads
        have ended when the iterator ends or is closed.
        """

        sandbox = Sandbox(Parser.of(train_parser, view.cpu_seconds, view=view), threads)

        def fill(pixels: np.ndarray, items: list[Item]) -> None:
            numbers = [(self.seed, AUGMENT, item[0]) for item in items]
            rejects = sandbox.fill(pixels, [item[2] for item in items], numbers)
            for (_, key, _, _), reject in zip(items, rejects, strict=True):
                if reject:
                    raise InputError(
                        f"{self.examples.uri}: sample {key} cannot be decoded ({reject}), but could be when it was "
                        "written: delete that folder and run again"
                    )

        def prepare() -> Generator[tuple[list[Future], np.ndarray, np.ndarray], None, None]:
            """Each batch as soon as its decoding is submitted: (calls that fill the pixels, pixels, labels)."""
            source = self.items(first, images, rank, world)
            pool = ThreadPoolExecutor(threads, thread_name_prefix="stream-decode")
            try:
                for start in range(first, images, batch):
                    stop = min(start + batch, images)
                    some = list(itertools.islice(source, sum(1 for _ in self.mine(start, stop, rank, world))))
                    pixels = empty((len(some), *view.train_shape))
                    run = max(RUN, -(-len(some) // (4 * threads)))  # work for all threads, but not too many calls
                    runs = range(0, len(some), run)
                    filling = [pool.submit(fill, pixels[i : i + run], some[i : i + run]) for i in runs]
                    yield filling, pixels, np.array([item[3] for item in some], np.int64)
            except GeneratorExit:
                pool.shutdown(cancel_futures=True)  # their results are no longer needed
                raise
            finally:
                pool.shutdown()
                source.close()
                sandbox.close()

        with contextlib.closing(ahead(prepare(), AHEAD)) as batches:
            for filling, pixels, labels in batches:
                for run in filling:
                    run.result()
                yield pixels, labels
