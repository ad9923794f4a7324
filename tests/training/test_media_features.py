"""FEATURES of stored samples, computed by training workers; and from them to EXAMPLES of clusters."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers import DIGITS_VIEW, contents
from hypothesis import given
from hypothesis import strategies as st
from trainings import CONFIG, MODEL, digits_examples, fit, in_this_process

from raylabel.compute.resources import Resources
from raylabel.features.clusters import ASSIGNED
from raylabel.features.kmeans import KMeans, cluster
from raylabel.features.whitening import fit_whitening, whiten
from raylabel.media.image_views import eval_pixels, normalise
from raylabel.models.build import build
from raylabel.models.trained import load_model
from raylabel.schema import ROW_GROUPS, SAMPLES
from raylabel.store.artifact import Artifact, Root
from raylabel.training import features, uniform
from raylabel.training.examples import media_of
from raylabel.training.features import FeatureTask, media_features, parts_of
from raylabel.training.row_groups import row_groups_of
from raylabel.training.schedule import Schedule
from raylabel.training.stream import Stream
from raylabel.training.uniform import make_uniform

BATCH, ALONE = CONFIG.batch, Resources(workers=1)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "LEAST", 1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    return Root.open(str(tmp_path_factory.mktemp("features")))


@pytest.fixture(scope="module")
def here(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with in_this_process(tmp_path_factory.mktemp("process")):
        yield


@pytest.fixture(scope="module")
def examples(here: None, root: Root, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return digits_examples(root, tmp_path_factory.mktemp("digits"))


@pytest.fixture
def task(examples: Artifact) -> FeatureTask:
    media = media_of(examples)
    return FeatureTask(media=media, model=MODEL, classes=10, view=DIGITS_VIEW, seed=3, precision="fp32")


def stored_media(examples: Artifact) -> tuple[list[int], list[bytes]]:
    """The keys and the bytes of all samples in the order of MEDIA."""
    groups = row_groups_of(examples)
    lanes = groups.load(range(groups.lanes), 0)
    found = [group for n, lane in lanes.items() for group in groups.read(n, list(range(len(lane.items))))]
    return [int(k) for one in found for k in one.key], [as_bytes(m) for one in found for m in one.media]


def as_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else value.as_py()


def of_all(made: Artifact) -> tuple[list[int], np.ndarray]:
    """Keys, and what the network computed, float32 [N, D]."""
    tables = list[pa.Table]()
    for file in made.files("features-"):
        with made.opened(file) as opened:
            tables.append(opened.read())
    table = pa.concat_tables(tables)
    feature = np.stack([np.array(row, np.float32) for row in table["feature"].to_pylist()])
    assert np.abs(np.linalg.norm(feature, axis=1) - 1).max() < 1e-3
    return table["key"].to_pylist(), feature * table["norm"].to_numpy()[:, None]


@pytest.mark.parametrize("trained", [False, True])
def test_they_are_those_of_a_plain_pass_in_the_order_of_the_media(root, examples, task, trained: bool):
    if trained:
        task = replace(task, init=fit(root, examples))
        network = load_model(task.init)
    else:
        torch.manual_seed(task.seed)
        network = build(MODEL, task.classes)
    keys, media = stored_media(examples)
    pixels = np.stack([eval_pixels(one, DIGITS_VIEW) for one in media])
    seen: list[torch.Tensor] = []
    network.eval().fc.register_forward_pre_hook(lambda _, given: seen.append(given[0]))  # pyright: ignore
    with torch.no_grad():
        network(normalise(torch.from_numpy(pixels), DIGITS_VIEW, torch.float32))
    found = of_all(media_features(root, task, ALONE, BATCH))
    assert found[0] == keys
    np.testing.assert_allclose(found[1], seen[0].numpy(), rtol=2e-3, atol=2e-3)


def test_random_weights_are_those_that_a_training_starts_from(root, examples, task):
    still = replace(CONFIG, images=64, schedule=Schedule(lr=1e-12))
    start = fit(root, examples, still)
    found = [of_all(media_features(root, replace(task, init=init), ALONE, BATCH))[1] for init in (None, start)]
    # One step changed the statistics of BatchNorm, by a tenth of their distance to those of a batch, and no weight.
    correlation = np.corrcoef(found[0].ravel(), found[1].ravel())[0, 1]
    assert correlation > 0.95
    other = of_all(media_features(root, replace(task, seed=4), ALONE, BATCH))[1]
    assert np.corrcoef(found[0].ravel(), other.ravel())[0, 1] < 0.9


def test_a_stopped_run_keeps_its_parts(root, task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole, written = media_features(root, task, ALONE, BATCH), list[int]()
    commit = features._commit

    def stopping(folder: str, number: int, *columns):
        if len(written) == 5:
            raise ValueError("stopped")
        written.append(number)
        return commit(folder, number, *columns)

    other = Root.open(str(tmp_path))
    monkeypatch.setattr(features, "_commit", stopping)
    with pytest.raises(ValueError, match="stopped"):
        media_features(other, task, ALONE, BATCH)
    assert written == [0, 1, 2, 3, 4]
    monkeypatch.setattr(features, "_commit", lambda f, n, *c: written.append(n) or commit(f, n, *c))
    assert contents(media_features(other, task, ALONE, BATCH)) == contents(whole)
    assert written == sorted(set(written)) and len(written) == len(whole.files("features-")) > 5


@given(st.lists(st.integers(1, 700), min_size=1, max_size=300))
def test_parts_are_consecutive_groups_of_limited_size(rows: list[int]):
    found = parts_of(np.array(rows))
    assert np.concatenate(found).tolist() == list(range(len(rows)))
    sizes = [sum(rows[i] for i in part) for part in found]
    assert max(sizes) < features.ROWS + max(rows) and len(found) <= features.PARTS + sum(rows) / features.ROWS + 2


def test_clusters_of_features_become_labels_of_the_same_media(root, examples, task, monkeypatch: pytest.MonkeyPatch):
    made = media_features(root, task, ALONE, BATCH)
    white = whiten(root, made, fit_whitening(root, made, 16))
    clusters = cluster(root, white, KMeans(k=7, iterations=3), seed=0, readers=1)
    found = make_uniform(root, "clusters", task.media, clusters, seed=0)
    assert media_of(found) == task.media and found.info["items"] == 600
    table = found.table("examples-", SAMPLES)
    assert table["key"].to_pylist() == stored_media(examples)[0]
    own = dict(
        zip(*(clusters.table("assigned-", ASSIGNED)[name].to_pylist() for name in ("key", "cluster")), strict=True)
    )
    labels = Counter(label for some in table["labels"].to_pylist() for label in some)
    assert set(labels) == set(range(7)) and max(labels.values()) - min(labels.values()) <= 1
    media = dict(zip(*stored_media(examples), strict=True))
    for _, key, data, label, _ in Stream(found, 0).items(0, 2_000):
        assert label == own[key] and data == media[key]
    monkeypatch.setattr(uniform, "RUN", 3)  # files that a task reads
    again = make_uniform(root, "others", task.media, clusters, seed=0)
    assert again.table("examples-", SAMPLES).equals(table) and len(again.files("examples-")) == 3
    other = make_uniform(root, "others", task.media, clusters, seed=1)
    assert not other.table("examples-", SAMPLES).equals(table)


def test_lanes_without_labels_are_left_out(root, examples, task, monkeypatch: pytest.MonkeyPatch):
    """Only samples of the first three lanes have labels, and of the fourth one sample of its last group."""
    made = media_features(root, task, ALONE, BATCH)
    clusters = cluster(root, made, KMeans(k=7, iterations=1), seed=0, readers=1)
    table = task.media.table("row_groups", ROW_GROUPS)
    lane = np.repeat(table["lane"].to_numpy(), table["rows"].to_numpy())
    kept = np.flatnonzero(lane < 3).tolist() + [int(np.flatnonzero(lane == 3)[-1])]

    def some(cluster: np.ndarray, position: np.ndarray, *_) -> np.ndarray:
        row = np.arange(len(cluster)) + seen[0]
        seen[0] += len(cluster)
        return np.isin(row, kept).astype(np.int64)

    seen = [0]
    monkeypatch.setattr("raylabel.training.uniform.repeats", some)
    monkeypatch.setattr("raylabel.training.uniform.run_tasks", lambda each, tasks: [each(*one) for one in tasks])
    found = make_uniform(root, "few", task.media, clusters, seed=9)
    assert found.info["empty_lanes"] == list(range(4, int(lane.max()) + 1)) and found.info["lanes"] == 4
    keys = found.table("examples-", SAMPLES)["key"].to_pylist()
    drawn = Counter(key for _, key, *_ in Stream(found, 0).items(0, 4 * 200))
    assert set(drawn) == {keys[row] for row in kept} and drawn[keys[kept[-1]]] == 200


@pytest.mark.long
def test_the_bytes_do_not_depend_on_the_workers(ray_local, examples, task, tmp_path: Path):
    made = [media_features(Root.open(str(tmp_path / str(n))), task, Resources(workers=n), BATCH) for n in (1, 3)]
    assert contents(made[0]) == contents(made[1])
