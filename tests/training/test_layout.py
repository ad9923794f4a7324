"""Where the samples of MEDIA are stored: each once, evenly, and from many places of the corpus."""

import itertools
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.training.layout import BANDS, FILE_GROUPS, UNIT, Layout, deal, mix, units


@settings(max_examples=60)
@given(st.integers(1, 30_000), st.integers(1, 130), st.integers(1, 640), st.data())
def test_every_sample_is_in_one_part_and_every_group_in_one_lane(samples, lanes, row_group_samples, data):
    layout = Layout(samples=samples, lanes=min(lanes, samples), row_group_samples=row_group_samples)
    parts = [layout.stretches(part, part + 1) for part in range(layout.parts)]
    covered = np.zeros(samples, int)
    for begin, end in itertools.chain(*parts):
        covered[begin:end] += 1
    assert (covered == 1).all()
    sizes = [sum(end - begin for begin, end in part) for part in parts]
    for part, size in enumerate(sizes):  # as many as its groups should have
        expected = (layout.starts[part + 1] - layout.starts[part]) * samples / layout.groups
        assert abs(size - expected) <= 3
    groups = [lane for part in range(layout.parts) for lane in layout.lanes_of(part)]
    assert groups == sorted(groups) and set(Counter(groups).values()) == {layout.lane_groups}
    assert layout.lane_groups == 1 or samples / layout.groups >= row_group_samples
    first = data.draw(st.integers(0, layout.parts - 1))
    last = data.draw(st.integers(first + 1, layout.parts))
    block = layout.stretches(first, last)  # of several parts: those of each band are one range
    for band in range(BANDS):
        assert block[band] == (parts[first][band][0], parts[last - 1][band][1])


def test_files_are_of_one_lane_unless_lanes_are_small():
    for samples, lanes, groups, most in ((10_000_000, 64, 8, 1), (40_960, 64, 8, 8), (300, 64, 64, 64)):
        layout = Layout(samples=samples, lanes=lanes, row_group_samples=640)
        parts = [layout.lanes_of(part) for part in range(layout.parts)]
        assert max(map(len, parts)) <= groups and max(len(set(part)) for part in parts) == most
    assert Layout(samples=10_000_000, lanes=64, row_group_samples=640).lane_groups == 244


def test_samples_of_a_part_are_dealt_evenly():
    keys = np.arange(1000) * 7
    dealt = deal(keys, 8)
    assert sorted(np.concatenate(dealt).tolist()) == list(range(1000))
    assert {len(group) for group in dealt} == {125}
    thirds = np.stack([np.bincount(group // 334, minlength=3) for group in dealt])
    assert thirds.min() > 25  # 42 are expected
    assert all(len(set((group % 8).tolist())) == 8 for group in dealt)  # also if the corpus repeats every 8 samples
    assert [len(group) for group in deal(keys[:3], 5)] == [1, 1, 1, 0, 0]


def test_mixing_is_a_bijection():
    keys = np.array([k << s for k in range(200) for s in (0, 32)])
    assert len(np.unique(mix(keys))) == len(np.unique(keys))


def test_groups_of_one_file_are_read_together():
    assert units([0] * 8 + [1] * 7 + [2]) == [[0, 1, 2, 3], [4, 5, 6, 7], [*range(8, 15)], [15]]
    assert max(map(len, units([0] * FILE_GROUPS))) == UNIT
