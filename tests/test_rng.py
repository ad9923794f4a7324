"""Random permutations that are computed position by position."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from raylabel.rng import permuted


@given(st.lists(st.integers(1, 300), min_size=1, max_size=8), st.integers(0, 2**63))
def test_it_permutes_each_range(sizes: list[int], seed: int):
    position = np.concatenate([np.arange(size) for size in sizes])
    number = np.repeat(np.arange(len(sizes)), sizes)
    found = permuted(position, np.repeat(sizes, sizes), seed, number)
    for one, size in enumerate(sizes):
        assert sorted(found[number == one].tolist()) == list(range(size))
    order = np.random.default_rng(0).permutation(len(position))
    again = permuted(position[order], np.repeat(sizes, sizes)[order], seed, number[order])
    assert (again == found[order]).all()


@pytest.mark.parametrize("size", [2, 5, 6, 13])
def test_each_position_goes_everywhere_equally_often(size: int):
    seeds = np.repeat(np.arange(4_000), size)
    found = permuted(np.tile(np.arange(size), 4_000), np.full(len(seeds), size), 7, seeds).reshape(-1, size)
    for position in range(size):
        assert chisquare(np.bincount(found[:, position], minlength=size)).pvalue > 1e-4
    pairs = np.bincount(found[:, 0] * size + found[:, 1], minlength=size**2)
    assert chisquare(pairs[np.flatnonzero(1 - np.eye(size).ravel())]).pvalue > 1e-4


def test_large_sizes_and_other_seeds():
    position = np.arange(10_000)
    size = np.full(10_000, 3_000_000_019)
    found = permuted(position, size, 1)
    assert found.max() < size[0] and len(set(found.tolist())) == 10_000
    assert abs(found.mean() / size[0] - 0.5) < 0.02
    assert (permuted(position, size, 2) != found).mean() > 0.99
    assert permuted(np.array([0]), np.array([1]), 3).tolist() == [0]
