"""Samples of clusters, repeated so that all clusters have equally many items."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raylabel.training.uniform import places, quotas_of, repeats


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any), st.integers(0, 1_000))
def test_clusters_have_equally_many_items_and_so_have_the_samples_of_each(sizes: list[int], seed: int):
    found = np.array(sizes)
    quotas, total = quotas_of(found, seed), sum(sizes)
    own = quotas[found > 0]
    assert quotas.sum() == total and not quotas[found == 0].any() and np.ptp(own) <= 1
    label = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    count = repeats(label, places(label), found, quotas, seed)
    for one in np.flatnonzero(found):
        assert count[label == one].sum() == quotas[one] and np.ptp(count[label == one]) <= 1
