"""Runs whose corpus has random labels, or its own: they share its media, and a network can learn either."""

import json
from dataclasses import replace

import pytest
from helpers import digit_images, write_parquet
from scoring import scored_in_this_process
from trainings import in_this_process

from raylabel.corpus import Corpus
from raylabel.labels.drawn import RandomLabels, ShuffledLabels
from raylabel.labels.truth import GivenLabels
from raylabel.models.trained import CURVE
from raylabel.pipelines.semi_supervised import Run
from raylabel.recipes import registry as recipes
from raylabel.recipes.recipe import Recipe
from raylabel.report.run import write_report
from raylabel.schema import PICKS
from raylabel.store.artifact import Root
from raylabel.training.examples import media_of

CLASSES = tuple("0123456789")


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    """Pre-training on 60 digits without augmentation, until a network knows their labels."""
    media, labels = digit_images()
    recipe = recipes.digits()
    return replace(
        recipe,
        unlabeled=Corpus(uri=(str(write_parquet(tmp_path / "corpus.parquet", media[:60], labels[:60])),)),
        view=replace(recipe.view, crop="center"),
        pretrain=replace(recipe.pretrain, images=3_200, batch=20),
        finetune=replace(recipe.finetune, images=128),
    )


@pytest.mark.slow  # that random labels are memorized is also in test_random_labels.py
def test_a_network_memorizes_random_labels(ray_local, tmp_path, recipe):
    root = Root.open(str(tmp_path / "root"))
    with in_this_process(tmp_path), scored_in_this_process(tmp_path):
        run = Run(root, replace(recipe, source=RandomLabels(classes=CLASSES)))
        _, summary = write_report(run)
        others = [replace(recipe, source=source) for source in (ShuffledLabels(), GivenLabels())]
        shuffled, true = (Run(root, other, run.start).pseudo_examples for other in others)
    assert run.teacher_test is None and run.picks == run.labels and run.picks.name == "random"
    assert media_of(run.pseudo_examples) == media_of(shuffled) == media_of(true)
    assert len({run.pseudo_examples, shuffled, true}) == 3
    curve = json.loads(run.pretrained.read(CURVE))
    assert curve[0]["accuracy"] < 0.3 and curve[-1]["accuracy"] > 0.95  # chance is 10%
    assert summary.picks.total == 60 and {row.model for row in summary.metrics} >= {"student", "control"}
    truth = Run(root, others[1], run.start).picks.table("picks-", PICKS).sort_by("key")["label"].to_pylist()
    drawn = run.picks.table("picks-", PICKS).sort_by("key")["label"].to_pylist()
    assert sum(a == b for a, b in zip(truth, drawn, strict=True)) < 20
