"""Sweeps with real trials on digits."""

import collections
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import ray.util
from heads import JOBS, end_ray

from raylabel import recipes
from raylabel.artifact import Artifact, Root
from raylabel.recipe import Recipe
from raylabel.report.sweep import Sweep, print_sweep
from raylabel.schema import PICKS
from raylabel.sweep.claims import Ledger
from raylabel.sweep.config import SweepConfig
from raylabel.sweep.run import sweep
from raylabel.train import Train

JOB = JOBS / "sweep.py"
SPACE = ("select.k=[20,40]", "finetune.schedule.lr=[0.005,0.01]")
UNEVEN = ("select.k=[20,40]", "finetune.images=[500,40000]")  # two trials end long before the others


def short() -> Recipe:
    recipe = recipes.digits()
    assert recipe.teacher.train
    return replace(
        recipe,
        teacher=replace(recipe.teacher, train=shorter(recipe.teacher.train, 4_000)),
        pretrain=shorter(recipe.pretrain, 4_000),
        finetune=shorter(recipe.finetune, 1_000),
    )


def shorter(config: Train, images: int) -> Train:
    return replace(config, images=images)


def made_once(told: Sweep, folder: str) -> Ledger:
    """Asserts that each artifact was built once, by the trial that the table names."""
    ledger = Ledger.read(f"{folder}/ledger.json")
    assert all(build.done for build in ledger.builds)
    builders = collections.Counter(build.artifact for build in ledger.builds)
    assert set(builders.values()) == {1}
    assert {build.artifact: build.trial for build in ledger.builds} == {
        a: t.number for t in told.trials for a in t.built
    }
    return ledger


def keys(picks: Artifact) -> list[int]:
    return picks.table("picks", PICKS)["key"].to_pylist()


def stems(artifacts) -> collections.Counter:
    return collections.Counter(artifact.rpartition("-")[0] for artifact in artifacts)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_grid_builds_each_artifact_once(ray_local, tmp_path):
    root = Root.open(str(tmp_path / "root"))
    told, folder = sweep(root, short(), SweepConfig(space=SPACE))
    ledger = made_once(told, folder)
    # Two Ks, each with one pre-training, and two rates of fine-tuning; one teacher, and one pass of it over the corpus.
    assert stems(build.artifact for build in ledger.builds) == {
        "examples-labeled": 1,
        "teacher": 1,
        "scores": 2 + 2 + 4,  # of corpus and test set by the teacher; of the labeled set by each student
        "leaks": 1,
        "duplicates": 1,
        "picks": 2,
        "examples-picked": 2,
        "pretrained": 2,
        "student": 4,
    }
    assert [trial.state for trial in told.trials] == ["finished"] * 4 and told.n == 10
    assert told.images == sum(trial.images for trial in told.trials) < 0.5 * told.alone
    top = [trial.accuracy or 0 for trial in told.trials]
    assert top == sorted(top, reverse=True)
    assert told.test_n == 500 and told.test > 0.3  # chance is 0.1
    # None of those held out was learned from.
    lesson, held = (next(a for a in root.named("truth") if a.info["picks"] == n) for n in (40, 10))
    assert not {*keys(lesson)} & {*keys(held)} and len({*keys(lesson), *keys(held)}) == 50
    examples = next(a for a in root.named("examples-labeled"))
    assert examples.identity["picks"] == lesson.digest
    assert list(Path(folder).glob("tune/trial_0000[0-3]/events.out.tfevents.*"))
    assert json.loads(Path(folder, "sweep.json").read_text())["alone"] == told.alone

    # The same again finds all of it.
    before = {path: path.read_bytes() for path in Path(folder).glob("tune/trial_*/result.json")}
    assert sweep(root, short(), SweepConfig(space=SPACE)) == (told, folder)
    assert {path: path.read_bytes() for path in before} == before and len(before) == 4
    no_placement_group_is_left()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_asha_stops_between_stages_and_leaves_nothing(ray_local, tmp_path):
    root = Root.open(str(tmp_path / "root"))
    config = SweepConfig(space=("select.k=[1,5,10,20,40,80]",), scheduler="asha")
    told, folder = sweep(root, short(), config)
    states = collections.Counter(trial.state for trial in told.trials)
    assert states["finished"] >= 1 and states["stopped"] >= 1 and states["failed"] == 0
    # What was stopped has no student; what went on validated no worse than the worst that was stopped early on.
    for trial in told.trials:
        assert ("student" in stems([*trial.built, *trial.reused])) == (trial.state == "finished")
    made_once(told, folder)
    no_placement_group_is_left()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_trial_that_fails_is_told_and_the_others_go_on(ray_local, tmp_path, capsys):
    root = Root.open(str(tmp_path / "root"))
    told, folder = sweep(root, short(), SweepConfig(space=("finetune.schedule.lr=[1e30,0.005]",)))
    assert [(trial.number, trial.state) for trial in told.trials] == [(1, "finished"), (0, "failed")]
    assert told.trials[1].error.startswith("the loss is not a number after")
    capsys.readouterr()
    print_sweep(told, folder)
    assert "trial 0 failed: the loss is not a number after" in capsys.readouterr().out
    no_placement_group_is_left()


def no_placement_group_is_left() -> None:
    left = [group for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"]
    assert not left


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_halfway_it_keeps_what_is_finished_and_finds_the_same_best(tmp_path):
    images = ["--teacher.train.images", "4000", "--pretrain.images", "4000"]
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")

    def start(root: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, str(JOB), "digits", "--space", *UNEVEN, *images, "--root", str(tmp_path / root)],
            env=os.environ | {"RAY_TMPDIR": folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(job: subprocess.Popen) -> dict:
        out, _ = job.communicate(timeout=400)
        assert job.returncode == 0, out
        (found,) = (tmp_path / job.args[-1]).glob("sweep-*/sweep.json")  # pyright: ignore
        return json.loads(found.read_text())

    try:
        job = start("killed")
        while not (done := finished(tmp_path / "killed")):
            assert job.poll() is None, job.communicate()[0]
            time.sleep(0.2)
        job.send_signal(signal.SIGKILL)
        job.communicate()
        end_ray(folder)
        assert 1 <= len(done) < 4
        results = {path: path.read_bytes() for path in done}
        networks = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*/model.safetensors")}
        again = finish(start("killed"))
        assert {path: path.read_bytes() for path in results} == results
        assert {path: path.stat().st_mtime_ns for path in networks} == networks
        other = finish(start("whole"))
    finally:
        end_ray(folder)
    for one in (again, other):  # who built what is a matter of who came first
        for trial in one["trials"]:
            del trial["built"], trial["reused"], trial["images"]
    (folder,) = (tmp_path / "killed").glob("sweep-*/ledger.json")
    assert {len(used) for used in Ledger.read(str(folder)).uses.values()} == {10}
    assert [again[name] for name in ("trials", "test", "images", "alone")] == [
        other[name] for name in ("trials", "test", "images", "alone")
    ]
    assert not math.isnan(again["test"])


def finished(root: Path) -> list[Path]:
    """Results of the trials that Ray Tune has noted down as finished, once there are some."""
    states = sorted(root.glob("sweep-*/tune/experiment_state-*.json"))
    if not states:
        return []
    try:
        trials = [json.loads(trial[0]) for trial in json.loads(states[-1].read_text())["trial_data"]]
    except (ValueError, OSError):  # it is being written
        return []
    ended = [one for one in trials if one["status"] == "TERMINATED"]
    return [states[-1].parent / one["relative_logdir"] / "result.json" for one in ended]
