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
LABELED = {"samples-labeled": 1, "media-labeled": 1, "examples-labeled": 1}  # builds for the labeled set


def tiny() -> Recipe:
    """A recipe whose networks learn almost nothing. With P = 10, each image still counts for every class."""
    recipe = short(640)
    return replace(recipe, select=replace(recipe.select, p=10))


def assert_built_once(result: Sweep, folder: str) -> Ledger:
    """Asserts that each artifact was built once, by the trial in the results. A build that was interrupted, for example
    because Ray ran out of memory, has its own line in the ledger and does not count."""
    ledger = Ledger.read(f"{folder}/ledger.json")
    done = [build for build in ledger.builds if build.done]
    assert {build.artifact for build in done} == {build.artifact for build in ledger.builds}
    assert set(collections.Counter(build.artifact for build in done).values()) == {1}
    assert {build.artifact: build.trial for build in done} == {a: t.number for t in result.trials for a in t.built}
    return ledger


def keys(picks: Artifact) -> list[int]:
    return picks.table("picks", PICKS)["key"].to_pylist()


def stems(artifacts) -> collections.Counter:
    return collections.Counter(artifact.rpartition("-")[0] for artifact in artifacts)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_grid_builds_each_artifact_once(ray_local, tmp_path, capsys):
    root = Root.open(str(tmp_path / "root"))
    result, folder = sweep(root, short(), SweepConfig(space=SPACE))
    ledger = assert_built_once(result, folder)
    printed = re.findall(r"^sweep: trial (\d+) builds (\S+)$", capsys.readouterr().out, re.MULTILINE)
    assert printed == [(str(build.trial), build.artifact) for build in ledger.builds]
    # Two K, each with one pre-training and two fine-tuning rates; one teacher, which scores the corpus once.
    assert stems({build.artifact for build in ledger.builds}) == {
        **LABELED,
        "teacher": 1,
        "scores": 2 + 2 + 4,  # by the teacher: corpus and test set; by each student: labeled set
        "pairs": 1,
        "duplicates": 1,
        "picks": 2,
        "samples-picked": 2,
        "media-picked": 2,
        "examples-picked": 2,
        "pretrained": 2,
        "student": 4,
    }
    assert [trial.state for trial in result.trials] == ["finished"] * 4 and result.n == 10
    assert result.images == sum(trial.images for trial in result.trials) < 0.5 * result.alone
    top = [trial.accuracy or 0 for trial in result.trials]
    assert top == sorted(top, reverse=True)
    assert result.test.n == 500 and result.test.value > 0.3  # chance is 0.1
    # No held-out sample was trained on.
    rest, held = (next(a for a in root.named("truth") if a.info["picks"] == n) for n in (40, 10))
    assert not {*keys(rest)} & {*keys(held)} and len({*keys(rest), *keys(held)}) == 50
    examples = next(a for a in root.named("examples-labeled"))
    assert examples.identity["picks"] == rest.digest
    assert list(Path(folder).glob("tune/trial_0000[0-3]/events.out.tfevents.*"))
    assert json.loads(Path(folder, "sweep.json").read_text())["alone"] == result.alone

    # The same sweep again finds all of it.
    before = {path: path.read_bytes() for path in Path(folder).glob("tune/trial_*/result.json")}
    assert sweep(root, short(), SweepConfig(space=SPACE)) == (result, folder)
    assert {path: path.read_bytes() for path in before} == before and len(before) == 4
    no_placement_group_is_left()

    # The state files of Ray Tune are not needed.
    state = max(Path(folder).glob("tune/experiment_state-*.json"))
    state.write_bytes(state.read_bytes()[:1000])
    capsys.readouterr()
    assert sweep(root, short(), SweepConfig(space=SPACE)) == (result, folder)
    assert f"cannot read '{state}' (" in capsys.readouterr().err
    assert ledger == Ledger.read(f"{folder}/ledger.json")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_asha_stops_between_stages_and_leaves_no_placement_group(ray_local, tmp_path):
    root = Root.open(str(tmp_path / "root"))
    config = SweepConfig(space=("select.k=[1,5,10,20,40,80]",), scheduler="asha")
    result, folder = sweep(root, short(), config)
    states = collections.Counter(trial.state for trial in result.trials)
    assert states["finished"] >= 1 and states["stopped"] >= 1 and states["failed"] == 0
    # A stopped trial has no student.
    for trial in result.trials:
        assert ("student" in stems([*trial.built, *trial.reused])) == (trial.state == "finished")
    assert_built_once(result, folder)
    no_placement_group_is_left()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_failed_trial_is_reported_and_the_others_continue(ray_local, tmp_path, capsys):
    root = Root.open(str(tmp_path / "root"))
    result, folder = sweep(root, short(), SweepConfig(space=("finetune.schedule.lr=[1e30,0.005]",)))
    assert [(trial.number, trial.state) for trial in result.trials] == [(1, "finished"), (0, "failed")]
    assert result.trials[1].error.startswith("the loss is not a number after")
    capsys.readouterr()
    print_sweep(result, folder)
    assert "trial 0 failed: the loss is not a number after" in capsys.readouterr().out
    no_placement_group_is_left()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_failed_shared_build_is_tried_once_per_run_and_reported_once(ray_local, tmp_path):
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
        assert builds == {**LABELED, "teacher": run}
    no_placement_group_is_left()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Ray Tune leaves log files open
def test_sweep_continues_if_a_trial_is_killed_by_lack_of_memory(ray_local, tmp_path, monkeypatch, capsys):
    def kill(self, iteration, trials, **info):
        if any("stage" in trial.last_result for trial in trials):
            monkeypatch.undo()
            # What Ray Tune's loop raises in this case (ray/air/execution/_internal/actor_manager.py).
            raise RuntimeError("Caught unexpected exception") from ray.exceptions.OutOfMemoryError(
                "1 worker was killed"
            )

    monkeypatch.setattr(tune._Reporting, "on_step_begin", kill)
    result, folder = sweep(Root.open(str(tmp_path / "root")), tiny(), SweepConfig(space=("select.k=[20,40]",)))
    assert [trial.state for trial in result.trials] == ["finished"] * 2
    built = [build.artifact for build in Ledger.read(f"{folder}/ledger.json").builds if build.done]
    assert len(built) == len({*built}) and {*built} == {artifact for trial in result.trials for artifact in trial.built}
    assert capsys.readouterr().err.count("the sweep continues\n") == 1
    no_placement_group_is_left()
    gc.collect()  # while the warnings about them are ignored


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_thirty_trials_with_asha_end_and_leave_no_actor(ray_local, tmp_path):
    root, before = Root.open(str(tmp_path / "root")), actors()
    space = ("select.k=[1,2,4,8,12,16,24,32,48,64]", "finetune.schedule.lr=[0.001,0.005,0.02]")
    result, folder = sweep(root, tiny(), SweepConfig(space=space, scheduler="asha"))
    states = collections.Counter(trial.state for trial in result.trials)
    assert states["finished"] + states["stopped"] == 30 and states["finished"] >= 3 and states["stopped"] >= 3
    ledger = assert_built_once(result, folder)
    assert stems({build.artifact for build in ledger.builds})["pretrained"] == 10
    no_placement_group_is_left()
    no_actor_is_left(before)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sweep_with_a_bucket_as_root(ray_local, bucket, tmp_path):
    root = Root.open(f"{bucket}/some sweeps")
    config = SweepConfig(space=("select.k=[20,40]",))
    result, folder = sweep(root, tiny(), config)
    assert folder.startswith(f"{bucket}/some sweeps/sweep-digits-")
    assert [trial.state for trial in result.trials] == ["finished"] * 2
    assert_built_once(result, folder)
    files = list_files(folder)
    assert {"ledger.json", "sweep.json", "tune/tuner.pkl"} <= {*files}
    for number in (0, 1):
        assert any(name.startswith(f"tune/trial_{number:05d}/events.out.tfevents.") for name in files)
    assert not list(tmp_path.iterdir())

    # The same sweep again builds and runs nothing.
    ledger = read_file(f"{folder}/ledger.json")
    assert sweep(root, tiny(), config) == (result, folder)
    assert read_file(f"{folder}/ledger.json") == ledger
    added = {*list_files(folder)} - {*files}
    assert all(name.startswith(("tune/experiment_state-", "tune/basic-variant-state-")) for name in added), added
    no_placement_group_is_left()


def actors() -> dict[str, str]:
    """Id → class of the actors that are alive."""
    found = ray._private.state.actors().items()
    return {name: actor["ActorClassName"] for name, actor in found if actor["State"] != "DEAD"}


def no_actor_is_left(before: dict[str, str]) -> None:
    """No new actors, except those of which Ray keeps one per job."""
    kept = {"_Counter", "AutoscalingCoordinator", "_AutoscalingCoordinatorActor", "ActorLocationTracker", "_StatsActor"}
    deadline = time.monotonic() + 60
    while left := {kind for name, kind in actors().items() if name not in before} - kept:
        assert time.monotonic() < deadline, left
        time.sleep(0.5)
