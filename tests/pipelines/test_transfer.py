"""A transfer of two small networks to scikit-learn's digits, against scikit-learn and the networks themselves."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from finished_runs import digits_network
from helpers import DIGITS_VIEW, contents, random_model
from image_sets import write_lines, write_pictures
from scoring import scored_in_this_process
from sklearn.linear_model import LogisticRegression
from trainings import in_this_process

from raylabel.compute.resources import Resources
from raylabel.datasets import cub200, imagenet, imagenet_a
from raylabel.errors import InputError
from raylabel.evaluate.classify import hits
from raylabel.evaluate.results import REAL_TOP1, TOP1, require
from raylabel.labels.teacher import Label
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.trained import load_model
from raylabel.pipelines.transfer import TransferRun
from raylabel.pipelines.transfer_inputs import Candidate
from raylabel.recipes import Corpus, Head, Knn, Schedule, Train, Transfer, View
from raylabel.schema import CLASSIFIED, PICKS, features_schema
from raylabel.store.artifact import Root
from raylabel.transfer.result import write_transfer

STRENGTH = 10.0


def recipe(**more) -> Transfer:
    train = Train(images=640, batch=32, schedule=Schedule(lr=0.02, drops=1), precision="fp32")
    given = {
        "name": "digits",
        "labeled": Corpus(uri=("embedded://digits/test",)),  # 500 labels
        "test": Corpus(uri=("embedded://digits/labeled",)),
        "view": DIGITS_VIEW,
        "finetune": train,
        "probe": train,
        "head": Head(kind="logistic", strengths=(STRENGTH,)),
        "shares": (0.1,),
        "knn": Knn(k=5),
        "label": Label(batch=64, precision="fp32"),
        "resources": Resources(teachers=1, workers=1),
    }
    return Transfer(**given | more)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    return Root.open(str(tmp_path_factory.mktemp("root")))


@pytest.fixture(scope="module")
def candidates(root: Root) -> tuple[Candidate, ...]:
    first = digits_network(root, Label(batch=64), [str(n) for n in range(10)])
    second = random_model(root, "resnet8x2", classes=3)  # of other classes
    return (
        Candidate(name="first", model=Model(arch="resnet8x1"), weights=first.uri, view=DIGITS_VIEW),
        Candidate(name="second", model=Model(arch="resnet8x2"), weights=second.uri, view=DIGITS_VIEW),
    )


FEATURES = ("logistic_raw", "logistic", "few", "knn")
TRAININGS = ("finetune", "probe", "scratch")


@pytest.fixture(scope="module")
def here(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Networks score and train in this process."""
    folder = tmp_path_factory.mktemp("here")
    with scored_in_this_process(folder), in_this_process(folder):
        yield


@pytest.fixture(scope="module")
def run(here: None, root: Root, candidates: tuple[Candidate, ...]) -> TransferRun:
    found = TransferRun(root, recipe(protocols=FEATURES), candidates)
    assert found.outcomes
    return found


@pytest.fixture(scope="module")
def trained(ray_local: None, root: Root, candidates: tuple[Candidate, ...]) -> TransferRun:
    """Trainings that start from the first network."""
    found = TransferRun(root, recipe(protocols=TRAININGS), candidates[:1])
    assert found.outcomes
    return found


def outcome(run: TransferRun, protocol: str, network: str = "first"):
    (found,) = [one for one in run.outcomes if one.protocol == protocol and network in one.candidate.name]
    return found


def matrix(run: TransferRun, corpus: str) -> tuple[np.ndarray, np.ndarray]:
    """(keys, raw features float64 [N, D]) of a corpus by the first network."""
    features = run.features(run.candidates[0], corpus, "penultimate")
    table = features.table("features-", features_schema(features.info["p"]))
    rows = table.column("feature").combine_chunks().flatten().to_numpy().reshape(len(table), -1).astype(np.float64)
    return table.column("key").to_numpy(), rows * table.column("norm").to_numpy()[:, None]


def labels_of(picks) -> dict[int, int]:
    table = picks.table("picks-", PICKS)
    return dict(zip(table.column("key").to_pylist(), table.column("label").to_pylist(), strict=True))


def test_each_protocol_has_a_row_for_each_network(run: TransferRun):
    rows = [(one.protocol, one.candidate.name) for one in run.outcomes]
    assert rows == [(protocol, name) for protocol in FEATURES for name in ("first", "second")]
    assert {one.samples for one in run.outcomes if one.protocol != "few"} == {400}  # a fifth is held out
    assert {one.samples for one in run.outcomes if one.protocol == "few"} == {40}
    assert [one.gain is None for one in run.outcomes] == [True, False] * 4


def test_logistic_regression_is_that_of_scikit_learn_on_the_networks_features(run: TransferRun):
    keys, raw = matrix(run, "labeled")
    test_keys, asked = matrix(run, "test")
    train = labels_of(run.split[0])
    some = np.isin(keys, list(train))
    y = [train[key] for key in keys[some].tolist()]
    scale = np.linalg.norm(raw[some], axis=1).mean()
    for protocol, divide in (("logistic_raw", lambda x: x / scale), ("logistic", unit)):
        known = LogisticRegression(C=STRENGTH, tol=1e-6, max_iter=5_000).fit(divide(raw[some]), y)
        table = outcome(run, protocol).classified.table("classified-", CLASSIFIED)
        assert table.column("key").to_pylist() == test_keys.tolist()
        p = known.predict_proba(divide(asked))
        assert table.column("confidence").to_numpy() == pytest.approx(p.max(1), abs=2e-3)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_accuracies_of_trainings_are_those_of_their_scores(trained: TransferRun):
    rows = [(one.protocol, one.candidate.name, one.samples) for one in trained.outcomes]
    names = ("first", "first", "random weights (resnet8x1, 8 px)")
    assert rows == [(protocol, name, 400) for protocol, name in zip(TRAININGS, names, strict=True)]
    for one in trained.outcomes:
        digest = one.classified.identity["scores"]
        (scores,) = [a for a in trained.artifacts if a.name == "scores" and a.digest == digest]
        right = hits(scores, trained.start.test_labels).top1
        assert require(one.metrics, metric=TOP1).value == right.mean()
        assert scores.info["p"] == 10


@pytest.mark.slow
def test_the_probe_changes_the_head_alone_and_fine_tuning_all_layers(trained: TransferRun):
    before = load_model(trained.weights(trained.candidates[0])).state_dict()
    fresh = build(Model(arch="resnet8x1"), 10).state_dict()
    networks = {a.name: load_model(a).state_dict() for a in trained.artifacts if a.name in TRAININGS}
    head = {name for name in fresh if name.startswith("fc.") or "head" in name or "linear" in name}
    assert head
    for name, tensor in before.items():
        same = (networks["probe"][name] == tensor).all()
        assert same == (name not in head), name
    parameters = [n for n in before if n.endswith("weight")]
    assert all((networks["finetune"][n] != before[n]).any() for n in parameters if before[n].ndim > 1)


def test_the_gain_is_the_paired_difference(run: TransferRun):
    for protocol in FEATURES:
        a, b = (require(outcome(run, protocol, n).metrics, metric=TOP1).value for n in ("first", "second"))
        gain = outcome(run, protocol, "second").gain
        assert gain and gain.value == pytest.approx(a - b)


@pytest.mark.slow
def test_random_weights_are_compared_with_fine_tuning(trained: TransferRun):
    tuned, _, scratch = (require(one.metrics, metric=TOP1).value for one in trained.outcomes)
    first, probe, last = (one.gain for one in trained.outcomes)
    assert first is None and probe is None and last and last.value == pytest.approx(tuned - scratch)


def test_nothing_is_trained_on_the_samples_for_temperatures(run: TransferRun):
    labels, held = run.split
    assert held and held[0] == "labeled"
    train, kept = labels_of(labels), labels_of(held[1])
    assert not train.keys() & kept.keys() and len(train) + len(kept) == 500
    for one in run.outcomes:
        known = one.classified.identity["held"]
        assert (known is None) == (one.protocol == "knn")
        assert known is None or known[1] == held[1].digest


def test_the_same_transfer_again_does_no_work(run: TransferRun, candidates: tuple[Candidate, ...]):
    page, summary = write_transfer(run)
    folder = Path(run.root.uri)
    before = {path.name: path.stat().st_mtime_ns for path in folder.rglob("manifest.json")}
    files = contents(page)
    again, same = write_transfer(TransferRun(run.root, recipe(protocols=FEATURES), candidates))
    assert (again.uri, same.to_dict()) == (page.uri, summary.to_dict()) and contents(again) == files
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.rglob("manifest.json")}
    assert {"summary.json", "report.html"} <= files.keys()
    for uri in summary.artifacts.values():
        assert (folder / uri / "manifest.json").is_file()


def test_fine_tuning_starts_from_the_network_with_a_new_head(run: TransferRun, candidates: tuple[Candidate, ...]):
    short = replace(recipe().finetune, images=64, schedule=Schedule(lr=1e-6, warmup=0, drops=0))
    given = recipe(protocols=("finetune",), finetune=short, holdout=0.0)
    (one,) = TransferRun(run.root, given, candidates[:1]).outcomes
    (network,) = run.root.named("finetune")
    before = load_model(run.weights(candidates[0])).state_dict()
    off = {n: float((x - before[n]).abs().max()) for n, x in load_model(network).state_dict().items() if x.ndim > 1}
    last = list(off)[-1]
    assert off[last] > 0.01 and max(x for name, x in off.items() if name != last) < 1e-4
    assert len(one.classified.table("classified-", CLASSIFIED)) == 50


@pytest.mark.slow
def test_features_may_be_those_of_another_layer(run: TransferRun, candidates: tuple[Candidate, ...]):
    found = TransferRun(run.root, recipe(layers=("layer2",), protocols=("knn",)), candidates[:1])
    (one,) = found.outcomes
    features = found.features(candidates[0], "test", "layer2")
    assert features.identity["source"]["layer"] == "layer2"
    assert features.info["p"] == 32 and one.classified.digest != outcome(run, "knn").classified.digest


def test_without_a_holdout_all_labels_are_trained_on(run: TransferRun, candidates: tuple[Candidate, ...]):
    given = recipe(holdout=0.0, protocols=("logistic",))
    found = TransferRun(run.root, given, candidates[:1])
    (one,) = found.outcomes
    assert one.samples == 500 and found.split[1] is None and one.classified.info["temperature"] is None


def test_a_validation_set_is_for_temperatures(run: TransferRun, candidates: tuple[Candidate, ...]):
    given = recipe(validation=Corpus(uri=("embedded://digits/labeled",)), protocols=("logistic",))
    found = TransferRun(run.root, given, candidates[:1])
    (one,) = found.outcomes
    assert one.samples == 500 and found.split[1] == ("validation", found.start.validation)
    assert one.classified.info["temperature"] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"holdout": 1.0}, "holdout is 1.0"),
        ({"protocols": ("svm",)}, "protocols has 'svm': give some of finetune, probe"),
        ({"protocols": ()}, "protocols is empty"),
        ({"shares": (0.0,)}, "shares has 0.0"),
        ({"head": Head()}, "head.kind is 'none': give 'logistic'"),
        ({"knn": Knn(k=0)}, r"knn\.k is 0"),
        ({"networks": ("a", "a")}, "networks has 'a' twice"),
    ],
)
def test_bad_fields_are_named(change: dict, message: str):
    with pytest.raises(InputError, match=message):
        recipe(**change)


def test_inputs_that_do_not_fit_are_errors_before_any_work(ray_local: None, tmp_path: Path, candidates):
    root = Root.open(str(tmp_path))
    with pytest.raises(InputError, match="real is given, but the class '0' is no WordNet id"):
        TransferRun(root, recipe(real="real.json"), candidates[:1])
    with pytest.raises(InputError, match="networks is empty"):
        TransferRun(root, recipe(), ())
    wide = replace(candidates[0], model=Model(arch="resnet8x4"))
    with pytest.raises(InputError, match="do not fit resnet8x4"):
        assert TransferRun(root, recipe(), (wide,)).outcomes
    with pytest.raises(InputError, match="no layer 'stage9'"):
        assert TransferRun(root, recipe(layers=("stage9",)), candidates[:1]).outcomes
    with pytest.raises(InputError, match="r3d_18"):
        TransferRun(root, recipe(), (replace(candidates[0], model=Model(arch="r3d_18")),))
    assert View().size == 224


def cub(folder: Path) -> tuple[Corpus, Corpus, int]:
    """A made-up CUB-200-2011 of 20 pictures: (train, test, test pictures)."""
    names, base = ["001.Albatross", "002.Wren"], folder / "CUB_200_2011"
    paths = [f"{names[i % 2]}/{i:04}.jpg" for i in range(20)]
    write_pictures(base / "images", paths)
    write_lines(base / "classes.txt", [f"{1 + i} {name}" for i, name in enumerate(names)])
    write_lines(base / "images.txt", [f"{1 + i} {path}" for i, path in enumerate(paths)])
    write_lines(base / "image_class_labels.txt", [f"{1 + i} {1 + i % 2}" for i in range(20)])
    write_lines(base / "train_test_split.txt", [f"{1 + i} {int(i < 12)}" for i in range(20)])
    return cub200(str(folder), "train"), cub200(str(folder), "test"), 8


def ilsvrc(folder: Path) -> tuple[Corpus, Corpus, int]:
    """A made-up ImageNet of 20 pictures, with a flat folder val and Kaggle's list of its labels."""
    wnids = ["n01440764", "n01443537"]
    write_pictures(folder / "train", [f"{wnids[i % 2]}/{wnids[i % 2]}_{i}.JPEG" for i in range(14)])
    names = [f"ILSVRC2012_val_{1 + i:08}" for i in range(6)]
    write_pictures(folder / "val", [f"{name}.JPEG" for name in names])
    lines = [f"{name},{wnids[i % 2]} 0 0 5 5" for i, name in enumerate(names)]
    write_lines(folder / "LOC_val_solution.csv", ["ImageId,PredictionString", *lines])
    return imagenet(str(folder), "train"), imagenet(str(folder), "val"), 6


def natural_adversarial(folder: Path) -> tuple[Corpus, Corpus, int]:
    """ImageNet's train with a third class, and ImageNet-A, in which it does not occur: labels are among 1,000 wnids."""
    labeled, _, _ = ilsvrc(folder)
    write_pictures(folder / "train", [f"n01484850/n01484850_{i}.JPEG" for i in range(2)])
    write_pictures(folder / "imagenet-a", [f"{('n01440764', 'n01443537')[i % 2]}/{i}.jpg" for i in range(4)])
    return labeled, imagenet_a(str(folder)), 4


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "made_up", [pytest.param(cub, marks=SLOW), ilsvrc, pytest.param(natural_adversarial, marks=SLOW)]
)
def test_standard_sets_in_their_own_layouts(here: None, tmp_path: Path, root: Root, candidates, made_up):
    labeled, test, count = made_up(tmp_path)
    (tmp_path / "real.json").write_text(json.dumps([[0], [], [0, 1], [1], [], [7]]))  # images 2 and 5 have no label
    real = str(tmp_path / "real.json") if made_up is ilsvrc else ""
    short = recipe(labeled=labeled, test=test, holdout=0.0, knn=Knn(k=3), protocols=("logistic", "knn"), real=real)
    run = TransferRun(root, short, candidates[:1])
    assert [(one.protocol, one.samples) for one in run.outcomes] == [("logistic", 20 - count), ("knn", 20 - count)]
    rows = write_transfer(run)[1].rows
    assert [bool(row.subset_top1) for row in rows] == 2 * [made_up is natural_adversarial]
    for one in run.outcomes:
        labels = one.classified.table("classified-", CLASSIFIED).column("label").to_pylist()
        assert sorted(labels) == [0] * (count // 2) + [1] * (count // 2)
        assert require(one.metrics, metric=TOP1).n == count
        if real:
            best = one.classified.table("classified-", CLASSIFIED).column("best").to_pylist()
            found = require(one.metrics, metric=REAL_TOP1)
            assert (found.value, found.n) == (((best[0] == 0) + 1 + (best[3] == 1)) / 4, 4)
