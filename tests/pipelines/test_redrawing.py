"""Random labels of forty digits, memorized and drawn again: which weights, labels and accuracies."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import digit_images, write_parquet
from scoring import scored_in_this_process
from trainings import in_this_process

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.errors import InputError
from raylabel.experiments.redrawing import epochs_to, write_redrawing
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.init import Init
from raylabel.models.trained import CURVE
from raylabel.pipelines.redrawing import RedrawingRun, first_loss
from raylabel.recipes.redrawing import Redrawing
from raylabel.schema import PICKS
from raylabel.store.artifact import Root
from raylabel.store.names import SUMMARY
from raylabel.training.config import Train, Validate
from raylabel.training.examples import media_of
from raylabel.training.schedule import Schedule

TRAIN = Train(
    images=1_000,
    batch=20,
    schedule=Schedule(lr=0.05, warmup=0.0, drops=0),
    weight_decay=0.0,
    precision="fp32",
    validate=Validate(on="labeled", points=25, targets=(0.5, 0.95)),
)


def make(folder: Path) -> Redrawing:
    media, _ = digit_images()
    return Redrawing(
        name="digits",
        corpus=Corpus(uri=(str(write_parquet(folder / "corpus.parquet", media[:40])),)),
        classes=5,
        redraws=2,
        controls=("none", "head", "norms", "conv1+bn1"),
        controlled=(2,),
        model=Model(arch="resnet8x1"),
        view=View(size=8, resize=8, crop="center", flip=False, mean=(0.3, 0.3, 0.3), std=(0.37, 0.37, 0.37)),
        train=TRAIN,
        resources=Resources(workers=1),
    )


@pytest.fixture
def recipe(tmp_path: Path) -> Redrawing:
    return make(tmp_path)


@pytest.fixture(scope="module")
def run(ray_local, tmp_path_factory) -> RedrawingRun:
    folder = tmp_path_factory.mktemp("redrawn")
    with in_this_process(folder), scored_in_this_process(folder):
        found = RedrawingRun(Root.open(str(folder / "root")), make(folder))
        assert len(found.drawings) == 3 + 4
    return found


@pytest.mark.long
def test_each_drawing_starts_from_the_one_before_and_controls_from_something_else(run):
    order = [(one.redraw, one.start) for one in run.drawings]
    assert order == [(0, "none"), (1, "all"), (2, "all"), *((2, start) for start in run.recipe.controls)]
    first, second, third, *controls = run.drawings
    assert [first.network.identity["init"], second.network.identity["init"], third.network.identity["init"]] == [
        None,
        first.network.digest,
        second.network.digest,
    ]
    inits = {
        one.start: (one.network.identity["init"], one.network.identity["train"].get("init", {})) for one in controls
    }
    assert inits["none"] == (None, {})
    kept = second.network.digest
    assert inits["head"][0] == kept and inits["head"][1]["head"] == "new"
    assert inits["norms"][0] == kept and inits["norms"][1]["what"] == "norms"
    assert inits["conv1+bn1"][0] == kept and inits["conv1+bn1"][1]["take"] == ["conv1", "bn1"]
    same = {"examples", "seed", "view", "model", "validation"}
    assert all(
        {k: one.network.identity[k] for k in same} == {k: third.network.identity[k] for k in same} for one in controls
    )


@pytest.mark.long
def test_labels_are_other_ones_of_the_same_samples(run):
    labels = []
    for redraw in range(3):
        picks = next(a for a in run.artifacts if a.name == "random" and a.identity.get("round", 0) == redraw)
        labels.append(picks.table("picks-", PICKS).sort_by("key")["label"].to_numpy())
    assert all(len(one) == 40 for one in labels)
    agree = [np.mean(a == b) for a, b in ((labels[0], labels[1]), (labels[1], labels[2]), (labels[0], labels[2]))]
    assert max(agree) < 0.5  # 20% by chance
    assert len({media_of(run.examples(redraw)) for redraw in range(3)}) == 1


@pytest.mark.long
def test_every_drawing_is_memorized_and_its_epochs_are_those_of_the_curve(run):
    for one in run.drawings:
        points = json.loads(one.network.read("validation.json"))
        assert points[-1]["accuracy"] == 1.0, (one.redraw, one.start)
        for target in (0.5, 0.95):
            first = next(point["images"] for point in points if point["accuracy"] >= target)
            assert epochs_to(one, target) == first / 40
        curve = json.loads(one.network.read(CURVE))
        assert [point["images"] for point in curve[:2]] == [20, 40]
        assert one.first_loss == pytest.approx((curve[0]["loss"] + curve[1]["loss"]) / 2)
        assert first_loss(one.network, 20) == pytest.approx(curve[0]["loss"])
    rows = list(run.metrics())
    assert {row.model for row in rows} >= {"drawn-0", "drawn-1 all", "drawn-2 norms"}
    assert len({(row.model, row.metric) for row in rows}) == len(rows)


@pytest.mark.long
def test_the_results_are_those_of_the_drawings_and_nothing_is_done_again(run, monkeypatch, tmp_path):
    monkeypatch.setattr("raylabel.training.train.Workers", None)
    again = RedrawingRun(run.root, run.recipe)
    page, comparison = write_redrawing(again)
    assert again.drawings == run.drawings
    assert json.loads(page.read(SUMMARY)) == comparison.to_dict()
    (table,) = comparison.tables
    assert [row.name for row in table.rows][:4] == [
        "first labels",
        "redraw 1: all weights kept",
        "redraw 2: all weights kept",
        "redraw 2: new network",
    ]
    first = table.rows[0].cells
    assert first[1] and first[1].value == epochs_to(run.drawings[0], 0.95)
    assert first[3] and first[3].value == 1.0
    assert [one.title for one in comparison.curves] == ["Accuracy on what is learned", "Redraw 2, by what is kept"]
    assert len(comparison.curves[1].curves) == 5
    faster, scale = comparison.findings
    assert faster.verdict == scale.verdict == "one run" and "95%" not in faster.here  # of the first target
    assert set(comparison.artifacts) >= {f"{a.name}-{a.digest}" for a in run.artifacts}


@pytest.mark.long
def test_what_is_not_reached_is_said(run):
    harder = replace(run.recipe.train, validate=replace(run.recipe.train.validate, targets=(1.0,)))
    assert RedrawingRun(run.root, replace(run.recipe, train=harder)).drawings[0].network == run.drawings[0].network
    points = run.drawings[0].curve.points[:1]
    assert points[0].accuracy < 1
    curve = replace(run.drawings[0].curve, points=points, config=replace(harder.validate))
    assert epochs_to(replace(run.drawings[0], curve=curve), 1.0) is None


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"classes": 1}, "classes is 1: give two or more"),
        ({"redraws": 0}, "redraws is 0: give one or more"),
        ({"controls": ("all",)}, "give other starts than 'all'"),
        ({"controls": ("head", "head")}, "each once"),
        ({"controlled": (3,)}, "controlled has 3: give redraws from 1 to 2"),
        ({"controlled": (1, 1)}, "give each redraw once"),
        ({"train": replace(TRAIN, validate=Validate())}, "train.validate.on is 'none': give 'labeled'"),
        ({"train": replace(TRAIN, init=Init(head="new"))}, "train.init is given"),
        ({"train": replace(TRAIN, soft=0.5)}, "train.soft is 0.5, but there is no teacher"),
    ],
)
def test_what_cannot_be_meant_is_an_error(recipe, fields, message):
    with pytest.raises(InputError, match=message):
        replace(recipe, **fields)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"controls": ("conv9+bn1",)}, "controls 'conv9[+]bn1'.init: the network has no layer 'conv9'"),
        ({"model": Model(arch="c3dx1")}, "takes clips of video, but the view gives images"),
        ({"corpus": Corpus(uri=("x",), kind="video")}, "corpus.kind is 'video', but the view is for images"),
    ],
)
def test_what_does_not_fit_is_an_error_before_any_work(ray_local, recipe, tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        RedrawingRun(Root.open(str(tmp_path / "root")), replace(recipe, **fields))
    assert not list(tmp_path.glob("root/*-*"))
