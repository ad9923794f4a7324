"""Regional maximum activations against loops, and the regions of maps by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raylabel.models.rmac import MOST, OVERLAP, region_vectors, regions, rmac


def test_the_regions_of_a_square_map():
    assert regions(6, 6, 1) == [(0, 0, 6)]
    assert regions(6, 6, 2)[1:] == [(0, 0, 4), (0, 2, 4), (2, 0, 4), (2, 2, 4)]
    assert [side for _, _, side in regions(6, 6)] == [6] + 4 * [4] + 9 * [3]
    assert regions(6, 6)[5:8] == [(0, 0, 3), (0, 1, 3), (0, 3, 3)]


def test_the_regions_of_a_map_that_is_longer():
    # Of 12 x 20: two squares of 12 overlap by 1/3, three by 2/3. Two are nearer to 0.4.
    wide = regions(12, 20)
    assert wide[:2] == [(0, 0, 12), (0, 8, 12)]
    assert [side for _, _, side in wide] == 2 * [12] + 2 * 3 * [8] + 3 * 4 * [6]
    assert wide[2:5] == [(0, 0, 8), (0, 6, 8), (0, 12, 8)]
    assert sorted((left, top, side) for top, left, side in wide) == sorted(regions(20, 12))
    # Of 5 x 9: two overlap by 0.2, three by 0.6, which are equally near.
    assert regions(5, 9, 1) == [(0, 0, 5), (0, 2, 5), (0, 4, 5)]
    # Of 10 x 20: three squares of 10 overlap by half, two not at all.
    assert regions(10, 20, 1) == [(0, 0, 10), (0, 5, 10), (0, 10, 10)]


@given(st.integers(1, 40), st.integers(1, 40))
def test_regions_are_in_the_map_from_one_end_to_the_other(height: int, width: int):
    found, short, long = regions(height, width), min(height, width), max(height, width)
    for top, left, side in found:
        assert 0 <= top <= height - side and 0 <= left <= width - side and side >= 1
    assert {max(one[0] for one in found), max(one[1] for one in found)} <= {height - found[-1][2], width - found[-1][2]}
    first = [one for one in regions(height, width, 1)]
    if long == short:
        assert first == [(0, 0, short)]
    else:
        chosen = abs(1 - (long - short) / (len(first) - 1) / short - OVERLAP)
        others = [abs(1 - (long - short) / (count - 1) / short - OVERLAP) for count in range(2, MOST + 1)]
        assert chosen == pytest.approx(min(others))


def test_it_is_the_sum_of_maxima_by_loops():
    x = torch.randn(2, 5, 7, 11, generator=torch.Generator().manual_seed(0)).relu()
    mean, matrix = torch.rand(5), torch.randn(5, 3)
    for whitened in (False, True):
        wanted = []
        for picture in x.double().numpy():
            total = np.zeros(3 if whitened else 5)
            for top, left, side in regions(7, 11):
                vector = np.array([channel[top : top + side, left : left + side].max() for channel in picture])
                vector /= np.linalg.norm(vector)
                if whitened:
                    vector = (vector - mean.double().numpy()) @ matrix.double().numpy()
                    vector /= np.linalg.norm(vector)
                total += vector
            wanted.append(total / np.linalg.norm(total))
        found = rmac(region_vectors(x), *((mean, matrix) if whitened else ()))
        torch.testing.assert_close(found, torch.from_numpy(np.array(wanted, np.float32)))


def test_what_is_not_active_gives_zero_and_no_number_is_lost():
    assert rmac(region_vectors(torch.zeros(1, 4, 3, 3))).tolist() == [[0.0] * 4]
