"""Shares of a batch: equal for any number of workers, and together the batch."""

from math import gcd

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.training.shares import Share


def shares(lanes: int, batch: int, stop: int, world: int) -> list[Share]:
    return [Share(lanes=lanes, batch=batch, stop=stop, rank=rank, world=world) for rank in range(world)]


def by_definition(share: Share, order: list[int]) -> list[int]:
    """The items of a share, item by item."""
    classes, found = gcd(share.lanes, share.world), []
    for begin in range(0, share.stop, share.batch):
        end = min(begin + share.batch, share.stop)
        items = [g for g in range(begin, end) if g % share.lanes % classes == share.rank % classes]
        items.sort(key=lambda g: (order.index(g % share.lanes // classes), g))
        workers = share.world // classes
        found += [g for i, g in enumerate(items) if i * workers // len(items) == share.rank // classes]
    return sorted(found)


@settings(max_examples=150)
@given(st.integers(1, 20), st.integers(1, 60), st.integers(1, 30), st.integers(1, 200), st.data())
def test_shares_are_a_partition_of_each_batch_into_equal_parts(lanes, batch, world, stop, data):
    every = shares(lanes, batch, stop, world)
    mine = [share.mine(0, stop) for share in every]
    assert sorted(np.concatenate(mine).tolist()) == list(range(stop))
    sizes = np.stack([np.bincount(some // batch, minlength=-(-stop // batch)) for some in mine])
    for number, size in enumerate(sizes.sum(axis=0)):
        assert size // world <= sizes[:, number].min() and sizes[:, number].max() <= -(-size // world)
    one = data.draw(st.sampled_from(every))
    assert one.mine(0, stop).tolist() == by_definition(one, one._order.tolist())
    begin, end = sorted((data.draw(st.integers(0, stop)), data.draw(st.integers(0, stop))))
    assert one.mine(begin, end).tolist() == [g for g in one.mine(0, stop) if begin <= g < end]
    assert set(one.parts) >= {g % lanes for g in one.mine(0, stop).tolist()}


def test_every_number_of_workers_is_used_fully():
    images = 24
    for world in range(1, 129):
        batch = images * world
        owner = np.full(batch, -1)
        for share in shares(64, batch, batch, world):
            owner[share.mine(0, batch)] = share.rank
        assert np.bincount(owner).tolist() == [images] * world


@pytest.mark.parametrize("world", [1, 2, 8, 48, 63, 64, 127, 128])
def test_few_lanes_are_shared(world):
    batch = 32 * world
    read = sum(len(share.parts) for share in shares(64, batch, 64 * batch, world))
    least = world + 64 - gcd(world, 64) if 64 % world else 64
    assert least <= read <= least * 1.06


def test_workers_that_divide_the_lanes_have_whole_lanes():
    for world in (1, 2, 4, 8):
        for share in shares(8, 25, 1000, world):
            assert share.mine(0, 1000).tolist() == [g for g in range(1000) if g % 8 % world == share.rank]
            assert set(share.parts.values()) == {1.0}
