"""EXAMPLES → batches: the order of training data is a pure function of (seed, epoch, position).

World size, workers and restarts are no part of it. An item is a (sample, label) pair: a sample under three labels is
three items. Each lane goes through its items epoch after epoch, each epoch a permutation of them all; item g of the
stream is item g // L of lane g % L, so that a worker that owns some lanes reads those alone and knows its part of any
batch without asking the others. Elastic determinism is an idea of MosaicML's streaming; the lanes differ from it.
"""

import bisect
import itertools
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq

from raylabel.artifact import Artifact, filesystem
from raylabel.errors import InputError
from raylabel.media.views import View, train_pixels

WINDOW = 4  # row groups of a lane that are held and shuffled together: some 256 samples, times the lanes of a worker
AHEAD = 4  # batches that stand ready before the device asks

_LANE, _WINDOW, _AUGMENT = 1, 2, 3  # what a random number is for: streams of different purpose never coincide


def _rng(seed: int, purpose: int, *counter: int) -> np.random.Generator:
    """Counter-based (Philox, Salmon et al. 2011): any number of the stream without those before it."""
    padded = (*counter, *([0] * (3 - len(counter))))
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, *padded]))


class _Lane:
    """One lane's endless sequence of items. An item is (file, row in its row group, label position)."""

    def __init__(self, lane: int, items: list[list[int]], seed: int):
        self.lane, self.seed = lane, seed
        self.groups = [(file, lanes[lane]) for file, lanes in enumerate(items) if lane < len(lanes)]
        self.size = sum(count for _, count in self.groups)

    def windows(self, epoch: int) -> list[list[tuple[int, int]]]:
        """The epoch's order of row groups, cut in windows: [(file, items)]."""
        order = _rng(self.seed, _LANE, epoch, self.lane).permutation(len(self.groups))
        groups = [self.groups[i] for i in order]
        return [groups[i : i + WINDOW] for i in range(0, len(groups), WINDOW)]

    def locate(self, position: int) -> tuple[int, int, list[tuple[int, int]], int]:
        """(epoch, window, its row groups, item in the shuffled window) of an endless position."""
        epoch, rest = divmod(position, self.size)
        windows = self.windows(epoch)
        ends = list(itertools.accumulate(sum(count for _, count in window) for window in windows))
        window = bisect.bisect_right(ends, rest)
        return epoch, window, windows[window], rest - (ends[window - 1] if window else 0)


class Stream:
    """The items of EXAMPLES, in order, for one worker."""

    def __init__(self, examples: Artifact, seed: int):
        items = examples.info["lane_items"]
        self.examples, self.seed = examples, seed
        self.lanes = [_Lane(lane, items, seed) for lane in range(max(map(len, items)))]
        self.names = [f.name for f in examples.files("examples-")]
        self._fs, self._path = filesystem(examples.uri)

    def check_workers(self, world: int, batch: int) -> None:
        """InputError if a worker would have no lane, or fewer than the two images of a batch that BatchNorm needs."""
        if world > len(self.lanes):
            raise InputError(
                f"{world} training workers, but {self.examples.name} has {len(self.lanes)} lanes: lower "
                "--resources.workers, or raise --materialize.lanes (it cannot exceed the number of samples)"
            )
        starts = range(0, len(self.lanes) * batch, batch)  # of the batches, until their lanes come round again
        parts = (sum(1 for _ in self.mine(s, s + batch, rank, world)) for s in starts for rank in range(world))
        if (least := min(parts)) < 2:
            raise InputError(
                f"a batch of {batch} over {world} training workers gives one of them {least} images, and BatchNorm "
                "needs 2: lower --resources.workers, or raise the batch"
            )

    def mine(self, start: int, stop: int, rank: int, world: int) -> Iterator[int]:
        """Which global items of [start, stop) this worker serves: those of its lanes, lane % world == rank."""
        return (g for g in range(start, stop) if g % len(self.lanes) % world == rank)

    def items(self, start: int, stop: int, rank: int = 0, world: int = 1) -> Iterator[tuple[int, int, bytes, int]]:
        """(global position, key, encoded bytes, label) of this worker's items of [start, stop), in stream order."""
        held: dict[int, tuple[tuple[int, int], list[tuple[int, bytes, int]]]] = {}
        located: dict[int, tuple[int, int, list[tuple[int, int]], int, int]] = {}
        for g in self.mine(start, stop, rank, world):
            position, number = divmod(g, len(self.lanes))
            lane = self.lanes[number]
            at = located.get(number)
            if at is None or not at[4] <= position < at[4] + self._length(at[2]):
                epoch, window, groups, offset = lane.locate(position)
                at = located[number] = (epoch, window, groups, 0, position - offset)
            epoch, window, groups, _, begin = at
            if held.get(number, (None,))[0] != (epoch, window):
                held.pop(number, None)  # the old window goes before the new one comes
                held[number] = ((epoch, window), self._load(lane, epoch, window, groups))
            yield g, *held[number][1][position - begin]

    @staticmethod
    def _length(groups: list[tuple[int, int]]) -> int:
        return sum(count for _, count in groups)

    def _load(self, lane: _Lane, epoch: int, window: int, groups: list[tuple[int, int]]) -> list:
        """A window's items (key, bytes, label), shuffled; bytes of a sample with several labels are shared."""
        found: list[tuple[int, bytes, int]] = []
        for file, count in groups:
            with pq.ParquetFile(f"{self._path}/{self.names[file]}", filesystem=self._fs) as parquet:
                table = parquet.read_row_group(lane.lane)
            columns = (table.column(name).to_pylist() for name in ("key", "media", "labels"))
            rows = zip(*columns, strict=True)
            some = [(key, media, label) for key, media, labels in rows for label in labels]
            if len(some) != count:
                raise AssertionError(f"{self.names[file]}: lane {lane.lane} has {len(some)} items, expected {count}")
            found += some
        order = _rng(self.seed, _WINDOW, epoch, lane.lane, window).permutation(len(found))
        return [found[i] for i in order]

    def batches(
        self, view: View, batch: int, first: int, images: int, rank: int, world: int, threads: int = 1
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(pixels uint8 [b, H, W, 3], labels int64 [b]) of this worker, batch after batch, prepared ahead.

        The stream starts at global item `first` (a multiple of `batch`) and ends after item `images`; b is this
        worker's part of the global batch. Decoding and augmentation run on `threads` threads beside the device.
        """
        ready: queue.Queue = queue.Queue(maxsize=AHEAD)
        stopped = threading.Event()

        def put(value) -> bool:
            while not stopped.is_set():
                try:
                    ready.put(value, timeout=0.1)
                    return True
                except queue.Full:
                    continue
            return False

        def prepare(item: tuple[int, int, bytes, int]) -> np.ndarray:
            g, _, media, _ = item
            return train_pixels(media, view, _rng(self.seed, _AUGMENT, g))

        def produce() -> None:
            try:
                with ThreadPoolExecutor(threads) as pool:
                    source = self.items(first, images, rank, world)
                    for start in range(first, images, batch):
                        stop = min(start + batch, images)
                        some = list(itertools.islice(source, sum(1 for _ in self.mine(start, stop, rank, world))))
                        views = map(prepare, some) if threads == 1 else pool.map(prepare, some)
                        if not put((np.stack(list(views)), np.array([item[3] for item in some], np.int64))):
                            return
                put(None)
            except BaseException as error:  # handed to the consumer, which raises it
                put(error)

        thread = threading.Thread(target=produce, name="stream", daemon=True)
        thread.start()
        try:
            while (value := ready.get()) is not None:
                if isinstance(value, BaseException):
                    raise value
                yield value
        finally:
            stopped.set()
            thread.join()
