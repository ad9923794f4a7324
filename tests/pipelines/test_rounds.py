"""Further rounds: the student is the next teacher, until the validation set says that it has not gained."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console
from scoring import scored_in_this_process
from trainings import in_this_process

from raylabel.errors import InputError
from raylabel.evaluate.results import Metric
from raylabel.pipelines import rounds as module
from raylabel.pipelines.rounds import Validated, next_round, overlap
from raylabel.pipelines.semi_supervised import Run
from raylabel.recipes import registry as recipes
from raylabel.recipes.checks import check_recipe
from raylabel.report.rounds import print_rounds, round_of, write_rounds
from raylabel.report.run import write_report
from raylabel.schema import PICKS, SCORES
from raylabel.store.artifact import Root


@pytest.fixture(scope="module")
def two(ray_local, tmp_path_factory):
    """(root, the runs of two rounds, their reports)"""
    folder = tmp_path_factory.mktemp("rounds")
    root, recipe = Root.open(str(folder / "root")), recipes.digits()
    short = replace(recipe.pretrain, images=640)
    recipe = replace(
        recipe,
        teacher=replace(recipe.teacher, train=replace(short, images=1_280)),
        pretrain=short,
        finetune=short,
        select=replace(recipe.select, k=30, allow_empty=True),
        rounds=("resnet8x2",),
    )
    runs, reports = [], []
    with in_this_process(folder), scored_in_this_process(folder):
        while recipe:
            runs.append(Run(root, recipe))
            reports.append(write_report(runs[-1]))
            recipe = next_round(runs[-1])
    return root, runs, reports


@pytest.mark.long
def test_the_student_is_the_next_teacher(two):
    _, (first, second), reports = two
    assert second.recipe.name == "digits-round-2" and second.recipe.rounds == ()
    assert second.recipe.teacher.model == first.recipe.student and second.recipe.student.arch == "resnet8x2"
    assert second.start.teacher and second.start.teacher.read("model.safetensors") == first.student.read(
        "model.safetensors"
    )
    (before, old), (after, new) = reports
    tops = [{(row.model, row.metric): row.value for row in one.metrics} for one in (old, new)]
    assert tops[1]["teacher", "top1"] == tops[0]["student", "top1"]
    assert before.name == "run-digits" and after.name == "run-digits-round-2"
    assert {first.labeled_examples, *first.tests.values()} & set(sum(second.artifacts.values(), ()))  # none twice


@pytest.mark.long
def test_rounds_are_compared(two):
    root, (first, second), reports = two
    pairs = [
        set(zip(*(run.picks.table("picks-", PICKS)[name].to_pylist() for name in ("label", "key")), strict=True))
        for run in (first, second)
    ]
    assert overlap(first.picks, second.picks) == len(pairs[0] & pairs[1]) / len(pairs[1])
    assert overlap(first.picks, first.picks) == 1
    found = [round_of(run, summary, page, before) for run, (page, summary), before in
             zip((first, second), reports, (None, first), strict=True)]  # fmt: skip
    assert [one.overlap for one in found] == [None, overlap(first.picks, second.picks)]
    assert found[1].teacher_top1 == found[0].student_top1 and found[0].validation_top1 is None
    artifact = write_rounds(root, "digits", found)
    assert [one["run"] for one in json.loads(artifact.read("summary.json"))] == [one.run for one in found]
    out = io.StringIO()
    print_rounds(found, artifact.uri, Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert [line.split()[:3] for line in lines if "resnet" in line] == [
        ["1", "resnet8x2", "resnet8x1"],
        ["2", "resnet8x1", "resnet8x2"],
    ]
    assert artifact.uri in out.getvalue()


@pytest.mark.long
@pytest.mark.parametrize("low, goes_on", [(0.01, True), (0.0, False), (-0.02, False)])
def test_no_round_follows_a_gain_inside_the_noise(two, monkeypatch, capfd, low, goes_on):
    _, (first, _), _ = two
    one = {"model": "student", "seed": 0, "dataset": "d", "split": "validation", "n": 100}
    top1 = Metric(**one, metric="top1", value=0.8, low=0.7, high=0.9)
    gain = Metric(**one, metric="gain_top1", value=0.03, low=low, high=0.1)
    monkeypatch.setattr(module, "validated", lambda run: Validated(top1=top1, gain=gain))
    assert (next_round(first) is not None) == goes_on
    said = capfd.readouterr().out
    assert ("no further round: on the validation set (n = 100) the student has 80.0%, +3.0 points" in said) != goes_on


@pytest.mark.long
def test_a_wrong_round_is_an_error(ray_local):
    with pytest.raises(InputError, match="rounds.*resnet9000"):
        check_recipe(replace(recipes.digits(), rounds=("resnet9000",)))


@pytest.mark.long
@pytest.mark.slow
def test_the_student_and_its_teacher_are_compared_on_the_validation_set(two, tmp_path):
    _, (first, _), _ = two
    root = Root(first.root.uri)
    with in_this_process(tmp_path), scored_in_this_process(tmp_path):
        run = Run(root, replace(first.recipe, holdout=0.4, rounds=()))
        found = module.validated(run)
    assert found and found.top1.n == found.gain.n == 20 and found.top1.split == "validation"
    assert run.start.validation
    truth = {row["key"]: row["label"] for row in run.start.validation[1].table("picks-", PICKS).to_pylist()}
    right = {}
    for name, network in (("student", run.student), ("teacher", run.teacher)):
        scores = run.score(network, run.recipe.view, "labeled").table("scores-", SCORES)
        best = dict(zip(scores["key"].to_pylist(), (c[0] for c in scores["classes"].to_pylist()), strict=True))
        right[name] = sum(best[key] == label for key, label in truth.items()) / 20
    assert found.top1.value == right["student"]
    assert found.gain.value == pytest.approx(right["student"] - right["teacher"])
