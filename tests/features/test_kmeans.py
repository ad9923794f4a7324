"""K-means over stored features, against Lloyd's algorithm in float64, faiss, and other numbers of readers."""

from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_features import digits, stored, unit

from raylabel.errors import InputError
from raylabel.features import kmeans, readers
from raylabel.features.clusters import ASSIGNED, clusters_schema
from raylabel.features.hierarchy import Branches
from raylabel.features.kmeans import KMeans, cluster
from raylabel.features.lloyd import FIXED, Centroids, Sums, updated
from raylabel.rng import mixed
from raylabel.schema import features_schema
from raylabel.store.artifact import Artifact, Root


def found(artifact: Artifact) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(centroids [k, D], sizes [k], clusters in the order of the features [N])."""
    table = pq.read_table(f"{artifact.uri}/clusters.parquet")
    width = table.schema.field("centroid").type.list_size
    assert table.schema == clusters_schema(width)
    centroids = table["centroid"].combine_chunks().flatten().to_numpy().reshape(-1, width)
    return centroids, table["size"].to_numpy(), artifact.table("assigned-", ASSIGNED)["cluster"].to_numpy()


def brute(feature: np.ndarray, centroids: np.ndarray, iterations: int, spherical: bool = False):
    """Lloyd's algorithm in float64, of which no cluster becomes empty: centroids, labels, mean squared distances."""
    x, c, distances, labels = feature.astype(np.float64), centroids.astype(np.float64), [], np.empty(0)
    for number in range(iterations + 1):
        squared = ((x[:, None] - c[None]) ** 2).sum(2)
        labels = squared.argmin(1)
        distances.append(squared.min(1).mean())
        if number < iterations:
            c = np.stack([x[labels == j].mean(0) for j in range(len(c))])
            c = c / np.linalg.norm(c, axis=1, keepdims=True) if spherical else c
            c = c.astype(np.float32).astype(np.float64)
    return c, labels, distances


def start_of(feature: np.ndarray, features: Artifact, k: int, seed: int) -> np.ndarray:
    """The features with the lowest hashes of their keys."""
    return feature[np.argsort(mixed(keys_of(features, feature.shape[1]), seed))[:k]]


def keys_of(features: Artifact, width: int) -> np.ndarray:
    return features.table("features-", features_schema(width), ["key"])["key"].to_numpy()


@pytest.mark.parametrize("spherical", [False, True])
def test_it_is_lloyds_algorithm(ray_local, tmp_path: Path, spherical: bool):
    root, feature = Root.open(str(tmp_path)), digits()
    features = stored(root, feature)
    made = cluster(root, features, KMeans(k=20, iterations=6, spherical=spherical), seed=3, readers=1)
    centroids, sizes, labels = found(made)
    start = start_of(feature, features, 20, 3)
    expected, expected_labels, distances = brute(feature, start, 6, spherical)
    np.testing.assert_allclose(centroids, expected, atol=1e-6)
    assert (labels == expected_labels).all() and (sizes == np.bincount(labels)).all()
    np.testing.assert_allclose(made.info["distances"], distances, rtol=1e-5)
    assert made.info["refilled"] == [0] * 6
    squared = made.table("assigned-", ASSIGNED)["squared"].to_numpy()
    np.testing.assert_allclose(squared, ((feature - expected[labels]) ** 2).sum(1), atol=1e-5)
    if spherical:
        np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, rtol=1e-6)


@pytest.mark.long
def test_the_distance_is_that_of_faiss_from_the_same_start(ray_local, tmp_path: Path):
    root, feature = Root.open(str(tmp_path)), digits()
    features, k = stored(root, feature), 200
    made = cluster(root, features, KMeans(k=k), seed=0, readers=1)
    theirs = faiss.Kmeans(64, k, niter=20, max_points_per_centroid=10**7, min_points_per_centroid=1)
    theirs.train(feature.astype(np.float32), init_centroids=start_of(feature, features, k, 0).astype(np.float32))
    mine = made.info["distances"][-1]
    assert mine <= 1.01 * theirs.index.search(feature.astype(np.float32), 1)[0].mean()
    assert found(made)[1].min() > 0


@pytest.mark.parametrize("spherical", [False, pytest.param(True, marks=pytest.mark.long)])
def test_with_branches_it_is_lloyds_algorithm_within_each(ray_local, tmp_path: Path, spherical: bool):
    root, feature, k, b = Root.open(str(tmp_path)), digits(), 24, 4
    features, upper = stored(root, feature), KMeans(k=b, iterations=5, spherical=spherical)
    made = cluster(root, features, replace(upper, k=k, branches=b), seed=2, readers=1)
    centroids, sizes, labels = found(made)
    # The upper level alone has the same numbers.
    above, above_sizes, branch = found(cluster(root, features, upper, seed=2, readers=1))
    first = Branches.of(above, above_sizes, k).first
    drawn = np.argsort(mixed(keys_of(features, 64), 2))[: kmeans.SAMPLED * k]
    for one in range(b):
        mine, begin, end = branch == one, first[one], first[one + 1]
        start = feature[[at for at in drawn if branch[at] == one][: end - begin]]
        expected, own, _ = brute(feature[mine], start, 5, spherical)
        assert (labels[mine] == begin + own).all() and (sizes[begin:end] == np.bincount(own)).all()
        np.testing.assert_allclose(centroids[begin:end], expected, atol=1e-6)
    squared = ((feature.astype(np.float64) - centroids[labels]) ** 2).sum(1)
    assert made.info["distances"][-1] == pytest.approx(squared.mean(), rel=1e-5)


@given(st.lists(st.integers(1, 1_000), min_size=2, max_size=9), st.integers(0, 500))
def test_branches_have_clusters_in_proportion_to_their_sizes(sizes: list[int], more: int):
    k, counts = len(sizes) + more, np.array(sizes)
    found = Branches.of(np.zeros((len(sizes), 2), np.float32), counts, k)
    each = np.diff(found.first)
    assert found.first[0] == 0 and found.first[-1] == k and each.min() >= 1
    assert np.abs(each - (1 + more * counts / counts.sum())).max() <= 1
    assert np.array_equal(found.of_cluster, np.repeat(np.arange(len(sizes)), each))


def test_a_branch_with_too_few_features_drawn_begins_with_its_own_centroid():
    above = np.array([[1, 0], [0, 1]], np.float32)
    found = Branches.of(above, np.array([50, 50]), 4).start(np.array([[1, 0.1], [0.9, 0], [0.8, 0.1]], np.float16))
    np.testing.assert_allclose(found, [[1, 0.1], [0.9, 0], [0, 1], [0, 1]], atol=1e-3)


def test_an_empty_cluster_is_filled_from_its_own_branch():
    sums = Sums(np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 900.0], [0.0, 0.0]]), np.array([1, 0, 900, 0]), 0)
    centroids = updated(sums, False, np.random.default_rng(0), branch=np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(centroids[[2, 3]].mean(0), [0, 1])
    assert centroids[:2].tolist() == [[1, 0], [0, 0]]  # one sample is not divided


@pytest.mark.long
@pytest.mark.parametrize("branches", [0, 12])
def test_the_bytes_do_not_depend_on_readers_nor_memory(
    ray_local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, branches: int
):
    feature, made, config = digits(), [], KMeans(k=150, iterations=4, branches=branches)
    for number, (count, share) in enumerate(((1, 0.4), (3, 0.0), (7, 0.4))):
        monkeypatch.setattr(readers, "SHARE", share)
        root = Root.open(str(tmp_path / str(number)))
        one = cluster(root, stored(root, feature), config, seed=1, readers=count)
        made.append({key: value for key, value in one.manifest.items() if key != "info"} | {"d": one.info["distances"]})
    assert made[1:] == made[:1] * 2


@pytest.mark.long
@pytest.mark.parametrize("branches, stops", [(0, (1, 3)), (5, (2, 5, 8))])
def test_a_stopped_run_continues_with_the_next_iteration(
    ray_local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, branches: int, stops: tuple[int, ...]
):
    feature, config = digits(), KMeans(k=30, iterations=5, branches=branches)
    whole = Root.open(str(tmp_path / "whole"))
    expected = cluster(whole, stored(whole, feature), config, seed=1, readers=1).manifest["files"]
    root, write, written = Root.open(str(tmp_path / "stopped")), kmeans._write, list[int]()
    features = stored(root, feature)

    def stop(folder: str, state: kmeans._State) -> None:
        write(folder, state)
        written.append(state.iteration)
        if len(written) in stops:
            raise KeyboardInterrupt

    monkeypatch.setattr(kmeans, "_write", stop)
    for _ in stops:
        with pytest.raises(KeyboardInterrupt):
            cluster(root, features, config, seed=1, readers=1)
    assert cluster(root, features, config, seed=1, readers=1).manifest["files"] == expected
    assert written == [1, 2, 3, 4, 5] * (2 if branches else 1)


def test_no_cluster_is_empty_where_features_are_equal(ray_local, tmp_path: Path):
    # 40 different features, each 30 times: a sample of 38 has most of them several times.
    feature = np.repeat(digits()[:40], 30, axis=0)
    root = Root.open(str(tmp_path))
    made = cluster(root, stored(root, feature), KMeans(k=36, iterations=3), seed=0, readers=1)
    assert sum(made.info["refilled"]) > 0 and found(made)[1].min() > 0
    features = stored(root, feature)
    with pytest.raises(InputError, match="of 60 clusters stay empty: there are too few different features, lower k"):
        cluster(root, features, KMeans(k=60, iterations=1), seed=0, readers=1)
    with pytest.raises(InputError, match="1,200 samples cannot form 1,201 clusters: lower k"):
        cluster(root, features, KMeans(k=1_201), seed=0)


def test_kmeans_plus_plus_starts_far_apart(ray_local, tmp_path: Path):
    root, feature, k = Root.open(str(tmp_path)), digits(), 20

    def distance(centroids: np.ndarray) -> float:
        return ((feature[:, None].astype(np.float32) - centroids[None]) ** 2).sum(2).min(1).mean()

    sampled, far = [], []
    for seed in range(5):
        drawn = feature[np.random.default_rng(seed).permutation(len(feature))][: kmeans.SAMPLED * k]
        sampled.append(distance(drawn[:k].astype(np.float32)))
        far.append(distance(kmeans._far_apart(drawn, k, seed)))
    assert np.mean(far) < 0.95 * np.mean(sampled)
    features = stored(root, feature)
    made = cluster(root, features, KMeans(k=k, iterations=1, start="k-means++"), seed=0, readers=1)
    drawn = start_of(feature, features, kmeans.SAMPLED * k, 0)
    assert made.info["distances"][0] == pytest.approx(distance(kmeans._far_apart(drawn, k, 0)), rel=1e-5)


@given(st.integers(0, 2**31), st.integers(1, 6))
def test_sums_do_not_depend_on_their_order_nor_parts(seed: int, parts: int):
    random = np.random.default_rng(seed)
    feature = unit(random.standard_normal((64, 5)) * 10.0 ** random.integers(-6, 1, (64, 5)))
    there = Centroids(feature[:7].astype(np.float32), "cpu")
    whole, cut = Sums.zero(7, 5), Sums.zero(7, 5)
    label, squared = there.nearest(feature, whole)
    for some in np.array_split(random.permutation(64), parts):
        one = Sums.zero(7, 5)
        there.nearest(feature[some], one)
        cut = one + cut
    assert np.array_equal(whole.feature, cut.feature) and np.array_equal(whole.count, cut.count)
    exact = np.zeros((7, 5), object)
    for j, row in zip(label, feature, strict=True):
        exact[j] += [int(float(x) * 2**24) for x in row]
    assert (whole.feature * 2.0**24 == exact).all()
    assert whole.distance == pytest.approx(squared.mean(), abs=2 / FIXED)


def test_an_empty_cluster_gets_half_of_another():
    sums = Sums(np.array([[8.0, 4.0], [0.0, 0.0], [1.0, 1.0]]), np.array([8, 0, 1]), 0)
    centroids = updated(sums, False, np.random.default_rng(0))
    np.testing.assert_allclose(centroids[[0, 1]].mean(0), [1, 0.5])  # a cluster of one sample gives nothing
    np.testing.assert_allclose(np.abs(centroids[1] - [1, 0.5]), np.array([1, 0.5]) / 1024, rtol=1e-4)
    assert centroids[2].tolist() == [1, 1]


@pytest.mark.parametrize(
    "change, error",
    [
        ({"k": 1}, "clusters.k is 1: give a whole number of at least 2"),
        ({"iterations": 0}, "clusters.iterations is 0: give a whole number of at least 1"),
        ({"k": 10, "branches": 6}, "clusters.branches is 6: give 0, or a whole number from 2 to half of k, 5"),
        ({"start": "x"}, "clusters.start is 'x': give sample or k-means"),
    ],
)
def test_a_wrong_config_is_an_error(change: dict, error: str):
    with pytest.raises(InputError, match=error):
        replace(KMeans(k=2), **change).check("clusters")
