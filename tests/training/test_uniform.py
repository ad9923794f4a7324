"""Samples of clusters, repeated so that all clusters have equally many items."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_features import digits, stored

from raylabel.features.clusters import ASSIGNED
from raylabel.features.kmeans import KMeans, cluster
from raylabel.schema import SAMPLES
from raylabel.store.artifact import Artifact, Root
from raylabel.training import uniform
from raylabel.training.uniform import make_uniform, places, quotas_of, repeats


@settings(deadline=None)
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


@pytest.fixture
def clusters(ray_local, tmp_path: Path) -> Artifact:
    root = Root.open(str(tmp_path))
    return cluster(root, stored(root, digits()), KMeans(k=30, iterations=1), seed=0, readers=1)


def test_each_sample_is_there_in_key_order_whatever_the_runs(clusters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = []
    for number, run in enumerate((1, 4)):
        monkeypatch.setattr(uniform, "RUN", run)
        made.append(make_uniform(Root.open(str(tmp_path / str(number))), "clusters", clusters, seed=1))
    tables = [one.table("samples-", SAMPLES) for one in made]
    assert tables[0].equals(tables[1]) and made[0].info["keys"] == made[1].info["keys"]
    assigned = clusters.table("assigned-", ASSIGNED)
    assert tables[0]["key"].to_pylist() == assigned["key"].to_pylist()
    items = Counter[int]()
    for labels, own in zip(tables[0]["labels"].to_pylist(), assigned["cluster"].to_pylist(), strict=True):
        assert set(labels) <= {own}
        items[own] += len(labels)
    assert sum(items.values()) == 1_797 and set(items.values()) == {59, 60}
    other = make_uniform(Root.open(str(tmp_path)), "clusters", clusters, seed=2)
    assert not other.table("samples-", SAMPLES).equals(tables[0]) and other.info["keys"] == made[0].info["keys"]
