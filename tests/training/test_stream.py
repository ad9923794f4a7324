"""The order of training data is a pure function of (seed, epoch, position). Resuming depends on this."""

import hashlib
import itertools
import threading
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from examples import Row, stored_examples
from helpers import DIGITS_VIEW, digit_images
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.errors import InputError
from raylabel.media.sandbox.sandbox import Sandbox
from raylabel.schema import EXAMPLES
from raylabel.store.artifact import Artifact, Built, Root, write_table
from raylabel.training.layout import Layout
from raylabel.training.stream import AHEAD, SPARE, Label, Stream


def write_examples(root: Root, rows: list[list[list[Row]]]) -> Artifact:
    """EXAMPLES of rows[file][lane], as earlier versions wrote them."""

    def build(draft) -> Built:
        files = []
        for number, lanes in enumerate(rows):
            columns = [zip(*lane, strict=True) for lane in lanes]
            arrays = [[pa.array(c, f.type) for c, f in zip(cs, EXAMPLES, strict=True)] for cs in columns]
            groups = [pa.Table.from_arrays(a, schema=EXAMPLES) for a in arrays]
            files.append(write_table(draft.uri, f"examples-{number:06d}.parquet", *groups))
        return Built(files, {"lane_items": [[sum(len(row[2]) for row in lane) for lane in lanes] for lanes in rows]})

    return root.make("examples-fake", {}, build)


def fake_examples(root: Root, counts: list[list[list[int]]]) -> Artifact:
    """counts[file][lane] lists the number of labels of each sample. Keys count up from 0; media are real digits."""
    media, _ = digit_images()
    key = itertools.count()

    def row(labels: int) -> Row:
        k = next(key)
        return k, media[k % len(media)], list(range(labels))

    return write_examples(root, [[[row(n) for n in lane] for lane in lanes] for lanes in counts])


lanes_of_files = st.integers(1, 5).flatmap(
    lambda lanes: st.lists(
        st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=4), min_size=lanes, max_size=lanes),
        min_size=1,
        max_size=11,
    )
)


def order(stream: Stream, start: int, stop: int, rank: int = 0, world: int = 1) -> list[tuple[int, int, Label]]:
    return [(g, key, label) for g, key, _, label, _ in stream.items(start, stop, rank, world)]


@settings(max_examples=15)
@given(lanes_of_files, st.integers(0, 3), st.data())
def test_order_does_not_depend_on_workers_or_restarts(tmp_path_factory, counts, seed, data):
    examples = fake_examples(Root.open(str(tmp_path_factory.mktemp("root"))), counts)
    length = 3 * examples.info["lane_items"][0][0] * len(counts[0]) + 7
    whole = order(Stream(examples, seed), 0, length)
    assert [g for g, _, _ in whole] == list(range(length))
    for world in range(1, len(counts[0]) + 1):
        parts = [order(Stream(examples, seed), 0, length, rank, world) for rank in range(world)]
        assert sorted(itertools.chain(*parts)) == whole
    start = data.draw(st.integers(0, length - 1))
    assert order(Stream(examples, seed), start, length) == whole[start:]


def test_examples_of_earlier_versions_have_the_sequence_that_they_had(tmp_path):
    counts = [
        [[(3 * f + lane + i) % 3 + 1 for i in range(1 + (f * lane) % 4)] for lane in range(7 if f < 9 else 4)]
        for f in range(10)
    ]
    found = order(Stream(fake_examples(Root.open(str(tmp_path)), counts), 5), 0, 1200)
    assert hashlib.sha256(repr(found).encode()).hexdigest()[:16] == "45d4094bca3dc497"  # by the version before


@settings(max_examples=20)
@given(st.data())
def test_stored_examples_are_the_samples_whatever_the_workers_batches_and_restarts(tmp_path_factory, data):
    samples, seed = data.draw(st.integers(1, 150)), data.draw(st.integers(0, 3))
    layout = Layout(
        samples=samples,
        lanes=data.draw(st.integers(1, min(samples, 9))),
        row_group_samples=data.draw(st.integers(1, 8)),
    )
    keys = np.cumsum(data.draw(st.lists(st.integers(1, 3), min_size=samples, max_size=samples))).tolist()
    rows: list[Row] = [(key, f"{key}".encode(), list(range(key % 3 + 1))) for key in keys]
    rejected = frozenset(data.draw(st.sets(st.sampled_from(keys), max_size=samples - 1)))
    examples = stored_examples(Root.open(str(tmp_path_factory.mktemp("root"))), rows, layout, rejected)
    stream = Stream(examples, seed)
    sizes = [lane.size for lane in stream.lanes]
    lanes, length = len(sizes), len(sizes) * max(sizes) * 2 + 5
    whole = list(Stream(examples, seed).items(0, length))
    assert [g for g, *_ in whole] == list(range(length)) and all(media == f"{k}".encode() for _, k, media, *_ in whole)
    pairs = Counter((key, label) for key, _, labels in rows if key not in rejected for label in labels)
    for epoch in (0, 1):
        some = [(k, label) for g, k, _, label, _ in whole if g // lanes // sizes[g % lanes] == epoch]
        assert Counter(some) == pairs
    world, batch = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 40))
    start = data.draw(st.integers(0, length - 1))
    parts = [list(Stream(examples, seed).items(start, length, rank, world, batch)) for rank in range(world)]
    assert sorted(itertools.chain(*parts)) == whole[start:]
    assert all(part == sorted(part) for part in parts)


def test_each_epoch_of_a_lane_holds_every_item_once_in_a_new_order(tmp_path):
    rng = np.random.default_rng(0)
    counts = [[rng.integers(1, 4, 5).tolist() for _ in range(4)] for _ in range(9)]
    examples = fake_examples(Root.open(str(tmp_path)), counts)
    stream = Stream(examples, seed=1)
    whole = order(stream, 0, 4 * 3 * max(lane.size for lane in stream.lanes))
    for number, lane in enumerate(stream.lanes):
        mine = [(key, label) for g, key, label in whole if g % 4 == number]
        epochs = [mine[i * lane.size : (i + 1) * lane.size] for i in range(3)]
        assert all(Counter(epoch) == Counter(epochs[0]) for epoch in epochs)
        assert max(Counter(epochs[0]).values()) == 1  # the same sample with another label is another item
        assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
        assert epochs[0] != sorted(epochs[0])
    other = order(Stream(examples, seed=2), 0, len(whole))
    assert other != whole


def test_batches_do_not_depend_on_threads_or_workers(tmp_path):
    counts = [[[1] * 6 for _ in range(4)] for _ in range(2)]
    stream = Stream(fake_examples(Root.open(str(tmp_path)), counts), seed=3)

    def run(rank=0, world=1, first=0, threads=1):
        return list(stream.batches(DIGITS_VIEW, 10, first, 95, rank, world, threads))

    whole = run()
    assert [len(labels) for _, labels, _ in whole] == [10] * 9 + [5]
    assert all(pixels.shape[1:] == (8, 8, 3) and pixels.dtype == np.uint8 for pixels, *_ in whole)
    for again in (run(threads=3), run(first=40)):
        for (a, x, _), (b, y, _) in zip(reversed(whole), reversed(again), strict=False):
            assert np.array_equal(a, b) and np.array_equal(x, y)
    # The shares of two workers, joined item by item, are the batch.
    halves = [run(rank, 2) for rank in range(2)]
    for step, (pixels, *_) in enumerate(whole):
        start, stop = step * 10, min(step * 10 + 10, 95)
        joined = np.empty_like(pixels)
        for rank in range(2):
            at = stream.share(10, 95, rank, 2).mine(start, stop) - start
            joined[at] = halves[rank][step][0]
        assert np.array_equal(joined, pixels)


def test_an_unreadable_image_raises_an_error_and_does_not_hang(tmp_path, monkeypatch):
    examples = fake_examples(Root.open(str(tmp_path)), [[[1, 1]]])
    stream = Stream(examples, seed=0)
    monkeypatch.setattr(stream, "_load", lambda *_: [(1, 1, b"nor this", 0, None), (0, 0, b"no picture", 0, None)])
    with pytest.raises(InputError, match=r"sample . cannot be decoded \(.*unrecognized.*run again"):
        list(stream.batches(DIGITS_VIEW, 2, 0, 4, 0, 1))
    assert not threads()


def threads() -> list[str]:
    """Names of the running threads of all streams."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("ahead", "stream"))]


def test_a_read_error_is_raised_after_the_batches_before_it(tmp_path, monkeypatch):
    stream = Stream(fake_examples(Root.open(str(tmp_path)), [[[1] * 8]]), seed=0)
    load = stream._load

    def fail(read, lane):
        if read.epoch == 2:
            raise OSError("the store is unavailable")
        return load(read, lane)

    monkeypatch.setattr(stream, "_load", fail)
    batches = stream.batches(DIGITS_VIEW, 4, 0, 400, 0, 1)
    assert [len(labels) for _, labels, _ in itertools.islice(batches, 4)] == [4] * 4
    with pytest.raises(OSError, match="the store is unavailable"):
        next(batches)
    assert not threads()


def test_a_closed_stream_stops_decoding_and_leaves_no_thread(tmp_path, monkeypatch):
    stream = Stream(fake_examples(Root.open(str(tmp_path)), [[[1] * 8, [1] * 8]]), seed=0)
    decoded, fill = [], Sandbox.fill
    monkeypatch.setattr(Sandbox, "fill", lambda self, out, *a: (decoded.extend(out), fill(self, out, *a))[1])
    for taken in (0, 1, 9):
        decoded.clear()
        batches = stream.batches(DIGITS_VIEW, 8, 0, 80_000, 0, 1, threads=3)
        for _ in range(taken):
            next(batches)
        batches.close()
        assert not threads()
        assert len(decoded) <= 8 * (taken + AHEAD + 2)
    next(stream.items(0, 80_000))  # garbage-collected, not closed
    assert not threads()


def test_pixels_are_written_into_the_allocated_memory(tmp_path):
    stream = Stream(fake_examples(Root.open(str(tmp_path)), [[[1] * 8]]), seed=0)
    given: list[np.ndarray] = []

    def empty(shape):
        given.append(np.empty(shape, np.uint8))
        return given[-1]

    batches = stream.batches(DIGITS_VIEW, 4, 0, 40, 0, 1, empty=empty)
    assert all(pixels is given[i] for i, (pixels, *_) in enumerate(batches))

    def none_left(shape):
        raise MemoryError("no pinned memory")

    with pytest.raises(MemoryError, match="no pinned memory"):
        list(stream.batches(DIGITS_VIEW, 4, 0, 40, 0, 1, empty=none_left))
    assert not threads()


def test_windows_are_read_in_parallel_before_they_are_needed(tmp_path, monkeypatch):
    stream = Stream(fake_examples(Root.open(str(tmp_path)), [[[1] * 3] for _ in range(12)]), seed=0)  # 1 lane
    load, together = stream._load, threading.Barrier(SPARE, timeout=60)

    def wait_for_the_others(*read):
        together.wait()  # times out if fewer readers run at the same time, which fails the test
        return load(*read)

    monkeypatch.setattr(stream, "_load", wait_for_the_others)
    assert len(list(stream.items(0, 12 * SPARE * 6))) == 12 * SPARE * 6


@pytest.mark.parametrize("rank, world", [(0, 1), (1, 3)])
def test_memory_is_bounded_by_the_windows_of_the_lanes_and_the_spare_ones(tmp_path, monkeypatch, rank, world):
    stream = Stream(fake_examples(Root.open(str(tmp_path)), [[[1] * 5 for _ in range(6)] for _ in range(9)]), seed=0)
    load, given, most = stream._load, 0, 0
    read: list[int] = []

    def count(some, lane):
        nonlocal most
        read.append(int(some.mine.sum()))
        most = max(most, sum(read) - given)
        return load(some, lane)

    monkeypatch.setattr(stream, "_load", count)
    for _ in stream.items(0, 9_000, rank, world):
        given += 1
    largest = 4 * 5
    assert most <= (6 // world + SPARE + 1) * largest  # + 1: windows are read whole
    assert sum(read) >= given == 9_000 // world


@pytest.mark.parametrize("files", [1, 2, 5, 13, 40])
def test_batches_of_a_corpus_sorted_by_class_are_nearly_random(tmp_path, files):
    """The class histogram of batches against a multinomial, at the beginning, middle and end of an epoch.

    The mean of chi-square over its degrees of freedom is 1 for random batches, 256 for batches in corpus order.
    """
    classes, samples, batch = 10, files * 512, 256
    rows: list[Row] = [(key, b"x", [key * classes // samples]) for key in range(samples)]
    stream = Stream(
        stored_examples(Root.open(str(tmp_path)), rows, Layout(samples=samples, lanes=64, row_group_samples=64)), 0
    )
    batches = samples // batch
    label = np.array([label for _, _, _, label, _ in stream.items(0, samples)]).reshape(batches, batch)
    counts = np.stack([np.bincount(some, minlength=classes) for some in label])
    assert counts.sum(0).tolist() == np.bincount([row[2][0] for row in rows]).tolist()  # an epoch
    expected = batch / classes
    chi = ((counts - expected) ** 2 / expected).sum(1) / (classes - 1)
    tenth = max(1, batches // 10)
    middle = (batches - tenth) // 2
    for some in (chi[:tenth], chi[middle : middle + tenth], chi[-tenth:]):
        assert some.mean() < 2.5
    assert chi.max() < 6


def test_too_many_workers_for_the_batch_are_an_error(tmp_path):
    stream = Stream(fake_examples(Root.open(str(tmp_path)), [[[1], [1]]]), seed=0)
    stream.check_workers(2, batch=4)
    stream.check_workers(3, batch=6)  # more than lanes
    with pytest.raises(InputError, match="a batch of 3 over 2 training workers gives one worker only 1 images"):
        stream.check_workers(2, batch=3)


def test_the_order_within_a_window_differs_between_epochs(tmp_path):
    stream = Stream(fake_examples(Root.open(str(tmp_path)), [[[1] * 12]]), seed=0)  # one lane of one row group
    keys = [key for _, key, *_ in stream.items(0, 36)]
    epochs = [keys[0:12], keys[12:24], keys[24:36]]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_the_order_of_files_differs_between_lanes_seeds_and_epochs(tmp_path):
    examples = fake_examples(Root.open(str(tmp_path)), [[[1], [1]] for _ in range(12)])
    lanes = [*Stream(examples, seed=0).lanes, *Stream(examples, seed=1).lanes]
    orders = [
        [group for unit in lane.units_of(epoch) for window in unit for group in window.groups]
        for lane in lanes
        for epoch in (0, 1)
    ]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len({tuple(order) for order in orders}) == 8
