"""Arbitrary labels of 120 digits: what each arm trains, from what, on which labels, and what is measured."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import digit_images, write_parquet
from scoring import scored_in_this_process
from trainings import in_this_process

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.errors import InputError
from raylabel.evaluate.results import LOSS, TOP1, require
from raylabel.experiments.arbitrary_labels import write_arbitrary_labels
from raylabel.experiments.comparison import Value
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.init import Init
from raylabel.models.trained import CURVE, WEIGHTS
from raylabel.pipelines.arbitrary_labels import TRAIN_LOSS, TRAIN_TOP1, ArbitraryLabelsRun
from raylabel.recipes.arbitrary_labels import ARMS, ArbitraryLabels
from raylabel.schema import PICKS, SCORES
from raylabel.store.artifact import Artifact, Root
from raylabel.store.names import SUMMARY
from raylabel.training.config import Train, Validate
from raylabel.training.schedule import Schedule

TRAIN = Train(
    images=120,
    batch=10,
    optimizer="adam",
    schedule=Schedule(lr=0.003, warmup=0.0, drops=0),
    weight_decay=0.0,
    precision="fp32",
)
CONVOLUTIONS = ("bn0", "conv1", "bn1", "conv2", "bn2")


def make(folder: Path) -> ArbitraryLabels:
    media, labels = digit_images()
    sets = {}
    for name, rows in (("labeled", slice(0, 120)), ("test", slice(120, 320))):
        sets[name] = Corpus(uri=(str(write_parquet(folder / f"{name}.parquet", media[rows], labels[rows])),))
    return ArbitraryLabels(
        name="digits",
        **sets,
        model=Model(arch="conv2_norm", size=8),
        view=View(size=8, resize=8, crop="center", flip=False, mean=(0.3, 0.3, 0.3), std=(0.37, 0.37, 0.37)),
        train=TRAIN,
        teacher=TRAIN,
        teacher_share=0.5,
        resources=Resources(workers=1),
    )


@pytest.fixture
def recipe(tmp_path: Path) -> ArbitraryLabels:
    return make(tmp_path)


@pytest.fixture(scope="module")
def run(ray_local, tmp_path_factory) -> ArbitraryLabelsRun:
    folder = tmp_path_factory.mktemp("arbitrary")
    with in_this_process(folder), scored_in_this_process(folder):
        found = ArbitraryLabelsRun(Root.open(str(folder / "root")), make(folder))
        assert [one.arm for one in found.results] == list(ARMS)
    return found


def weights(network: Artifact) -> dict[str, torch.Tensor]:
    return safetensors.torch.load(network.read(WEIGHTS))


def changed(before: Artifact, after: Artifact) -> set[str]:
    """The layers of which anything differs."""
    a, b = weights(before), weights(after)
    return {name.partition(".")[0] for name in a if not torch.equal(a[name], b[name])}


@pytest.mark.long
def test_each_epoch_continues_the_one_before(run):
    for one in run.results:
        inits = [epoch.network.identity["init"] for epoch in one.epochs]
        assert inits == [None, one.epochs[0].network.digest]
        assert len({epoch.network.identity["seed"] for epoch in one.epochs}) == 2
    by_arm = {one.arm: one for one in run.results}
    assert by_arm["whole"].epochs[0] == replace(
        by_arm["true"].epochs[0], metrics=by_arm["whole"].epochs[0].metrics
    )  # the same network


@pytest.mark.long
def test_the_head_is_trained_on_true_labels_and_nothing_else_changes(run):
    for one in run.results:
        first, last = (epoch.network for epoch in one.epochs)
        whole = next(r for r in run.results if r.arm == "whole").last.network
        assert last.identity["examples"] == whole.identity["examples"]
        moved = changed(first, last)
        if one.arm in ("linear", "whole"):
            assert moved == set(name.partition(".")[0] for name in weights(last)), one.arm
        else:
            assert moved == {"fc1", "bn3", "fc2"}, one.arm


@pytest.mark.long
def test_statistics_change_without_weights(run):
    (one,) = (one for one in run.results if one.arm == "calibrated")
    (frozen,) = (one for one in run.results if one.arm == "frozen")
    found, head = weights(one.epochs[0].network), weights(frozen.epochs[0].network)
    for name, tensor in found.items():
        layer = name.partition(".")[0]
        if "running" in name:
            begin = 1.0 if name.endswith("var") else 0.0
            assert not torch.equal(tensor, torch.full_like(tensor, begin)), name
        elif layer in CONVOLUTIONS and "num_batches" not in name:
            assert torch.equal(tensor, head[name]), name  # random weights of the same seed, frozen in the other arm
    assert torch.equal(head["bn1.running_mean"], torch.zeros(32))


@pytest.mark.long
def test_directions_are_random_and_labels_are_those_of_the_arm(run):
    labels = {
        kind: run.picks(kind).table("picks-", PICKS).sort_by("key")["label"].to_numpy() for kind in ("true", "shuffled")
    }
    assert np.array_equal(np.bincount(labels["true"]), np.bincount(labels["shuffled"]))
    assert np.mean(labels["true"] == labels["shuffled"]) < 0.3
    by_arm = {one.arm: one.epochs[0].network.identity for one in run.results}
    assert by_arm["direction"]["train"]["direction"] == "random"
    assert by_arm["direction"]["examples"] == by_arm["arbitrary"]["examples"] == by_arm["calibrated"]["examples"]
    assert len({by_arm[arm]["examples"] for arm in ("arbitrary", "true", "teacher")}) == 3


@pytest.mark.long
def test_a_teacher_of_half_of_the_labels_gives_all(run, tmp_path):
    with in_this_process(tmp_path), scored_in_this_process(tmp_path):
        picks = run.picks("teacher").table("picks-", PICKS).sort_by("key")
        best = run._scores(run.teacher, "labeled", run.recipe.label, 10).table("scores-", SCORES).sort_by("key")
    assert picks["key"].to_pylist() == best["key"].to_pylist() and len(picks) == 120
    assert picks["label"].to_pylist() == [classes[0] for classes in best["classes"].to_pylist()]
    truth = run.truth.table("picks-", PICKS).sort_by("key")["label"].to_numpy()
    assert 0.3 < np.mean(picks["label"].to_numpy() == truth) < 1


@pytest.mark.long
def test_what_is_measured_is_that_of_the_scores_and_curves(run, tmp_path):
    truth = run.test_labels.table("picks-", PICKS)
    label = dict(zip(truth["key"].to_pylist(), truth["label"].to_pylist(), strict=True))
    tops = {}
    for one in run.results:
        right = list[bool]()
        for epoch in one.epochs:
            with scored_in_this_process(tmp_path):
                scores = run._scores(epoch.network, "test", run.recipe.label, 10).table("scores-", SCORES)
            losses, right = list[float](), list[bool]()
            for row in scores.to_pylist():
                odds = dict(zip(row["classes"], row["log_odds"], strict=True))
                losses.append(math.log1p(math.exp(-odds[label[row["key"]]])))
                right.append(row["classes"][0] == label[row["key"]])
            assert require(epoch.metrics, metric=LOSS).value == pytest.approx(np.mean(losses), rel=1e-5)
            assert require(epoch.metrics, metric=TOP1).value == pytest.approx(np.mean(right))
            curve = json.loads(epoch.network.read(CURVE))  # a point for each step
            assert len(curve) == 12
            for metric, key in ((TRAIN_LOSS, "loss"), (TRAIN_TOP1, "accuracy")):
                expected = np.mean([point[key] for point in curve])
                assert require(epoch.metrics, metric=metric).value == pytest.approx(expected)
        tops[one.arm] = np.mean(right)
        for other, gain in one.gains.items():
            assert gain.value == pytest.approx(tops[one.arm] - tops[other])
    assert tops["whole"] > 0.5 > 0.2 > require(run.results[0].epochs[0].metrics, metric=TOP1).value


@pytest.mark.long
def test_the_results_are_on_the_page_and_nothing_is_done_again(run, monkeypatch, tmp_path):
    monkeypatch.setattr("raylabel.training.train.Workers", None)
    with scored_in_this_process(tmp_path):
        again = ArbitraryLabelsRun(run.root, run.recipe)
        page, comparison = write_arbitrary_labels(again)
    assert again.results == run.results
    assert json.loads(page.read(SUMMARY)) == comparison.to_dict()
    last, first = comparison.tables
    assert len(last.rows) == len(first.rows) == len(ARMS)
    assert last.rows[0].cells[-1] is None
    by_arm = {one.arm: one for one in run.results}
    assert last.rows[1].cells[-1] == Value.of(by_arm["true"].gains["arbitrary"])
    (found,) = (one for one in comparison.findings if "head alone" in one.claim)
    gain = by_arm["frozen"].gains["arbitrary"]  # the claim is about its negative
    assert gain.low and gain.high
    expected = f"{-100 * gain.value:+.1f} points ({-100 * gain.high:+.1f} to {-100 * gain.low:+.1f})"
    assert found.here == f"top-1: {expected}"
    assert found.verdict == ("disagrees" if gain.low > 0 else "agrees" if gain.high < 0 else "not measurable")


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"arms": ("mine",)}, "arms has 'mine': give some of arbitrary, true"),
        ({"arms": ()}, "give one or more, each once"),
        ({"frozen": ()}, "give the layers before the head"),
        ({"teacher_share": 1.0}, "teacher_share is 1.0"),
        ({"train": replace(TRAIN, init=Init(head="new"))}, "train.init is given"),
        ({"teacher": replace(TRAIN, soft=0.5)}, "teacher.soft is 0.5"),
        ({"train": replace(TRAIN, validate=Validate(on="labeled"))}, "each epoch is tested, leave it out"),
    ],
)
def test_what_cannot_be_meant_is_an_error(recipe, fields, message):
    with pytest.raises(InputError, match=message):
        replace(recipe, **fields)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"frozen": ("conv9",)}, "train.init: the network has no layer 'conv9'"),
        ({"model": Model(arch="conv2", size=16)}, "built for 16 x 16 pixels, but the view gives 8 x 8"),
        ({"test": Corpus(uri=("x",), kind="video")}, "test.kind is 'video', but the view is for images"),
    ],
)
def test_what_does_not_fit_is_an_error_before_any_work(ray_local, recipe, tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        ArbitraryLabelsRun(Root.open(str(tmp_path / "root")), replace(recipe, **fields))
    assert not list(tmp_path.glob("root/*-*"))
