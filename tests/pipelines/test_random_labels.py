"""Pre-training on random labels of five digits, and fine-tuning on the true labels of the five others, and back."""

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
from raylabel.evaluate.results import CURVE_AREA, EARLY_TOP1, TOP1, require
from raylabel.experiments.comparison import Value
from raylabel.experiments.random_labels import write_random_labels
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.init import Init
from raylabel.models.trained import CURVE
from raylabel.pipelines import random_labels
from raylabel.pipelines.random_labels import RandomLabelsRun
from raylabel.recipes.random_labels import LabeledSet, RandomPretraining
from raylabel.schema import PICKS, SCORES
from raylabel.store.artifact import Root
from raylabel.store.names import PAGE, SUMMARY
from raylabel.training.config import Train, Validate
from raylabel.training.examples import media_of
from raylabel.training.schedule import Schedule

VIEW = View(size=8, resize=8, crop="center", flip=False, mean=(0.3, 0.3, 0.3), std=(0.37, 0.37, 0.37))
TRAIN = Train(images=1_600, batch=40, schedule=Schedule(lr=0.1), precision="fp32")


def make(folder: Path) -> RandomPretraining:
    media, labels = digit_images()
    sets = []
    for name, own in (("low", labels < 5), ("high", labels >= 5)):
        at, parts = np.flatnonzero(own), {}
        for part, rows in (("labeled", at[:40]), ("test", at[40:140])):
            path = write_parquet(folder / f"{name}-{part}.parquet", [media[i] for i in rows], labels[rows] % 5)
            parts[part] = Corpus(uri=(str(path),))
        sets.append(LabeledSet(**parts))
    return RandomPretraining(
        name="digits",
        first=sets[0],
        second=replace(sets[1], name="high"),
        labels=("true", "random", "none"),
        model=Model(arch="resnet8x1"),
        view=VIEW,
        pretrain=replace(TRAIN, validate=Validate(on="labeled", points=5, targets=(0.5,))),
        finetune=replace(TRAIN, images=400, init=Init(take=("conv1", "bn1", "layer1"))),
        resources=Resources(workers=1),
    )


@pytest.fixture
def recipe(tmp_path: Path) -> RandomPretraining:
    return make(tmp_path)


@pytest.fixture(scope="module")
def run(ray_local, tmp_path_factory) -> RandomLabelsRun:
    folder = tmp_path_factory.mktemp("random")
    with in_this_process(folder), scored_in_this_process(folder):
        found = RandomLabelsRun(Root.open(str(folder / "root")), make(folder))
        assert len(found.outcomes) == 6
    return found


def identity(artifact) -> dict:
    return json.loads(artifact.read("recipe.json"))["identity"]


@pytest.mark.long
def test_each_labeling_starts_the_same_fine_tuning(run):
    kinds = [(one.pretrained_on, one.finetuned_on, one.labels) for one in run.outcomes]
    order = "none", "random", "true"  # each is compared with those before it
    assert kinds == [*(("first", "second", kind) for kind in order), *(("second", "first", kind) for kind in order)]
    for one in run.outcomes:
        trained = identity(one.network)
        assert trained["init"] == (one.pretrained.digest if one.pretrained else None)
        of_none = identity(next(o for o in run.outcomes if o.finetuned_on == one.finetuned_on).network)
        assert {**trained, "init": None, "train": None} == {**of_none, "init": None, "train": None}
        taken = trained["train"].get("init", {}).get("take", [])
        assert taken == (["conv1", "bn1", "layer1"] if one.pretrained else [])
    assert len({one.network.uri for one in run.outcomes}) == 6


@pytest.mark.long
def test_the_labels_of_one_set_share_its_media_and_random_ones_are_memorized(run):
    for name in ("first", "second"):
        examples = [run._stored(name, run.picks(name, k)) for k in ("random", "shuffled", "true")]
        assert len({media_of(one) for one in examples}) == 1 and len(set(examples)) == 3
        assert (
            examples[-1].digest
            == identity(next(o for o in run.outcomes if o.finetuned_on == name and o.labels == "none").network)[
                "examples"
            ]
        )
    for one in run.outcomes:
        if one.pretrained:
            assert json.loads(one.pretrained.read(CURVE))[-1]["accuracy"] > 0.9, one.labels  # chance is 20%
            points = json.loads(one.pretrained.read("validation.json"))
            assert len(points) == 5 and points[-1]["accuracy"] > 0.9


@pytest.mark.long
def test_accuracies_and_gains_are_those_of_the_scores(run):
    found = {}
    for one in run.outcomes:
        scores = run._scores(one.network, f"{one.finetuned_on}-test", run.recipe.label, 5).table("scores-", SCORES)
        best = dict(zip(scores["key"].to_pylist(), (c[0] for c in scores["classes"].to_pylist()), strict=True))
        truth = run.test_labels[one.finetuned_on].table("picks-", PICKS)
        pairs = zip(truth["key"].to_pylist(), truth["label"].to_pylist(), strict=True)
        found[one.finetuned_on, one.labels] = accuracy = np.mean([best[key] == label for key, label in pairs])
        (top1,) = (row for row in one.metrics if row.metric == TOP1)
        assert top1.value == pytest.approx(accuracy) and top1.n == 100
        before = {"none": [], "random": ["none"], "true": ["none", "random"]}[one.labels]
        assert list(one.gains) == before and one.gain == one.gains.get("none")
        for kind in before:
            assert one.gains[kind].value == pytest.approx(accuracy - found[one.finetuned_on, kind])
    assert min(found.values()) > 0.3


@pytest.mark.long
def test_nothing_is_done_again_and_the_results_are_those_of_the_outcomes(run, monkeypatch, tmp_path):
    monkeypatch.setattr("raylabel.training.train.Workers", None)
    with scored_in_this_process(tmp_path):
        again = RandomLabelsRun(run.root, run.recipe)
        assert again.outcomes == run.outcomes and set(again.artifacts) <= set(run.artifacts)
        page, comparison = write_random_labels(again)
    assert json.loads(page.read(SUMMARY)) == comparison.to_dict()
    assert page.read(PAGE).decode().count("data:image/png;base64,") == 2 * 10 * 3  # sets, pictures, and maps of two
    titles = [table.title for table in comparison.tables]
    assert titles == [
        "Fine-tuned on the true labels of high, after first",
        "Pre-training on first",
        "Fine-tuned on the true labels of first, after high",
        "Pre-training on high",
    ]
    tuned, learned, *_ = comparison.tables
    assert [row.name for row in tuned.rows] == ["no pre-training", "random labels", "true labels"]
    assert [column.title for column in tuned.columns] == ["top-1", "points over none"]  # nothing else is measured
    for row, one in zip(tuned.rows, run.outcomes, strict=False):
        assert row.cells[0] == Value.of(require(one.metrics, metric=TOP1))
        assert row.cells[1] == (Value.of(one.gain) if one.gain else None)
    random = run.outcomes[1]
    images = next(p.images for p in random.learned.points if p.accuracy >= 0.5)
    assert [cell and cell.value for cell in learned.rows[0].cells] == [5, 1.0, images / 40]
    assert [one.title for one in comparison.curves] == [
        "Pre-training on first: accuracy on what is learned",
        "Pre-training on high: accuracy on what is learned",
    ]
    claim, other = comparison.findings
    assert "high after first: " in claim.here and "first after high: " in claim.here
    assert "True labels" in other.claim


@pytest.mark.long
def test_held_out_samples_validate_fine_tuning_alone(run, tmp_path):
    recipe = replace(run.recipe, holdout=0.25, labels=("random",), reverse=False)
    recipe = replace(recipe, finetune=replace(recipe.finetune, validate=Validate(on="validation", points=2)))
    with in_this_process(tmp_path), scored_in_this_process(tmp_path):
        held = RandomLabelsRun(run.root, recipe)
        (one,) = held.outcomes
    assert one.gain is None and one.pretrained in [other.pretrained for other in run.outcomes]
    learned, validated = held.splits["second"]
    assert validated and validated.info["samples"] == 10 == 40 - learned.info["samples"]
    assert identity(one.network)["examples"] == held._stored("second", learned).digest
    points = json.loads(one.network.read("validation.json"))
    assert len(points) == 2 and one.curve and [p.accuracy for p in one.curve.points] == [p["accuracy"] for p in points]
    early = require(one.metrics, metric=EARLY_TOP1, split="validation")
    assert early.value == points[0]["accuracy"] and early.n == 10  # the first point is behind the first tenth
    assert require(one.metrics, metric=CURVE_AREA, split="validation").value == one.curve.area


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"labels": ("random", "own")}, "labels has 'own': give some of none, random, shuffled, true"),
        ({"labels": ("random", "random")}, "give one or more, each once"),
        ({"classes": 1}, "classes is 1: give two or more, or 0 for as many as the set has"),
        ({"holdout": 1.0}, "holdout is 1.0: give a share"),
        (
            {"pretrain": replace(TRAIN, init=Init(weights="x"))},
            "pretrain.init.weights is given, but fine-tuning starts",
        ),
        ({"finetune": replace(TRAIN, soft=0.5)}, "finetune.soft is 0.5, but there is no teacher"),
        ({"pretrain": replace(TRAIN, validate=Validate(on="validation"))}, "of random labels none are held out"),
        ({"finetune": replace(TRAIN, validate=Validate(on="validation"))}, "nothing is held out: give holdout"),
    ],
)
def test_what_cannot_be_meant_is_an_error(recipe, fields, message):
    with pytest.raises(InputError, match=message):
        replace(recipe, **fields)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda r: replace(r, finetune=replace(r.finetune, init=Init(take=("conv9",)))), "finetune.init: .*conv9"),
        (lambda r: replace(r, model=Model(arch="c3dx1")), "takes clips of video, but the view gives images"),
        (lambda r: replace(r, second=replace(r.second, test=replace(r.second.test, kind="video"))), "second.test.kind"),
    ],
)
def test_what_does_not_fit_is_an_error_before_any_work(ray_local, recipe, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        RandomLabelsRun(Root.open(str(tmp_path / "root")), change(recipe))
    assert not list(tmp_path.glob("root/*-*"))


@pytest.mark.long
def test_the_number_of_random_classes_may_be_another_one(run):
    assert random_labels.RandomLabelsRun.source(run, "first", "random").identity["random"] == list("01234")
    run.recipe, before = replace(run.recipe, classes=7), run.recipe
    try:
        assert run.source("first", "random").identity["random"] == list("0123456")
    finally:
        run.recipe = before
