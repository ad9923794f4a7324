"""Ray Tune: which trials run, how many at once, which are stopped, and how a sweep goes on that was interrupted.

Ray Tune writes its state into the sweep's folder `tune`. What belongs to the cluster or to this process must not be
restored from it and is set again here.
"""

import json
import os
import pickle
import sys
import time
from typing import Any

os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends a sweep as it ends any other job
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the old one can be silenced

import ray
import ray.exceptions
import ray.tune
import ray.tune.schedulers
from ray.tune.search.basic_variant import BasicVariantGenerator

from raylabel.compute.placement_groups import remove_orphaned_placement_groups
from raylabel.compute.progress import Progress
from raylabel.compute.resources import Cluster
from raylabel.errors import causes
from raylabel.recipes.recipe import Recipe
from raylabel.store.artifact import Root
from raylabel.store.files import delete_folder, filesystem, list_files, read_file
from raylabel.sweep.config import STAGES, SweepConfig
from raylabel.sweep.space import Settings, apply
from raylabel.sweep.trainable import FAILED, LOSSES, trial
from raylabel.text import one_line

TUNE = "tune"  # Ray Tune's folder. Other files in it would be restored to their old state when a sweep is resumed
STATE_FILES = "tuner.pkl", "experiment_state-", "basic-variant-state-"  # the files in it that it goes on from
SHARE = 3  # of so many pre-trained students ASHA has one fine-tuned
SHELL = 0.01  # CPUs of a trial's actor in Ray Tune, which waits for the work that others do
LOOK = 5.0  # seconds between two looks at the cluster


class Room:
    """How many trials have room for their training workers at once: with more, each could hold what another needs."""

    def __init__(self, recipe: Recipe, trials: list[Settings]):
        recipes = [apply(recipe, settings) for settings in trials]
        configs = [config for one in recipes for config in (one.teacher.train, one.pretrain, one.finetune) if config]
        self._resources, self._batches = recipe.resources, {config.batch for config in configs}
        self._gpu = bool(Cluster.now().gpus)  # for good: where all of them are lost a moment, the trials wait
        self._next, self._found = 0.0, 1

    def __call__(self) -> int:
        """As the cluster is now, which may have grown or shrunk."""
        if time.monotonic() > self._next:
            cluster = Cluster.now()
            workers = self._resources.workers or max(cluster.workers(self._resources, one) for one in self._batches)
            self._found = max(1, (cluster.gpus if self._gpu else cluster.cpus) // workers)
            self._next = time.monotonic() + LOOK
        return self._found


def run_trials(
    root: Root, name: str, trials: list[Settings], task: ray.ObjectRef, claims: Any, config: SweepConfig, room: Room
) -> dict[int, ray.tune.Result]:
    """The last result of each trial, by its number. Goes on with an interrupted sweep of that name.

    `job`: of the TrialTask, which the caller keeps until this returns.
    """
    global _now
    ended, losses = 0, 0
    with Progress("sweep", len(trials), "trials") as progress:
        while True:
            _now = _Now(progress, room, claims)
            try:
                results = _tuner(root, name, trials, job, claims, config).fit()
                _now.report_builds()
                break
            except RuntimeError as error:
                # Ray Tune ends all trials, and then itself, where Ray killed one's actor for want of memory.
                if not any(isinstance(one, ray.exceptions.OutOfMemoryError) for one in causes(error)):
                    raise
                ended, losses = _now.ended, 0 if _now.ended > ended else losses + 1
                if losses > LOSSES:
                    raise
                print("a trial's process was killed for want of memory: the sweep goes on", file=sys.stderr)
        progress.update(len(results))  # those of an earlier run too
    _now = None
    remove_orphaned_placement_groups()
    return {int(result.path.rpartition("_")[2]): result for result in results}


def _tuner(
    root: Root, name: str, trials: list[Settings], task: ray.ObjectRef, claims: Any, config: SweepConfig
) -> ray.tune.Tuner:
    """A new one, or that of an earlier run, which goes on."""
    fs, path = filesystem(root.uri)
    # In a list, for a reference alone would be replaced by what it is of.
    runnable = ray.tune.with_resources(ray.tune.with_parameters(trial, job=[job], claims=claims), {"CPU": SHELL})
    folder = f"{root.uri}/{name}/{TUNE}"
    # Without state it was killed before the first trial was recorded.
    if files := _state_files(folder):
        if not (damaged := _unreadable(files)):
            return ray.tune.Tuner.restore(f"{path}/{name}/{TUNE}", runnable, resume_errored=True, storage_filesystem=fs)
        print(f"{damaged}: Ray Tune records all trials again; what is built is used", file=sys.stderr)
        delete_folder(folder)
    numbered = [{"number": number, "settings": settings} for number, settings in enumerate(trials)]
    return ray.tune.Tuner(
        runnable,
        param_space={"trial": ray.tune.grid_search(numbered)},
        tune_config=ray.tune.TuneConfig(
            search_alg=InTurn(),
            scheduler=scheduler(config),
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=ray.tune.RunConfig(
            name=TUNE, storage_path=f"{path}/{name}", storage_filesystem=fs, verbose=0, callbacks=[_Reporting()]
        ),
    )


def _state_files(folder: str) -> list[str]:
    """The files that Ray Tune goes on from; none if there is nothing to go on from."""
    files = list_files(folder)
    # Each run has its own, with its time in their names.
    newest = [max((file for file in files if file.startswith(start)), default="") for start in STATE_FILES]
    return [f"{folder}/{file}" for file in newest] if all(newest) else []


def _unreadable(files: list[str]) -> str:
    """Which of them cannot be read, and why; '' if all can. Ray Tune does not write them atomically, so that a process
    that is killed leaves half of one. It pickles names of this code, which may have changed."""
    for file in files:
        try:
            (json if "/experiment_state-" in file else pickle).loads(read_file(file))
        except (ValueError, EOFError, pickle.UnpicklingError, AttributeError, ImportError) as error:
            return f"cannot read '{file}' ({one_line(error)})"
    return ""


class _Now:
    """What belongs to this process alone, and is no part of Ray Tune's state."""

    def __init__(self, progress: Progress, room: Room, claims: Any):
        self._progress, self._room, self._claims, self._seats = progress, room, claims, 0
        self._reported, self._next = (
            len(ray.get(claims.builds.remote(0))),
            0.0,
        )  # an earlier run reported its own
        self.ended = 0

    def report(self, ended: int) -> None:
        """So many trials have come to an end."""
        self.ended = ended
        self._progress.update(ended)

    def report_builds(self) -> None:
        """What trials began to build meanwhile: between the ends of two trials hours may pass."""
        builds = ray.get(self._claims.builds.remote(self._reported))
        for build in builds:
            self._progress.say(f"trial {build.trial} builds {build.artifact}")
        self._reported, self._next = self._reported + len(builds), time.monotonic() + LOOK

    def look(self) -> None:
        if time.monotonic() > self._next:
            self.report_builds()

    def seats(self) -> int:
        """Trials that may run at once, which is passed on to those that wait."""
        if (seats := self._room()) != self._seats:
            self._seats = seats
            self._claims.allow.remote(seats)
        return seats


_now: _Now | None = None


class InTurn(BasicVariantGenerator):
    """Gives out the next trial when there is room for it now.

    Ray Tune's own bound would be that of the run before, and it starts all trials at once that were at work or failed
    then: these wait for a seat of the claims.
    """

    def next_trial(self) -> Any:
        assert _now
        self.max_concurrent = _now.seats()
        return super().next_trial()


class _Asha(ray.tune.schedulers.ASHAScheduler):
    """Knows what the trials of an earlier run reported, too: Ray Tune's own begins anew when a sweep goes on."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        if trial.is_finished() and "pretrained" in trial.last_result:
            self.on_trial_complete(tune_controller, trial, {**trial.last_result, "stage": 1})


def scheduler(config: SweepConfig) -> Any:
    if config.scheduler == "fifo":
        return None
    # What decides is the accuracy after pre-training, which the report after fine-tuning repeats.
    return _Asha(
        time_attr="stage", metric="pretrained", mode="max", max_t=len(STAGES), grace_period=1, reduction_factor=SHARE
    )


def _trial_name(one: Any) -> str:
    return f"trial_{one.config['trial']['number']:05d}"


class _Reporting(ray.tune.Callback):
    """Reports progress and builds to the terminal, and to Ray Tune which trials are to be tried again."""

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        trial.max_failures = LOSSES  # of its process, with the machine that it was on

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if FAILED in result:
            trial.max_failures = 0

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        assert _now
        _now.look()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._report(trials, trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._report(trials, trial)

    def _report(self, trials: list[Any], trial: Any) -> None:
        assert _now
        _now.report(sum(one.is_finished() or one is trial for one in trials))
