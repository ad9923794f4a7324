"""Pre-trainings without labels on 300 digits, each layer judged by a logistic regression."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import DIGITS_VIEW, digit_images, write_parquet
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from trainings import in_this_process

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.errors import InputError
from raylabel.experiments.pretexts import write_pretexts
from raylabel.features.kmeans import KMeans
from raylabel.labels.features import read_labeled
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.trained import CURVE, load_model, open_network
from raylabel.pipelines.pretexts import PretextsRun
from raylabel.recipes.deep_cluster import DeepCluster
from raylabel.recipes.pretexts import Pretexts, Start
from raylabel.schema import SAMPLES
from raylabel.store.artifact import Artifact, Root
from raylabel.training import filters_from_patches
from raylabel.training.config import PRETEXTS, Train
from raylabel.training.head import Head
from raylabel.training.logistic import folds_of
from raylabel.training.media import Materialize
from raylabel.training.schedule import Schedule
from raylabel.training.task import TrainingTask
from raylabel.training.train import train

LAYERS = "conv1:2", "layer3"
CLASSES = {"rotation": 4, "jigsaw": 24, "position": 8, "clusters": 12, "surrogate": 60, "true": 10}
LABELED: tuple[Start, ...] = ("none", "clusters", "rotation", "surrogate", "true")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Pretexts:
    media, labels = digit_images()
    folder = tmp_path_factory.mktemp("corpora")
    corpora = {}
    for name, (low, high) in {"corpus": (0, 300), "labeled": (300, 400), "test": (400, 600)}.items():
        path = write_parquet(folder / f"{name}.parquet", media[low:high], labels[low:high])
        corpora[name] = Corpus(uri=(str(path),))
    train = Train(images=600, batch=60, schedule=Schedule(lr=0.05, warmup=0.0, drops=0), head_momentum=0.0)
    clusters = DeepCluster(
        name="digits",
        corpus=corpora["corpus"],
        labeled=True,
        rounds=2,
        kmeans=KMeans(k=12, iterations=3),
        components=8,
        model=Model(arch="resnet8x1"),
        view=DIGITS_VIEW,
        train=replace(train, precision="fp32"),
        materialize=Materialize(lanes=8),
    )
    return Pretexts(
        name="digits",
        clusters=clusters,
        starts=LABELED,
        surrogates=0.2,
        labeled=corpora["labeled"],
        test=corpora["test"],
        layers=LAYERS,
        head=Head(kind="logistic", strengths=(10.0,)),
        resources=Resources(workers=1),
    )


@pytest.fixture(scope="module")
def run(ray_local: None, recipe: Pretexts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PretextsRun]:
    with in_this_process(tmp_path_factory.mktemp("process")):
        found = PretextsRun(Root.open(str(tmp_path_factory.mktemp("root"))), recipe)
        assert found.judged
        yield found


@pytest.mark.parametrize("starts", [LABELED, ("jigsaw", "position")])
@pytest.mark.long
def test_each_network_learned_its_pretext_on_as_many_images(run: PretextsRun, starts: tuple[Start, ...]):
    judged = run.judged if starts == LABELED else PretextsRun(run.root, replace(run.pretexts, starts=starts)).judged
    networks = {one.start: one.network for one in judged}
    assert tuple(networks) == starts and networks.get("none") is None
    for start, network in networks.items():
        if network is None:
            continue
        assert network.info["classes"] == pytest.approx(CLASSES[start], abs=20 if start == "surrogate" else 0)
        assert network.identity["train"]["images"] == (600 if start == "clusters" else 1_200)
        assert network.identity["train"].get("pretext", "none") == (start if start in PRETEXTS else "none")
        load_model(network)


@pytest.mark.long
def test_samples_are_stored_once_but_for_the_share_of_surrogate_classes(run: PretextsRun):
    folders = sorted(path.name.rpartition("-")[0] for path in Path(run.root.uri).iterdir())
    assert [one for one in folders if one.startswith("media-") and one != "media-features"] == [
        *("media-labeled", "media-labels", "media-surrogate", "media-test")
    ]
    (examples,) = [a for a in run.artifacts if a.name == "examples-surrogate"]
    labels = examples.table("examples-", SAMPLES).column("labels").to_pylist()
    assert sorted(labels) == [[number] for number in range(len(labels))]


@pytest.mark.long
def test_accuracies_are_those_of_scikit_learn_on_the_same_features(run: PretextsRun):
    of = {a.digest: a for a in run.artifacts}
    for one in run.judged:
        identity = one.classified.identity
        features, labels = of[identity["features"]], of.get(identity["labels"], run.labels)
        assert features.identity["layer"] == one.layer
        assert features.identity.get("init") == (one.network.digest if one.network else None)
        train, tested = read_labeled(features, labels), read_labeled(of[identity["tested"][0]], run.test_labels)
        assert len(train.label) == 100 and len(tested.label) == 200 == one.top1.n
        assert train.feature.shape[1] == {"conv1:2": 64, "layer3": 64}[one.layer]
        oracle = LogisticRegression(C=10.0, max_iter=5_000, tol=1e-8).fit(train.feature, train.label)
        assert one.top1.value == pytest.approx(oracle.score(tested.feature, tested.label), abs=0.011)


@pytest.mark.long
def test_gains_are_over_random_weights(run: PretextsRun):
    top1 = {(one.start, one.layer): one.top1.value for one in run.judged}
    for one in run.judged:
        if one.start == "none":
            assert one.gain is None
        else:
            assert one.gain and one.gain.value == pytest.approx(one.top1.value - top1["none", one.layer])
    assert min(top1.values()) > 0.2  # chance is 0.1
    assert top1["true", "layer3"] > top1["none", "layer3"]


@pytest.mark.long
def test_the_page_has_a_row_for_each_start(run: PretextsRun):
    page, comparison = write_pretexts(run)
    accuracies, gains = comparison.tables
    assert [len(accuracies.rows), len(gains.rows), len(accuracies.columns)] == [5, 4, 2]
    assert "Features of clusters" in comparison.findings[0].claim
    assert b"surrogate classes" in page.read("report.html")
    again = write_pretexts(PretextsRun(run.root, run.pretexts))[0]
    assert again == page and isinstance(again, Artifact)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"starts": ()}, "starts is empty"),
        ({"starts": ("hebbian",)}, "starts has 'hebbian': give some of none, clusters"),
        ({"starts": ("none", "none")}, "names one twice"),
        ({"surrogates": 0.0}, "surrogates is 0"),
        ({"layers": ()}, "layers is empty"),
        ({"test": Corpus(uri=("x",), kind="video")}, "test.kind is 'video', but clusters.corpus.kind is 'image'"),
        ({"layers": ("conv1:",)}, "'conv1:'"),
        ({"ks": (5, 1)}, "ks.k is 1: give a whole number of at least 2"),
        ({"ks": (5, 5)}, "ks has a number twice"),
        ({"ks": (5,), "starts": ("none",)}, "ks is given, but starts has no 'clusters'"),
        ({"head": Head(kind="zero-shot")}, "head.kind is 'zero-shot'"),
    ],
)
def test_bad_fields_are_named(recipe: Pretexts, change: dict, message: str):
    with pytest.raises(InputError, match=message):
        replace(recipe, **change)
    with pytest.raises(InputError, match="clusters.labeled is not given"):
        replace(recipe, clusters=replace(recipe.clusters, labeled=False))


@pytest.mark.long
def test_a_pretext_for_other_labels_is_an_error(run: PretextsRun):
    config = replace(run.pretexts.train, pretext="rotation")
    (examples,) = [a for a in run.artifacts if a.name == "examples-surrogate"]
    task = TrainingTask(
        model=run.recipe.model, classes=60, examples=examples, config=config, view=run.recipe.view, seed=0
    )
    with pytest.raises(InputError, match="pretrain: pretext is 'rotation', which has 4 classes, but the labels"):
        train(run.root, "pretrain", task, Resources(workers=1))


@pytest.mark.long
def test_layers_that_the_network_lacks_are_an_error_before_any_work(run: PretextsRun, tmp_path: Path):
    root = Root.open(str(tmp_path))
    with pytest.raises(InputError, match="no layer 'conv9'"):
        PretextsRun(root, replace(run.pretexts, layers=("conv9",)))
    assert np.all([path.name.startswith(".") or "shards" in path.name for path in tmp_path.iterdir()])


@pytest.mark.long
def test_the_number_of_clusters_is_chosen_without_the_test_set(run: PretextsRun):
    recipe = replace(run.pretexts, starts=("clusters",), ks=(12, 5))
    other = PretextsRun(run.root, recipe)
    assert [one.k for one in other.tried] == [5, 12]
    sets, means = {a.digest: a for a in other.artifacts}, []
    for one in other.tried:
        network, known = one.run.rounds[-1].network, list[float]()
        for layer in LAYERS:
            (features,) = (
                a
                for a in sets.values()
                if a.name == "media-features" and (a.identity["layer"], a.identity["init"]) == (layer, network.digest)
            )
            train = read_labeled(features, other.labels)
            split = PredefinedSplit(folds_of(train.label, 5, 0))
            found = cross_val_predict(LogisticRegression(C=10.0, max_iter=5_000), train.feature, train.label, cv=split)
            known.append(float(np.mean(np.asarray(found) == train.label)))
        assert one.accuracies == pytest.approx(known, abs=0.011)
        means.append(sum(one.accuracies))
    best = other.tried[int(np.argmax(means))]
    assert other.chosen is best.run
    assert {one.network for one in other.judged} == {best.run.rounds[-1].network}
    page, comparison = write_pretexts(other)
    assert f"k = {best.k} has the highest mean" in page.read("report.html").decode()
    assert [row.name for row in comparison.tables[-1].rows] == ["k = 5", "k = 12"]


@pytest.mark.long
def test_starts_without_labels_of_a_class(run: PretextsRun, monkeypatch: pytest.MonkeyPatch):
    """Beside the same random weights; the network is an artifact like those of trainings."""
    monkeypatch.setattr(filters_from_patches, "PASSES", 1)
    starts: tuple[Start, ...] = ("none", "layer_kmeans", "completion")
    other = PretextsRun(run.root, replace(run.pretexts, starts=starts))
    top1 = {(one.start, one.layer): one.top1.value for one in other.judged}
    assert [top1["none", layer] for layer in LAYERS] == [one.top1.value for one in run.judged if one.start == "none"]
    torch.manual_seed(other.recipe.seed)
    drawn = build(Model(arch="resnet8x1"), 12)
    for start in starts[1:]:
        network = next(one.network for one in other.judged if one.start == start)
        assert network and open_network(network.uri) == network
        found = load_model(network)
        assert not torch.equal(found.get_parameter("conv1.weight"), drawn.get_parameter("conv1.weight"))
        if start == "layer_kmeans":
            assert torch.equal(found.get_parameter("fc.weight"), drawn.get_parameter("fc.weight"))
        else:
            curve = json.loads(network.read(CURVE))
            assert curve[-1]["loss"] < 0.9 * curve[0]["loss"] and curve[-1]["images"] == 1_200
        assert top1[start, "layer3"] > 0.3
    page, _ = write_pretexts(other)
    assert b"k-means, layer by layer" in page.read("report.html")
