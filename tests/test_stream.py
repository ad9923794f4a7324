"""The order of training data is a pure function of (seed, epoch, position): the promise that resuming rests on."""

import itertools
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from helpers import DIGITS_VIEW, digit_images
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.artifact import Artifact, Built, Root, write_table
from raylabel.errors import InputError
from raylabel.schema import EXAMPLES
from raylabel.stream import Stream


def fake_examples(root: Root, counts: list[list[list[int]]], name: str = "examples-fake") -> Artifact:
    """counts[file][lane] lists the number of labels of each sample; keys count up, media are real digits."""
    media, _ = digit_images()
    key = itertools.count()

    def build(draft) -> Built:
        files, items = [], []
        for number, lanes in enumerate(counts):
            groups = []
            for lane in lanes:
                keys = [next(key) for _ in lane]
                columns = [keys, [media[k % len(media)] for k in keys], [list(range(n)) for n in lane]]
                arrays = [pa.array(c, f.type) for c, f in zip(columns, EXAMPLES, strict=True)]
                groups.append(pa.Table.from_arrays(arrays, schema=EXAMPLES))
            files.append(write_table(draft.uri, f"examples-{number:06d}.parquet", *groups))
            items.append([sum(lane) for lane in lanes])
        return Built(files, {"lane_items": items})

    return root.make(name, {"counts": counts}, build)


lanes_of_files = st.integers(1, 5).flatmap(
    lambda lanes: st.lists(
        st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=4), min_size=lanes, max_size=lanes),
        min_size=1,
        max_size=11,
    )
)


def order(stream: Stream, start: int, stop: int, rank: int = 0, world: int = 1) -> list[tuple[int, int, int]]:
    return [(g, key, label) for g, key, _, label in stream.items(start, stop, rank, world)]


@settings(max_examples=30, deadline=None)
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
        assert max(Counter(epochs[0]).values()) == 1  # a replica under another label is an item of its own
        assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
        assert epochs[0] != sorted(epochs[0])
    other = order(Stream(examples, seed=2), 0, len(whole))
    assert other != whole


def test_batches_are_those_of_the_order_and_the_same_for_any_threads_and_workers(tmp_path):
    counts = [[[1] * 6 for _ in range(4)] for _ in range(2)]
    stream = Stream(fake_examples(Root.open(str(tmp_path)), counts), seed=3)

    def run(rank=0, world=1, first=0, threads=1):
        return list(stream.batches(DIGITS_VIEW, 10, first, 95, rank, world, threads))

    whole = run()
    assert [len(labels) for _, labels in whole] == [10] * 9 + [5]
    assert all(pixels.shape[1:] == (8, 8, 3) and pixels.dtype == np.uint8 for pixels, _ in whole)
    for again in (run(threads=3), run(first=40)):
        for (a, x), (b, y) in zip(reversed(whole), reversed(again), strict=False):
            assert np.array_equal(a, b) and np.array_equal(x, y)
    # Two workers' parts of a batch, item by item, are the batch.
    halves = [run(rank, 2) for rank in range(2)]
    for step, (pixels, _) in enumerate(whole):
        start, stop = step * 10, min(step * 10 + 10, 95)
        joined = np.empty_like(pixels)
        for rank in range(2):
            at = [g - start for g in stream.mine(start, stop, rank, 2)]
            joined[at] = halves[rank][step][0]
        assert np.array_equal(joined, pixels)


def test_an_unreadable_picture_reaches_the_trainer_as_an_error_not_a_hang(tmp_path, monkeypatch):
    examples = fake_examples(Root.open(str(tmp_path)), [[[1, 1]]])
    stream = Stream(examples, seed=0)
    monkeypatch.setattr(stream, "_load", lambda *_: [(0, b"no picture", 0), (1, b"nor this", 0)])
    with pytest.raises(Exception, match="unrecognized"):
        list(stream.batches(DIGITS_VIEW, 2, 0, 4, 0, 1))


def test_more_workers_than_lanes_is_an_input_error(tmp_path):
    stream = Stream(fake_examples(Root.open(str(tmp_path)), [[[1], [1]]]), seed=0)
    stream.check_workers(2, batch=4)
    with pytest.raises(InputError, match="3 training workers, but examples-fake has 2 lanes"):
        stream.check_workers(3, batch=6)
    with pytest.raises(InputError, match="a batch of 3 over 2 training workers gives one of them 1 images"):
        stream.check_workers(2, batch=3)


def test_order_within_a_window_is_new_in_each_epoch(tmp_path):
    stream = Stream(fake_examples(Root.open(str(tmp_path)), [[[1] * 12]]), seed=0)  # one lane of one row group
    keys = [key for _, key, _, _ in stream.items(0, 36)]
    epochs = [keys[0:12], keys[12:24], keys[24:36]]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_lanes_seeds_and_epochs_go_through_the_files_in_orders_of_their_own(tmp_path):
    examples = fake_examples(Root.open(str(tmp_path)), [[[1], [1]] for _ in range(12)])
    lanes = [*Stream(examples, seed=0).lanes, *Stream(examples, seed=1).lanes]
    orders = [[file for window in lane.windows(epoch) for file, _ in window] for lane in lanes for epoch in (0, 1)]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len({tuple(order) for order in orders}) == 8
