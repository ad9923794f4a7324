"""Sweeps with real trials on digits."""

import collections
import gc
import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray._private.state
import ray.exceptions
import ray.util
from sweeps import no_placement_group_is_left, short

from raylabel.errors import InputError
from raylabel.recipes.recipe import Recipe
from raylabel.schema import PICKS
from raylabel.store.artifact import Artifact, Root
from raylabel.store.files import list_files, read_file
from raylabel.sweep import tune
from raylabel.sweep.claims import Ledger
from raylabel.sweep.config import SweepConfig
from raylabel.sweep.result import Sweep, print_sweep
from raylabel.sweep.run import sweep

SPACE = ("select.k=[20,40]", "finetune.schedule.lr=[0.005,0.01]")


def tiny() -> Recipe:
    """Its networks have learned next to nothing; so every class is among the ten that a teacher gives an image."""
    recipe = short(640)
    return replace(recipe, select=replace(recipe.select, p=10))


def made_once(told: Sweep, folder: str) -> Ledger:
    """Asserts that each artifact was built once, by the trial that the table names. A build that was cut off, by Ray on
    a machine without memory, has a line of its own and is no second one."""
    ledger = Ledger.read(f"{folder}/ledger.json")
    done = [build for build in ledger.builds if build.done]
    assert {build.artifact for build in done} == {build.artifact for build in ledger.builds}
    assert set(collections.Counter(build.artifact for build in done).values()) == {1}
    assert {build.artifact: build.trial for build in done} == {a: t.number for t in told.trials for a in t.built}
    return ledger


def keys(picks: Artifact) -> list[int]:
    return picks.table("picks", PICKS)["key"].to_pylist()


def stems(artifacts) -> collections.Counter:
    return collections.Counter(artifact.rpartition("-")[0] for artifact in artifacts)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_grid_builds_each_artifact_once(ray_local, tmp_path, capsys):
    root = Root.open(str(tmp_path / "root"))
    told, folder = sweep(root, short(), SweepConfig(space=SPACE))
    ledger = made_once(told, folder)
    said = re.findall(r"^sweep: trial (\d+) builds (\S+)$", capsys.readouterr().out, re.MULTILINE)
    assert said == [(str(build.trial), build.artifact) for build in ledger.builds]
    # Two Ks, each with one pre-training, and two rates of fine-tuning; one teacher, and one pass of it over the corpus.
    assert stems({build.artifact for build in ledger.builds}) == {
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
    assert told.test.n == 500 and told.test.value > 0.3  # chance is 0.1
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

    # And what Ray Tune wrote can be done without.
    state = max(Path(folder).glob("tune/experiment_state-*.json"))
    state.write_bytes(state.read_bytes()[:1000])
    capsys.readouterr()
    assert sweep(root, short(), SweepConfig(space=SPACE)) == (told, folder)
    assert f"cannot read '{state}' (" in capsys.readouterr().err
    assert ledger == Ledger.read(f"{folder}/ledger.json")


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


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_no_trial_can_do_without_is_tried_once_a_run_and_told_once(ray_local, tmp_path):
    root, config = Root.open(str(tmp_path / "root")), SweepConfig(space=("select.k=[10,20,40]",))
    recipe = tiny()
    assert recipe.teacher.train
    wild = replace(recipe.teacher.train, schedule=replace(recipe.teacher.train.schedule, lr=1e30))
    recipe = replace(recipe, teacher=replace(recipe.teacher, train=wild))
    for run in (1, 2):
        with pytest.raises(InputError, match="^all 3 trials failed: the loss is not a number after"):
            sweep(root, recipe, config)
        (ledger,) = tmp_path.glob("root/sweep-*/ledger.json")
        builds = stems(build.artifact for build in Ledger.read(str(ledger)).builds)
        assert builds == {"examples-labeled": 1, "teacher": run}
    no_placement_group_is_left()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of logs that Ray Tune leaves open then
def test_a_trial_killed_for_want_of_memory_is_not_the_end_of_the_others(ray_local, tmp_path, monkeypatch, capsys):
    def kill(self, iteration, trials, **info):
        if any("stage" in trial.last_result for trial in trials):
            monkeypatch.undo()
            # What Ray Tune's loop raises then (ray/air/execution/_internal/actor_manager.py).
            raise RuntimeError("Caught unexpected exception") from ray.exceptions.OutOfMemoryError(
                "1 worker was killed"
            )

    monkeypatch.setattr(tune._Reporting, "on_step_begin", kill)
    told, folder = sweep(Root.open(str(tmp_path / "root")), tiny(), SweepConfig(space=("select.k=[20,40]",)))
    assert [trial.state for trial in told.trials] == ["finished"] * 2
    whole = [build.artifact for build in Ledger.read(f"{folder}/ledger.json").builds if build.done]
    assert len(whole) == len({*whole}) and {*whole} == {artifact for trial in told.trials for artifact in trial.built}
    assert capsys.readouterr().err.count("the sweep goes on\n") == 1
    no_placement_group_is_left()
    gc.collect()  # while what they warn of is ignored


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_thirty_trials_with_asha_end_and_leave_nothing(ray_local, tmp_path):
    root, before = Root.open(str(tmp_path / "root")), actors()
    space = ("select.k=[1,2,4,8,12,16,24,32,48,64]", "finetune.schedule.lr=[0.001,0.005,0.02]")
    told, folder = sweep(root, tiny(), SweepConfig(space=space, scheduler="asha"))
    states = collections.Counter(trial.state for trial in told.trials)
    assert states["finished"] + states["stopped"] == 30 and states["finished"] >= 3 and states["stopped"] >= 3
    ledger = made_once(told, folder)
    assert stems({build.artifact for build in ledger.builds})["pretrained"] == 10
    no_placement_group_is_left()
    no_actor_is_left(before)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_whose_root_is_a_bucket(ray_local, bucket, tmp_path):
    root = Root.open(f"{bucket}/some sweeps")
    config = SweepConfig(space=("select.k=[20,40]",))
    told, folder = sweep(root, tiny(), config)
    assert folder.startswith(f"{bucket}/some sweeps/sweep-digits-")
    assert [trial.state for trial in told.trials] == ["finished"] * 2
    made_once(told, folder)
    files = list_files(folder)
    assert {"ledger.json", "sweep.json", "tune/tuner.pkl"} <= {*files}
    for number in (0, 1):
        assert any(name.startswith(f"tune/trial_{number:05d}/events.out.tfevents.") for name in files)
    assert not list(tmp_path.iterdir())

    # The same again: nothing is built, nor run.
    ledger = read_file(f"{folder}/ledger.json")
    assert sweep(root, tiny(), config) == (told, folder)
    assert read_file(f"{folder}/ledger.json") == ledger
    added = {*list_files(folder)} - {*files}
    assert all(name.startswith(("tune/experiment_state-", "tune/basic-variant-state-")) for name in added), added
    no_placement_group_is_left()


def actors() -> dict[str, str]:
    """Id → class of those that are not dead."""
    found = ray._private.state.actors().items()
    return {name: actor["ActorClassName"] for name, actor in found if actor["State"] != "DEAD"}


def no_actor_is_left(before: dict[str, str]) -> None:
    """None that was not there before, but those of which a job has one, which others after this sweep go on with."""
    kept = {"_Counter", "AutoscalingCoordinator", "_AutoscalingCoordinatorActor", "ActorLocationTracker", "_StatsActor"}
    deadline = time.monotonic() + 60
    while left := {kind for name, kind in actors().items() if name not in before} - kept:
        assert time.monotonic() < deadline, left
        time.sleep(0.5)
