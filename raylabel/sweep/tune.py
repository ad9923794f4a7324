"""Runs the trials of a sweep in Ray Tune: which run, how many at once, which are stopped, and how a sweep resumes.

Ray Tune writes its state into the sweep's folder `tune`. State that belongs to the cluster or to this process must not
be restored from it; it is set again here.
"""

import json
import os
import pickle
import sys
import time
from typing import Any

os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends a sweep in the same way as any other job
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the old output can be turned off

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
from raylabel.recipes.space import Settings, apply
from raylabel.store.artifact import Root
from raylabel.store.files import delete_folder, filesystem, list_files, read_file
from raylabel.sweep.config import STAGES, SweepConfig
from raylabel.sweep.trainable import FAILED, LOSSES, trial
from raylabel.text import one_line

TUNE = "tune"  # Ray Tune's folder; resuming a sweep would restore any other file in it to an old state
STATE_FILES = "tuner.pkl", "experiment_state-", "basic-variant-state-"  # the files in it from which Ray Tune resumes
REDUCTION_FACTOR = 3  # ASHA fine-tunes one of this many pre-trained students
ACTOR_CPUS = 0.01  # of a trial's actor in Ray Tune, which only waits for the process that does the work
POLL_SECONDS = 5.0  # between two polls of the cluster


class ConcurrencyLimit:
    """How many trials run at once: as many as can have all their training workers. More could block each other."""

    def __init__(self, recipe: Recipe, trials: list[Settings]):
        recipes = [apply(recipe, settings) for settings in trials]
        configs = [config for one in recipes for config in (one.teacher.train, one.pretrain, one.finetune) if config]
        self._resources, self._batches = recipe.resources, {config.batch for config in configs}
        self._gpu = bool(Cluster.now().gpus)  # fixed: if all GPUs are lost for a while, the trials wait
        self._next, self._found = 0.0, 1

    def __call__(self) -> int:
        """The limit for the cluster as it is now, since it can grow and shrink."""
        if time.monotonic() > self._next:
            cluster = Cluster.now()
            workers = self._resources.workers or max(cluster.workers(self._resources, one) for one in self._batches)
            self._found = max(1, (cluster.gpus if self._gpu else cluster.cpus) // workers)
            self._next = time.monotonic() + POLL_SECONDS
        return self._found


def run_trials(
    root: Root,
    name: str,
    trials: list[Settings],
    task: ray.ObjectRef,
    claims: Any,
    config: SweepConfig,
    limit: ConcurrencyLimit,
) -> dict[int, ray.tune.Result]:
    """The last result of each trial, by its number. Resumes an interrupted sweep of that name.

    `task`: a reference to the TrialTask, which the caller keeps until this returns.
    """
    global _state
    ended, losses = 0, 0
    with Progress("sweep", len(trials), "trials") as progress:
        while True:
            _state = _ProcessState(progress, limit, claims)
            try:
                results = _tuner(root, name, trials, task, claims, config).fit()
                _state.report_builds()
                break
            except RuntimeError as error:
                # If Ray kills a trial's actor because memory ran out, Ray Tune ends all trials and itself.
                if not any(isinstance(one, ray.exceptions.OutOfMemoryError) for one in causes(error)):
                    raise
                ended, losses = _state.ended, 0 if _state.ended > ended else losses + 1
                if losses > LOSSES:
                    raise
                print("a trial's process was killed because memory ran out; the sweep continues", file=sys.stderr)
        progress.update(len(results))  # those of an earlier run too
    _state = None
    remove_orphaned_placement_groups()
    return {int(result.path.rpartition("_")[2]): result for result in results}


def _tuner(
    root: Root, name: str, trials: list[Settings], task: ray.ObjectRef, claims: Any, config: SweepConfig
) -> ray.tune.Tuner:
    """A new tuner, or the restored tuner of an earlier run."""
    fs, path = filesystem(root.uri)
    # In a list: Ray would replace a bare reference by its value.
    runnable = ray.tune.with_resources(ray.tune.with_parameters(trial, task=[task], claims=claims), {"CPU": ACTOR_CPUS})
    folder = f"{root.uri}/{name}/{TUNE}"
    # Without state, an earlier run was killed before it recorded a trial.
    if files := _state_files(folder):
        if not (damaged := _unreadable(files)):
            return ray.tune.Tuner.restore(f"{path}/{name}/{TUNE}", runnable, resume_errored=True, storage_filesystem=fs)
        print(f"{damaged}; all trials are recorded again, and existing artifacts are reused", file=sys.stderr)
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
    """The newest state files, from which Ray Tune resumes; none if one of them is missing."""
    files = list_files(folder)
    # Each run writes its own, with its time in their names.
    newest = [max((file for file in files if file.startswith(start)), default="") for start in STATE_FILES]
    return [f"{folder}/{file}" for file in newest] if all(newest) else []


def _unreadable(files: list[str]) -> str:
    """Which of the files cannot be read, and why; '' if all can. Ray Tune does not write them atomically, so a killed
    process may leave an incomplete file. It also pickles names of this code, which may have changed."""
    for file in files:
        try:
            (json if "/experiment_state-" in file else pickle).loads(read_file(file))
        except (ValueError, EOFError, pickle.UnpicklingError, AttributeError, ImportError) as error:
            return f"cannot read '{file}' ({one_line(error)})"
    return ""


class _ProcessState:
    """State of this process, which is not part of Ray Tune's state."""

    def __init__(self, progress: Progress, limit: ConcurrencyLimit, claims: Any):
        self._progress, self._limit, self._claims, self._sent = progress, limit, claims, 0
        self._reported = len(ray.get(claims.builds.remote(0)))  # an earlier run has reported its builds
        self._next = 0.0
        self.ended = 0

    def report(self, ended: int) -> None:
        """`ended`: trials that have ended."""
        self.ended = ended
        self._progress.update(ended)

    def report_builds(self) -> None:
        """Reports the builds that began since the last call: hours may pass between the ends of two trials."""
        builds = ray.get(self._claims.builds.remote(self._reported))
        for build in builds:
            self._progress.say(f"trial {build.trial} builds {build.artifact}")
        self._reported, self._next = self._reported + len(builds), time.monotonic() + POLL_SECONDS

    def poll(self) -> None:
        if time.monotonic() > self._next:
            self.report_builds()

    def limit(self) -> int:
        """How many trials may run at once. A change is also sent to the trials that wait."""
        if (limit := self._limit()) != self._sent:
            self._sent = limit
            self._claims.allow.remote(limit)
        return limit


_state: _ProcessState | None = None


class InTurn(BasicVariantGenerator):
    """Starts the next trial when the cluster has room for it now.

    When a sweep resumes, Ray Tune would use the limit of the earlier run, and it starts all trials at once that were
    running or had failed: these wait in `enter` of the claims.
    """

    def next_trial(self) -> Any:
        assert _state
        self.max_concurrent = _state.limit()
        return super().next_trial()


class _Asha(ray.tune.schedulers.ASHAScheduler):
    """Also counts the reports of an earlier run, which Ray Tune's own scheduler does not have when a sweep resumes."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        if trial.is_finished() and "pretrained" in trial.last_result:
            self.on_trial_complete(tune_controller, trial, {**trial.last_result, "stage": 1})


def scheduler(config: SweepConfig) -> Any:
    if config.scheduler == "fifo":
        return None
    # The accuracy after pre-training decides. The report after fine-tuning repeats it.
    return _Asha(
        time_attr="stage",
        metric="pretrained",
        mode="max",
        max_t=len(STAGES),
        grace_period=1,
        reduction_factor=REDUCTION_FACTOR,
    )


def _trial_name(one: Any) -> str:
    return f"trial_{one.config['trial']['number']:05d}"


class _Reporting(ray.tune.Callback):
    """Reports progress and builds to the terminal, and tells Ray Tune which trials to retry."""

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        trial.max_failures = LOSSES  # losses of its process, for example with its node

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if FAILED in result:
            trial.max_failures = 0

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        assert _state
        _state.poll()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._report(trials, trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._report(trials, trial)

    def _report(self, trials: list[Any], trial: Any) -> None:
        assert _state
        _state.report(sum(one.is_finished() or one is trial for one in trials))
