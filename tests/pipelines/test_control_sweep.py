"""The control is the best one of those that are tried, on a part of the labeled set, and never on the test set."""

import itertools
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from heads import end_ray, environment
from helpers import digit_images, write_parquet
from networks import given_teacher
from paths import JOBS
from trainings import in_this_process

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus, Shards, read_keys
from raylabel.errors import InputError
from raylabel.evaluate.results import Metric
from raylabel.labels.holdout import hold_out
from raylabel.media.image import decode_image
from raylabel.media.image_views import normalise
from raylabel.models.trained import WEIGHTS, load_model
from raylabel.pipelines.control import ControlSweep, ControlTrial
from raylabel.pipelines.inputs import Prepared, prepare
from raylabel.pipelines.semi_supervised import Run
from raylabel.recipes import Control, Recipe, Schedule, Search, Train, digits
from raylabel.recipes.checks import check_recipe
from raylabel.schema import PICKS
from raylabel.store.artifact import Artifact, Root, identity_of
from raylabel.training.digests import read_digests
from raylabel.training.examples import materialize
from raylabel.training.media import WritingTask
from raylabel.training.task import TrainingTask
from raylabel.training.train import train

SHORT = Train(images=1280, batch=32, schedule=Schedule(lr=0.05, warmup=0.0, drops=0), precision="fp32")
SPACE = ("train.schedule.lr=[1e30,0.0001,0.05]",)  # the first one diverges, the second one learns nothing


def tried(*space: str, **more: Any) -> Recipe:
    recipe = digits()
    return replace(
        recipe,
        pretrain=SHORT,
        label=replace(recipe.label, precision="fp32"),
        control=Control(train=SHORT, sweep=Search(space=space, **more)),
        resources=Resources(workers=1, teachers=1),
    )


def trial(lr: float, value: float | None) -> ControlTrial:
    row = Metric(model="", seed=0, dataset="", split="", metric="top1", value=value, n=9) if value is not None else None
    error = "" if row else "the loss is not a number"
    return ControlTrial(settings={"lr": lr}, recipe=digits(), validation=row, error=error, artifacts=())


def test_the_first_one_of_the_most_accurate_controls_is_the_best():
    values = (0.5, None, 0.75, 0.25, 0.75)
    sweep = ControlSweep(trials=tuple(trial(n, value) for n, value in enumerate(values)), samples=9)
    assert sweep.best.settings == {"lr": 2}
    diverged = ControlSweep(trials=(trial(0, None), trial(1, None)), samples=9)
    with pytest.raises(InputError, match="^control.sweep: all 2 trials failed; trial 0: the loss is not a number"):
        _ = diverged.best


def test_the_controls_that_are_tried_are_all_combinations():
    recipe = tried("train.schedule.lr=[0.1,0.2]", "train.images=[64,128,640]", "view.augment=[none,trivial]")
    found = recipe.control_trials
    values = itertools.product((0.1, 0.2), (64, 128, 640), ("none", "trivial"))
    wanted = [dict(zip(("train.schedule.lr", "train.images", "view.augment"), one, strict=True)) for one in values]
    assert [settings for settings, _ in found] == wanted
    for settings, one in found:
        config, view = one.control_train, one.control_view
        assert config == replace(SHORT, images=config.images, schedule=replace(SHORT.schedule, lr=config.schedule.lr))
        assert view == replace(recipe.view, augment=view.augment)
        assert settings == dict(zip(settings, (config.schedule.lr, config.images, view.augment), strict=True))
        assert one.control_trials == []
        assert replace(one, control=recipe.control) == recipe  # the student is the same


def test_controls_are_drawn_from_the_seed_and_begin_with_the_students_training():
    recipe = replace(digits(), control=Control(sweep=Search(space=("train.momentum=log_uniform(0.1,0.9)",), samples=4)))
    rates = [one.control_train.momentum for _, one in recipe.control_trials]
    assert len(set(rates)) == 4 and all(0.1 < rate < 0.9 for rate in rates)
    assert rates == [one.control_train.momentum for _, one in recipe.control_trials]
    assert rates != [one.control_train.momentum for _, one in replace(recipe, seed=1).control_trials]
    assert all(replace(one.control_train, momentum=0.9) == digits().control_train for _, one in recipe.control_trials)


@pytest.mark.parametrize(
    ("space", "more", "message"),
    [
        (("select.k=[1]",), {}, "^control.sweep.space: select.k is not a field: there are train, view, sweep"),
        (("train.lr=[1]",), {}, "^control.sweep.space: train.lr is not a field: 'train' has images"),
        (("sweep.samples=[1]",), {}, "^control.sweep.space: sweep.samples: 'sweep' is the same for all trials"),
        (("train.images=log_uniform(1,2)",), {}, "^control.sweep.space: train.images: 'log_uniform"),
        (("train.momentum=log_uniform(0.1,1)",), {}, "^control.sweep.space: train.momentum is drawn.*set samples"),
        (("train.batch=[1]",), {}, "^control.train.batch is 1"),
        (("view.resize=[9]",), {}, "^control.view.resize is not that of view"),
        (("train.images=[1]",), {"samples": -1}, "^control.sweep.samples is -1"),
        (("train.images=[1]",), {"validation": 1.0}, "^control.sweep.validation is 1.0: give a share"),
        (("train.sync_batchnorm=[True]",), {}, "^control.train.sync_batchnorm is set"),
    ],
)
def test_an_error_of_the_sweep_is_found_before_any_work(ray_local, space, more, message):
    with pytest.raises(InputError, match=message):
        check_recipe(tried(*space, **more))


def accuracy_by_hand(network: Artifact, held: Artifact, start: Prepared, recipe: Recipe) -> float:
    """Decodes and classifies the samples in this process."""
    picks = held.table("picks", PICKS)
    samples = read_keys(start.corpora["labeled"], Shards(start.shards["labeled"]), picks["key"].to_pylist())
    pixels = np.stack([np.asarray(decode_image(samples[key].media or b"")) for key in picks["key"].to_pylist()])
    with torch.inference_mode():
        logits = load_model(network).eval()(normalise(torch.from_numpy(pixels), recipe.view))
    return float(np.mean(logits.argmax(1).numpy() == picks["label"].to_numpy()))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_control_is_the_best_one_by_brute_force(ray_local, tmp_path):
    """Each trial by hand, in another root: split, training, accuracy, choice."""
    root, other, recipe = Root.open(f"{tmp_path}/root"), Root.open(f"{tmp_path}/other"), tried(*SPACE)
    with in_this_process(tmp_path):
        start = prepare(root, recipe)
        run = Run(root, recipe, start)
        control, sweep = run.control, run.control_sweep
        assert sweep

        shards, corpus = start.shards["labeled"], start.corpora["labeled"]
        digests = read_digests(other, start.labels, shards, corpus)
        rest, held = hold_out(other, start.labels, start.groups["labeled"], digests, 0.2, recipe.seed)
        limit = recipe.max_jpeg_pixels
        task = WritingTask(shards=Shards(shards), corpus=corpus, config=recipe.materialize, max_jpeg_pixels=limit)
        examples, values = materialize(other, "labeled", rest, task, 0.05), []
        for rate, one in zip((1e30, 0.0001, 0.05), sweep.trials, strict=True):
            config = replace(SHORT, schedule=replace(SHORT.schedule, lr=rate))
            by_hand = TrainingTask(
                model=recipe.student, classes=10, examples=examples, config=config, view=recipe.view, seed=recipe.seed
            )
            if rate > 1:
                with pytest.raises(InputError, match="the loss is not a number") as error:
                    train(other, "by-hand", by_hand, recipe.resources)
                assert (one.error, one.validation) == (str(error.value), None)
                values.append(-1.0)
                continue
            network = train(other, "by-hand", by_hand, recipe.resources)
            values.append(accuracy_by_hand(network, held, start, recipe))
            assert one.validation and (one.validation.value, one.validation.n) == (values[-1], 10)
            assert network.read(WEIGHTS) == one.artifacts[1].read(WEIGHTS)
    assert values[2] > values[1] and sweep.best == sweep.trials[2]
    # The control is trained on the whole labeled set.
    assert control.identity["train"] == identity_of(sweep.best.recipe.control_train) | {"precision": "fp32"}
    assert control.identity["examples"] == run.labeled_examples.digest != sweep.trials[2].artifacts[0].digest
    # Until here nothing has read the test set.
    assert {scores.identity["shards"] for scores in root.named("scores")} == {shards.info["content"]}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_choice_does_not_depend_on_the_test_set(ray_local, tmp_path):
    media, labels = digit_images()
    wrong = write_parquet(tmp_path / "test.parquet", media[:100], (labels[:100] + 1) % 10)
    recipe, found = tried(*SPACE), []
    with in_this_process(tmp_path):
        for number, one in enumerate((recipe, replace(recipe, test=Corpus(uri=(str(wrong),))))):
            run = Run(Root.open(f"{tmp_path}/{number}"), one)
            found.append((run.control, run.split, [trial.validation for trial in run.control_sweep.trials]))  # pyright: ignore
    (first, split, values), (second, other, again) = found
    assert first.digest == second.digest and first.read(WEIGHTS) == second.read(WEIGHTS)
    assert {name: one.digest for name, one in split.items()} == {name: one.digest for name, one in other.items()}
    assert values == again


KILLED = (
    *("digits", "--select.p", "10", "--pretrain.images", "1280", "--finetune.images", "320"),
    *("--pretrain.checkpoint-minutes", "0.001", "--resources.teachers", "1", "--resources.workers", "1"),
    *("--control.sweep.space", "train.images=[640,25600]"),
)


def started(folder: str, root: Path, teacher: tuple[str, ...]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(JOBS / "semi_supervised.py"), *KILLED, *teacher, "--root", str(root)],
        env=environment(RAY_TMPDIR=folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(job: subprocess.Popen[str], root: Path) -> dict[str, Any]:
    out, _ = job.communicate(timeout=800)
    assert job.returncode == 0, out
    assert "control: the best of 2 controls on 20% of the labels (train.images " in out
    (summary,) = root.glob("run-*/summary.json")
    return json.loads(summary.read_text())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_that_is_killed_between_its_controls_goes_on_to_the_same_one(ray_folder, tmp_path):
    teacher, killed, whole = given_teacher(tmp_path), tmp_path / "killed", tmp_path / "whole"
    job, deadline = started(ray_folder, killed, teacher), time.monotonic() + 800
    # The first trial is done, and the second one has written a checkpoint.
    while not (first := [*killed.glob("control-*/manifest.json")]) or not [
        *killed.glob("control-*/scratch/checkpoints/*/*")
    ]:
        assert job.poll() is None and time.monotonic() < deadline, job.communicate()
        time.sleep(0.05)
    job.send_signal(signal.SIGKILL)
    job.communicate()
    end_ray(ray_folder)
    assert len(first) == 1 and not [*killed.glob("run-*")]
    before = first[0].stat().st_mtime_ns
    summary, other = (finished(started(ray_folder, root, teacher), root) for root in (killed, whole))
    assert first[0].stat().st_mtime_ns == before
    assert summary["control"] == other["control"] and len(summary["control"]["trials"]) == 2
    assert summary["metrics"] == other["metrics"]
    for network in whole.glob("control-*/model.safetensors"):
        assert network.read_bytes() == (killed / network.parent.name / network.name).read_bytes()
    assert len([*whole.glob("control-*")]) == 3  # two trials, and the one that is trained on the whole labeled set
    made = [{name for name in one["artifacts"] if not name.startswith("shards-")} for one in (summary, other)]
    assert made[0] == made[1]  # the digest of SHARDS covers the path of the corpus, which is in the root
    # Of the run that was not killed: a training that resumed counts only the images since its checkpoint.
    images = {stage["name"]: stage["images"] for stage in other["stages"]}
    assert images["control sweep"] >= 640 + 25600 and images["control"] in (640, 25600)
