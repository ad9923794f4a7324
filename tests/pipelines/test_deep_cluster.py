"""DeepCluster on 400 digits: each round's labels are the clusters of the features of the network before it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from helpers import DIGITS_VIEW, contents, digit_images, write_parquet
from sklearn.metrics import normalized_mutual_info_score
from trainings import in_this_process

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.errors import InputError
from raylabel.features import kmeans
from raylabel.features.clusters import ASSIGNED
from raylabel.features.kmeans import KMeans
from raylabel.models import Model
from raylabel.models.init import Init
from raylabel.models.trained import WEIGHTS
from raylabel.pipelines.deep_cluster import DeepClusterRun
from raylabel.recipes.deep_cluster import DeepCluster
from raylabel.schema import SAMPLES
from raylabel.store.artifact import Artifact, Root
from raylabel.training.config import Train
from raylabel.training.examples import media_of
from raylabel.training.learner import MOMENTUM
from raylabel.training.media import Materialize
from raylabel.training.schedule import Schedule

N = 400
TRAIN = Train(
    images=N,
    batch=40,
    schedule=Schedule(lr=0.05, warmup=0.0, drops=0),
    precision="fp32",
    head_momentum=0.0,
    checkpoint_minutes=0.001,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    media, labels = digit_images()
    path = tmp_path_factory.mktemp("corpus") / "digits.parquet"
    return Corpus(uri=(str(write_parquet(path, media[:N], labels[:N])),))


@pytest.fixture(scope="module")
def recipe(corpus: Corpus) -> DeepCluster:
    return DeepCluster(
        name="digits",
        corpus=corpus,
        labeled=True,
        rounds=3,
        kmeans=KMeans(k=20, iterations=4),
        components=16,
        model=Model(arch="resnet8x1"),
        view=DIGITS_VIEW,
        train=TRAIN,
        materialize=Materialize(lanes=8),
        resources=Resources(workers=1),
    )


@pytest.fixture(scope="module")
def here(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with in_this_process(tmp_path_factory.mktemp("process")):
        yield


@pytest.fixture(scope="module")
def run(here: None, recipe: DeepCluster, tmp_path_factory: pytest.TempPathFactory) -> DeepClusterRun:
    found = DeepClusterRun(Root.open(str(tmp_path_factory.mktemp("root"))), recipe)
    assert [one.number for one in found.rounds] == [0, 1, 2]
    return found


def clusters_of(artifact: Artifact) -> dict[int, int]:
    table = artifact.table("assigned-", ASSIGNED)
    return dict(zip(table["key"].to_pylist(), table["cluster"].to_pylist(), strict=True))


def test_each_round_clusters_the_network_before_and_trains_it_with_a_new_head(run: DeepClusterRun):
    before, seeds = None, set()
    for one in run.rounds:
        features = one.clusters.identity["features"]
        assert features.get("init") == (before.digest if before else None) and features["media"] == run.media.digest
        trained = one.network.identity
        assert trained["init"] == (before.digest if before else None) and trained["continued"] is True
        assert trained["train"].get("init", {}).get("head", "same") == ("new" if before else "same")
        seeds |= {one.clusters.identity["seed"]}
        (examples,) = [a for a in run.artifacts if a.digest == trained["examples"]]
        own, table = clusters_of(one.clusters), examples.table("examples-", SAMPLES)
        assert examples.identity["clusters"] == one.clusters.digest and media_of(examples) == run.media
        for key, labels in zip(table["key"].to_pylist(), table["labels"].to_pylist(), strict=True):
            assert set(labels) <= {own[key]}
        before = one.network
    assert len(seeds) == 3
    # The first features are those of the weights with which the first training starts.
    assert run.rounds[0].clusters.identity["features"]["seed"] == run.rounds[0].network.identity["seed"]


def test_media_are_written_once_and_features_are_not_kept(run: DeepClusterRun):
    folders = [path.name.rpartition("-")[0] for path in Path(run.root.uri).iterdir()]
    assert folders.count("media-labeled") == 1 and folders.count("clusters") == folders.count("round") == 3
    assert not {name for name in folders if "features" in name or "white" in name or name.startswith(".workers")}
    assert not list(Path(run.root.uri).glob("*/scratch"))


def test_the_momentum_goes_on_and_the_head_begins_anew(run: DeepClusterRun):
    first, second = (safetensors.torch.load(one.network.read(WEIGHTS)) for one in run.rounds[:2])
    assert first["fc.weight"].shape == (20, second["fc.weight"].shape[1])
    assert np.corrcoef(first["fc.weight"].ravel(), second["fc.weight"].ravel())[0, 1] < 0.5
    assert np.corrcoef(first["conv1.weight"].ravel(), second["conv1.weight"].ravel())[0, 1] > 0.5
    assert all(one.network.read(MOMENTUM) for one in run.rounds)


def test_clusters_are_compared_with_those_before_and_with_true_labels(run: DeepClusterRun):
    assert run.truth is not None
    table = run.truth.table("examples-", SAMPLES)
    truth = dict(zip(table["key"].to_pylist(), [one for (one,) in table["labels"].to_pylist()], strict=True))
    before = None
    for one in run.rounds:
        own = clusters_of(one.clusters)
        keys = sorted(own)
        assert len(keys) == N and one.truth is not None
        of = [[labels[key] for key in keys] for labels in (truth, own)]
        assert one.truth.nmi == pytest.approx(normalized_mutual_info_score(*of, average_method="geometric"))
        assert one.truth.nmi > 0.3  # of random labels in 20 classes it is 0.1
        assert (one.before is None) == (before is None)
        if before and one.before:
            of = [[labels[key] for key in keys] for labels in (before, own)]
            assert one.before.nmi == pytest.approx(normalized_mutual_info_score(*of, average_method="geometric"))
        before = own


@pytest.mark.long
@pytest.mark.parametrize("iteration", [2, 4])
def test_a_run_that_stops_within_a_round_ends_with_the_same_bytes(
    run: DeepClusterRun, recipe: DeepCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, iteration: int
):
    """It stops while the second round clusters."""
    write, written = kmeans._write, list[int]()

    def stopping(folder: str, state: kmeans._State) -> None:
        write(folder, state)
        written.append(state.iteration)
        if len(written) == 4 + iteration:
            raise ValueError("stopped")

    root = Root.open(str(tmp_path))
    monkeypatch.setattr(kmeans, "_write", stopping)
    with pytest.raises(ValueError, match="stopped"):
        assert DeepClusterRun(root, recipe).rounds
    again = DeepClusterRun(root, recipe).rounds
    assert written == [1, 2, 3, 4] * 3  # no iteration was done again
    for one, whole in zip(again, run.rounds, strict=True):
        assert one.clusters.digest == whole.clusters.digest and contents(one.clusters) == contents(whole.clusters)
        assert contents(one.network) == contents(whole.network)


@pytest.mark.long
def test_without_labels_the_networks_are_the_same_and_late_rounds_may_keep_the_clusters(
    run: DeepClusterRun, recipe: DeepCluster, tmp_path: Path
):
    found = DeepClusterRun(Root.open(str(tmp_path)), replace(recipe, labeled=False, clustered=2)).rounds
    for one, labeled in zip(found[:2], run.rounds, strict=False):
        assert contents(one.clusters) == contents(labeled.clusters)
        assert contents(one.network) == contents(labeled.network) and one.truth is None
    last = found[2]
    assert last.clusters == found[1].clusters and last.before is None
    assert "init" not in last.network.identity["train"] or last.network.identity["train"]["init"].get("head") != "new"
    assert last.network.identity["examples"] != found[1].network.identity["examples"]  # drawn anew


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rounds": 0}, "rounds is 0"),
        ({"clustered": 4}, "clustered is 4: give up to 3"),
        ({"components": 0}, "components is 0"),
        ({"kmeans": KMeans(k=1)}, "kmeans.k is 1"),
        ({"reject_limit": 2.0}, "reject_limit is 2.0"),
        ({"train": replace(TRAIN, optimizer="adam", head_momentum=None)}, "train.optimizer is 'adam'"),
        ({"train": replace(TRAIN, init=Init(weights="x"))}, "train.init is given"),
        ({"train": replace(TRAIN, soft=0.5)}, "train.soft is 0.5"),
    ],
)
def test_bad_fields_are_named(recipe: DeepCluster, change: dict, message: str):
    with pytest.raises(InputError, match=message):
        replace(recipe, **change)


@pytest.mark.long
def test_samples_that_cannot_be_read_are_left_out(here, recipe: DeepCluster, tmp_path: Path):
    media, labels = digit_images()
    path = write_parquet(tmp_path / "bad.parquet", [b"no picture", *media[:99]], labels[:100])
    run = DeepClusterRun(Root.open(str(tmp_path / "root")), replace(recipe, corpus=Corpus(uri=(str(path),)), rounds=1))
    (one,) = run.rounds
    assert len(clusters_of(one.clusters)) == one.sizes.sum() == 99 and run.media.info["rejected"] == 1
    assert one.truth and 0 < one.truth.nmi < 1


@pytest.mark.long
def test_each_guard_can_be_taken_out(run: DeepClusterRun, recipe: DeepCluster, tmp_path: Path):
    """Without it the run differs in this alone."""
    root = Root.open(str(tmp_path))
    plain = DeepClusterRun(root, replace(recipe, uniform=False, rounds=1)).rounds[0]
    assert plain.clusters.digest == run.rounds[0].clusters.digest
    (examples,) = [a for a in root_artifacts(root) if a.digest == plain.network.identity["examples"]]
    labels = examples.table("examples-", SAMPLES).column("labels").to_pylist()
    assert [len(some) for some in labels] == [1] * N  # each sample once, however large its cluster
    unscaled = DeepClusterRun(root, replace(recipe, whitened=False, rounds=1)).rounds[0]
    assert unscaled.clusters.digest != plain.clusters.digest
    assert unscaled.sizes.max() != plain.sizes.max()
    kept = DeepClusterRun(root, replace(recipe, new_head=False, rounds=2)).rounds
    assert "init" not in kept[1].network.identity["train"]
    first, second = (safetensors.torch.load(one.network.read(WEIGHTS)) for one in kept)
    assert np.corrcoef(first["fc.weight"].ravel(), second["fc.weight"].ravel())[0, 1] > 0.5


def root_artifacts(root: Root) -> list[Artifact]:
    folders = [path for path in Path(root.uri).iterdir() if not path.name.startswith(".") and "-" in path.name]
    return [Artifact(str(path), *path.name.rsplit("-", 1)) for path in folders]
