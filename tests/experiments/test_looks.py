"""Which pictures are shown: their keys, their labels in files of PICKS, and how a map is drawn."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylabel.experiments.looks import COLOUR, PICTURES, _evenly_spaced, _labels, _under
from raylabel.labels.picks import sorted_picks
from raylabel.schema import make_key
from raylabel.store.artifact import Built, Root, write_table


class Rows:
    """As Shards, with these numbers of samples."""

    def __init__(self, rows: list[int]):
        self.rows = np.array(rows)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(sum))
def test_keys_are_evenly_spaced_over_all_shards(rows: list[int]):
    every = [make_key(shard, row) for shard, count in enumerate(rows) for row in range(count)]
    found = _evenly_spaced(Rows(rows))  # pyright: ignore[reportArgumentType]
    places = [every.index(key) for key in found]
    assert len(set(found)) == min(PICTURES, len(every))
    assert places[0] == 0 and (places[-1] == len(every) - 1 or len(every) == 1)
    assert max(np.diff(places), default=0) - min(np.diff(places), default=0) <= 1


def test_labels_are_found_in_all_files(tmp_path):
    key = np.arange(1_000)
    label = key % 7

    def build(draft) -> Built:
        cuts = [label < 3, (label >= 3) & (label < 6), label == 6]
        tables: list[pa.Table] = [sorted_picks(key[own], label[own]) for own in cuts]
        return Built([write_table(draft.uri, f"picks-{i:05d}.parquet", one) for i, one in enumerate(tables)], {})

    picks = Root.open(str(tmp_path / "root")).make("random", {}, build)
    assert _labels(picks, [0, 6, 10, 999, 5_000]) == {0: 0, 6: 6, 10: 3, 999: 5}


def test_a_map_colours_the_grey_picture():
    pixels = np.full((2, 2, 3), 90, np.uint8)
    pixels[0, 0] = (30, 60, 90)
    found = _under(pixels, np.array([[0.0, 1.0], [0.5, 0.0]]))
    assert found[0, 0].tolist() == [60, 60, 60] and found[1, 1].tolist() == [90, 90, 90]
    np.testing.assert_allclose(found[0, 1], 0.25 * 90 + 0.75 * COLOUR, atol=0.5)
    assert found[1, 0] == pytest.approx(0.625 * 90 + 0.375 * COLOUR, abs=0.51)
