"""A run whose teacher is a zero-shot head on the image tower of a network of open_clip."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from clip_models import SMALLEST, network, save, without_warnings
from helpers import contents
from rich.console import Console

from raylabel.compute.resources import Resources
from raylabel.errors import InputError
from raylabel.evaluate.results import TEACHER, TOP1, require
from raylabel.models import Model
from raylabel.models.trained import load_model
from raylabel.pipelines.semi_supervised import STAGES, Run
from raylabel.plan.estimate import plan
from raylabel.recipes import Head, Recipe, Teacher, digits
from raylabel.report.run import write_report
from raylabel.report.terminal import print_summary
from raylabel.ship.card import write_card
from raylabel.ship.card_usage import Parity
from raylabel.ship.lineage import lineage
from raylabel.ship.shipped import find_network
from raylabel.store.artifact import Root

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture(scope="module")
def theirs() -> Iterator[Any]:
    with without_warnings():
        yield network(SMALLEST)


@pytest.fixture
def recipe(theirs: Any, tmp_path: Path) -> Recipe:
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    short, model = digits(), Model(arch=f"clip/{SMALLEST}")
    return replace(
        short,
        teacher=Teacher(
            model=model,
            checkpoint=save(theirs, tmp_path / "clip.safetensors"),
            head=Head(kind="zero-shot", names=str(tmp_path / "names.txt"), templates=("the number {}.",)),
            features=True,
            view=replace(short.view, size=224, resize=224, interpolation="bicubic"),
            unchecked=True,
        ),
        unlabeled=replace(short.unlabeled, share=0.1),
        pretrain=replace(short.pretrain, images=640),
        finetune=replace(short.finetune, images=320),
        label=replace(short.label, p=10),  # the network is random, so some classes are best for no digit
        select=replace(short.select, k=5, p=10),
        resources=Resources(teachers=1, workers=1),
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_zero_shot_teacher_labels_a_corpus(ray_local, theirs: Any, recipe: Recipe, tmp_path: Path, capsys):
    root = Root.open(str(tmp_path / "root"))
    planned = plan(root, recipe)
    works = {work.stage: work for work in planned.stages}
    assert list(works)[:3] == ["teacher", "features", "label"]
    assert works["teacher"].seconds == works["teacher"].images == 0 and works["features"].images > 100
    run = Run(root, recipe)
    assert run.labeled_features is None
    _, summary = write_report(run)
    expected = open_clip.build_zero_shot_classifier(
        theirs, open_clip.get_tokenizer(SMALLEST), NAMES, ["the number {}."]
    )
    head: Any = load_model(run.teacher).get_submodule("head")
    assert torch.equal(head.weight, theirs.logit_scale.exp() * expected.T)
    assert summary.head is None and summary.zero_shot
    assert (summary.zero_shot.templates, summary.zero_shot.names) == (["the number {}."], list(NAMES))
    assert 0 < require(summary.metrics, metric=TOP1, model=TEACHER).value < 0.5  # of random weights
    print_summary(summary, "/runs/run", Console(width=200))
    out = " ".join(capsys.readouterr().out.split())
    assert "zero-shot, of the names 'zero', 'one', 'two', 'three', 'four' and 5 more, in the templates 'the nu" in out
    page = next(Path(root.uri).glob("run-*/report.html")).read_text()
    assert "computed from the names of the classes" in page and ">the number {}.<" in page

    shipped = find_network(run.student.uri)
    card = write_card(shipped, [], Parity(samples=1, largest=1.0, differences={}), lineage(shipped))
    assert f"the last layer of `clip/{SMALLEST}`, zero-shot: from the embeddings of the names `zero`, `one`" in card
    assert "in `the number {}.` by the text tower" in card and "clip.safetensors" in card

    before = {one.uri: one.manifest for some in run.artifacts.values() for one in some}
    again = Run(Root.open(str(tmp_path / "root")), recipe)
    assert {one.uri: one.manifest for some in again.artifacts.values() for one in some} == before
    works = {work.stage: work for work in plan(root, recipe).stages}
    assert all(work.seconds == 0 for stage, work in works.items() if stage != "driver")
    without = Run(Root.open(str(tmp_path / "other")), replace(recipe, teacher=replace(recipe.teacher, features=False)))
    assert without.labels.digest == run.labels.digest and contents(without.labels) == contents(run.labels)

    # Its accuracy on the test set is known before the corpus is labeled.
    assert STAGES.index("teacher_check") < STAGES.index("features")
    checked = Run(Root.open(str(tmp_path / "root")), replace(recipe, teacher=replace(recipe.teacher, unchecked=False)))
    with pytest.raises(
        InputError, match="^the zero-shot teacher has top-1 .* as --teacher.head.names, or continue with"
    ):
        checked.build()
    assert json.loads(json.dumps(summary.to_dict()))["settings"]["teacher"]["head"]["kind"] == "zero-shot"


def test_what_a_zero_shot_head_needs_is_known_before_any_work(ray_local, recipe: Recipe, tmp_path: Path):
    root = Root.open(str(tmp_path / "root"))
    (tmp_path / "names.txt").write_text("zero\none")
    with pytest.raises(
        InputError, match="names.txt', which has 2 names, but there are 10 classes: give one name per line"
    ):
        Run(root, recipe)
    teacher = replace(recipe.teacher, head=Head(kind="zero-shot"))
    run = Run(root, replace(recipe, teacher=teacher))
    (warning,) = [text for text in run.start.warnings if "zero-shot" in text]
    assert warning.startswith("10 of 10 names of classes are no words ('0', '1', '2', '3', '4' and 5 more)")
    given = run.start.weights[recipe.teacher.checkpoint]
    with pytest.raises(InputError, match="have no text tower, which a zero-shot head is computed with"):
        Run(root, replace(recipe, teacher=replace(teacher, checkpoint=given.uri)))
    logistic = replace(teacher, head=Head(kind="logistic"), checkpoint=given.uri)
    assert Run(root, replace(recipe, teacher=logistic)).start.weights[given.uri] == given
