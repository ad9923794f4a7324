"""A run whose teacher is a head on a frozen network."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import contents
from sklearn.linear_model import LogisticRegression

from raylabel.compute.resources import Resources
from raylabel.errors import InputError
from raylabel.evaluate.results import TEACHER, TOP1, require
from raylabel.inference import scores
from raylabel.labels.truth import GivenLabels
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.pipelines.frozen import frozen_network
from raylabel.pipelines.semi_supervised import Run
from raylabel.plan.estimate import plan
from raylabel.recipes import Recipe, Teacher, digits, modern
from raylabel.report.run import write_report
from raylabel.schema import PICKS, features_schema
from raylabel.ship.card import write_card
from raylabel.ship.lineage import lineage
from raylabel.ship.shipped import find_network
from raylabel.store.artifact import Root
from raylabel.training.head import Head

MODEL = Model(arch="resnet8x2")


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    torch.manual_seed(0)
    safetensors.torch.save_file(build(MODEL, 3).state_dict(), tmp_path / "trunk.safetensors")  # of other classes
    short = digits()
    return replace(
        short,
        teacher=Teacher(model=MODEL, checkpoint=str(tmp_path / "trunk.safetensors"), head=Head(kind="logistic")),
        pretrain=replace(short.pretrain, images=640),
        finetune=replace(short.finetune, images=320),
        resources=Resources(teachers=1, workers=1),
    )


def features(run: Run, corpus: str) -> tuple[np.ndarray, np.ndarray]:
    """(features float64 [N, D], true labels int [N]) of a corpus, by the run's frozen network."""
    start = run.start
    made = frozen_network(run).features(run.root, start.corpora[corpus], start.shards[corpus])
    table = made.table("features-", features_schema(128))
    labels = GivenLabels(classes=start.classes).label(run.root, start.corpora[corpus], start.shards[corpus])
    picks = labels.table("picks-", PICKS).sort_by("key")
    assert picks.column("key").equals(table.column("key"))
    rows = table.column("feature").combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    return rows.astype(np.float64), picks.column("label").to_numpy()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_teacher_is_a_logistic_regression_on_features(ray_local, recipe: Recipe, tmp_path: Path):
    root = Root.open(str(tmp_path / "root"))
    run = Run(root, recipe)
    _, summary = write_report(run)
    x, y = features(run, "labeled")
    test, truth = features(run, "test")
    info = run.teacher.info
    model = LogisticRegression(C=info["strength"], tol=1e-6, max_iter=5000).fit(x, y)
    top1 = require(summary.metrics, metric=TOP1, model=TEACHER).value
    assert top1 == pytest.approx(model.score(test, truth), abs=0.005) and top1 > 0.5
    assert [stage.name for stage in summary.stages][0] == "teacher"
    assert summary.head and (summary.head.strength, summary.head.samples) == (info["strength"], len(x))
    assert [(one.strength, one.accuracy) for one in summary.head.validation] == [
        (one["strength"], one["accuracy"]) for one in info["validation"]
    ]
    shipped = find_network(run.student.uri)
    card = write_card(shipped, [], _parity(), lineage(shipped))
    assert f"the last layer of `resnet8x2`, by logistic regression on the features of unit length of {len(x)} " in card
    assert "trunk.safetensors" in card
    before = {one.uri: one.manifest for one in run.artifacts["teacher"]}
    again = Run(Root.open(str(tmp_path / "root")), recipe)
    assert {one.uri: one.manifest for one in again.artifacts["teacher"]} == before


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_features_that_are_stored_are_planned_and_serve_another_head(ray_local, recipe: Recipe, tmp_path, monkeypatch):
    root = Root.open(str(tmp_path / "root"))
    stored = replace(recipe, teacher=replace(recipe.teacher, features=True))
    works = {work.stage: work for work in plan(root, stored).stages}
    assert list(works)[:3] == ["teacher", "features", "label"]
    assert works["features"].images == works["label"].images == 1247
    run = Run(root, stored)
    labels, features = run.labels, run.features
    assert features is not None and features.info["scored"] == 1247
    size = sum(file.bytes for file in features.files("features-"))
    assert works["features"].traffic.bytes_written == pytest.approx(size, rel=0.1)
    assert works["label"].traffic.bytes_read == pytest.approx(size, rel=0.2)
    other = Root.open(str(tmp_path / "plain"))
    plain = Run(other, recipe).labels
    works = {work.stage: work for work in plan(other, stored).stages}
    assert works["features"].images == 1247 and works["label"].seconds == 0  # also where the labels exist
    assert plain.digest == labels.digest and contents(plain) == contents(labels)
    works = {work.stage: work for work in plan(root, stored).stages}
    assert works["features"].seconds == works["label"].seconds == 0

    monkeypatch.setattr(scores, "score", None)  # nothing is read
    teacher = replace(stored.teacher, head=Head(kind="logistic", strengths=(0.1,)))
    again = Run(root, replace(stored, teacher=teacher))
    assert again.labels.digest != labels.digest and again.features == features


def test_stored_features_are_for_heads_and_images(recipe: Recipe):
    with pytest.raises(InputError, match="^teacher.features is set, but there is no head to fit to features: give "):
        replace(recipe.teacher, head=Head(), features=True)
    video = replace(recipe.unlabeled, kind="video")
    with pytest.raises(InputError, match="^teacher.features is set, but the scores of a video are a mean over its cli"):
        replace(recipe, unlabeled=video, teacher=replace(recipe.teacher, features=True))


def _parity():
    from raylabel.ship.card_usage import Parity

    return Parity(samples=1, largest=1.0, differences={})


def test_what_a_head_needs_is_an_error_without_it(ray_local, recipe: Recipe, tmp_path: Path):
    train = recipe.pretrain
    with pytest.raises(InputError, match="^teacher.head.kind is 'logistic', but there are no weights of a net"):
        Teacher(model=MODEL, train=train, head=Head(kind="logistic"))
    with pytest.raises(InputError, match="^teacher.head.folds is 1: "):
        Teacher(model=MODEL, checkpoint="a.pt", head=Head(kind="logistic", folds=1))
    root, teacher = Root.open(str(tmp_path / "root")), recipe.teacher
    with pytest.raises(InputError, match="^weights '.*/trunk.safetensors' do not fit resnet8x1: 'conv1.weight' is "):
        Run(root, replace(recipe, teacher=replace(teacher, model=Model(arch="resnet8x1"))))
    assert not teacher.given and teacher.network == replace(MODEL, features="unit")
    assert "teacher.train" not in recipe.trainings
    assert modern(recipe).teacher.view == recipe.view  # that of the frozen network, not one for training
