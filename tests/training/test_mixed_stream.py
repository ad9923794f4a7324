"""Batches of two EXAMPLES: in each the same number of both, in the order of each, for any workers and restarts."""

import contextlib
import itertools
import re

import numpy as np
import pytest
from examples import Row, stored_examples
from helpers import DIGITS_VIEW, digit_images
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.errors import InputError
from raylabel.store.artifact import Artifact, Root
from raylabel.training.examples import media_of
from raylabel.training.layout import Layout
from raylabel.training.mixed_stream import MixedStream, Mixture
from raylabel.training.stream import Item, Stream


def examples(root: Root, first: int, samples: int, lanes: int, broken: int | None = None) -> Artifact:
    """EXAMPLES with keys from `first` on and one label each; that of key `broken` is no image."""
    media, labels = digit_images()
    keys = range(first, first + samples)
    of = {key: (b"no image" if key == broken else media[key % len(media)], key % len(media)) for key in keys}
    rows: list[Row] = [(key, image, [int(labels[number])]) for key, (image, number) in of.items()]
    layout = Layout(samples=samples, lanes=lanes, row_group_samples=3)
    return stored_examples(Root.open(f"{root.uri}/{first}"), rows, layout)


@pytest.mark.long
@settings(max_examples=15)
@given(st.data())
def test_a_batch_has_the_items_of_both_streams_in_their_order(tmp_path_factory, data):
    root, draw = Root.open(str(tmp_path_factory.mktemp("root"))), data.draw
    sizes = {first: draw(st.integers(1, 60)) for first in (0, 1000)}
    made = [examples(root, first, size, draw(st.integers(1, min(size, 7)))) for first, size in sizes.items()]
    batch, batches = draw(st.integers(2, 24)), draw(st.integers(1, 8))
    count = draw(st.integers(1, batch - 1))
    mixture = Mixture(examples=made[1], share=count / batch)

    def items(start: int, rank: int = 0, world: int = 1) -> list[Item]:
        return list(MixedStream(made[0], mixture, 7).items(start * batch, batches * batch, rank, world, batch))

    whole = items(0)
    assert [position for position, *_ in whole] == list(range(batches * batch))
    own, others = ([item for item in whole if (item[1] >= 1000) == mixed] for mixed in (False, True))
    for found, stream, per_batch in (own, made[0], batch - count), (others, made[1], count):
        assert [item[1:] for item in found] == [item[1:] for item in Stream(stream, 7).items(0, batches * per_batch)]
    for number in range(batches):
        mixed = [item[1] >= 1000 for item in whole[number * batch : (number + 1) * batch]]
        assert sum(mixed) == count
        # Evenly spread: each beginning of the batch has its part of them, rounded down.
        assert np.cumsum(mixed).tolist() == [(i + 1) * count // batch for i in range(batch)]
    world, start = draw(st.integers(1, 6)), draw(st.integers(0, batches - 1))
    parts = [items(start, rank, world) for rank in range(world)]
    assert sorted(itertools.chain(*parts)) == whole[start * batch :]
    least = MixedStream(made[0], mixture, 7).least(world, batch)
    for rank, part in enumerate(parts):
        stream, end = MixedStream(made[0], mixture, 7), batches * batch
        assert [item[0] for item in part] == stream.positions(start * batch, end, end, rank, world, batch).tolist()
        cut = [stream.positions(n * batch, (n + 1) * batch, end, rank, world, batch) for n in range(batches)]
        in_batches = list(map(len, cut))
        assert least <= min(in_batches) and max(in_batches) <= least + 2


def test_batches_are_decoded_as_those_of_one_stream(tmp_path):
    root = Root.open(str(tmp_path))
    mixture = Mixture(examples=examples(root, 1000, 20, 2), share=0.25)
    stream = MixedStream(examples(root, 0, 30, 3), mixture, 3)
    items = list(stream.items(0, 64, batch=16))
    found = list(stream.batches(DIGITS_VIEW, 16, 0, 64, 0, 1))
    assert np.concatenate([labels for _, labels, _ in found]).tolist() == [item[3] for item in items]
    halves = [list(stream.batches(DIGITS_VIEW, 16, 32, 64, rank, 2)) for rank in (0, 1)]
    for number, parts in enumerate(zip(*halves, strict=True), 2):
        start = number * 16
        mine = [stream.positions(start, start + 16, 64, rank, 2, 16) - start for rank in (0, 1)]
        for places, (pixels, labels, _) in zip(mine, parts, strict=True):
            assert np.array_equal(found[number][0][places], pixels)
            assert np.array_equal(found[number][1][places], labels)


@pytest.mark.parametrize("broken", [3, 1003])
def test_a_sample_that_cannot_be_decoded_is_told_with_its_own_media(tmp_path, broken):
    root = Root.open(str(tmp_path))
    made = [examples(root, first, 8, 2, broken) for first in (0, 1000)]
    stream = MixedStream(made[0], Mixture(examples=made[1], share=0.5), 0)
    media = re.escape(media_of(made[broken // 1000]).uri)  # the names of both are the same, the folders are not
    batches = stream.batches(DIGITS_VIEW, 4, 0, 32, 0, 1)
    with contextlib.closing(batches), pytest.raises(InputError, match=f"^{media}: sample {broken} cannot be decoded"):
        list(batches)


def test_a_worker_needs_two_images_of_both_together(tmp_path):
    made = examples(Root.open(str(tmp_path)), 0, 8, 2)
    stream = MixedStream(made, Mixture(examples=made, share=0.25), 0)
    assert stream.serves(3, 8)  # 6 // 3 + 2 // 3
    assert not stream.serves(4, 8)  # 6 // 4 + 2 // 4
    with pytest.raises(InputError, match="a batch of 8 over 4 training workers gives one worker only 1 images"):
        stream.check_workers(4, 8)
