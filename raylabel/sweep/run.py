"""The sweep: trials in Ray Tune, then the table of them, and the test of the best.

The validation split chooses, never the test set: that is asked once, about the chosen trial's student.
"""

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends a sweep as it ends any other job
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the old one can be silenced

import ray
import ray.tune
import ray.tune.schedulers

from raylabel.artifact import Artifact, Root, digest, identity_of
from raylabel.errors import InputError, find_input_error
from raylabel.labels.validation import hold_out
from raylabel.pipeline import prepare, semi_supervised
from raylabel.recipe import Recipe, check_classes, check_recipe
from raylabel.report.run import slug
from raylabel.report.sweep import Sweep, Trial, ranked
from raylabel.report.sweep_page import write_sweep_page
from raylabel.report.terminal import Progress
from raylabel.resources import Cluster
from raylabel.storage import filesystem, list_files, write_file
from raylabel.sweep.claims import Ledger, make_claims
from raylabel.sweep.config import SweepConfig
from raylabel.sweep.soup import check_soup, make_soup
from raylabel.sweep.space import Settings, apply, draw, grid, parse
from raylabel.sweep.trial import STAGES, Job, trial

SUMMARY, PAGE = "sweep.json", "sweep.html"
TUNE = "tune"  # Ray Tune's folder: what else stood there it would put back as it was when the sweep was resumed
SHARE = 3  # of so many pre-trained students ASHA has one fine-tuned
SHELL = 0.01  # CPUs of a trial's actor in Ray Tune, which waits for the work that others do


def sweep(root: Root, recipe: Recipe, config: SweepConfig, arguments: Sequence[str] = ()) -> tuple[Sweep, str]:
    """Runs the trials that do not stand yet; (what they found, the folder of sweep.json, sweep.html and Ray Tune's
    logs). `arguments` name the recipe on a command line, for the page.

    The folder is named by what the sweep is of: the same command again goes on with it, and runs no finished trial
    again. Trials share every artifact that they have in common, with each other and with any run in this root.
    InputError for input that a person can mend, or if all trials fail.
    """
    axes = parse(config.space, recipe)
    trials = draw(axes, config.samples, recipe.seed) if config.samples else grid(axes)
    recipe = replace(recipe, retry_rejects=False)
    if config.soup:
        check_soup(trials)
    for settings in trials:  # known now, not after the trials before it
        check_recipe(apply(recipe, settings))
    start = prepare(root, recipe)
    for settings in trials:
        check_classes(apply(recipe, settings), len(start.classes))
    rest, held = hold_out(root, start.labels, start.groups["labeled"], config.validation, recipe.seed)
    start = replace(start, labels=rest)
    identity = {
        "recipe": identity_of(recipe),
        "trials": trials,
        "scheduler": config.scheduler,
        "validation": held.digest,
        "shards": {name: shards.info["content"] for name, shards in start.shards.items()},
    }
    name = f"sweep-{slug(recipe.name)}-{digest(identity)}"
    folder = f"{root.uri}/{name}"
    claims = make_claims(folder)
    job = Job(root=root.uri, recipe=recipe, start=start, held=held, claims=claims)
    results = _tune(root, name, trials, job, config, _concurrent(recipe, trials))
    ledger: Ledger = ray.get(claims.get.remote())
    ray.kill(claims)
    seconds = _seconds(root, ledger)
    found = ranked(
        [_told(number, settings, results.get(number), ledger, seconds) for number, settings in enumerate(trials)]
    )
    if found[0].state != "finished":
        raise InputError(f"not one of {len(trials)} trials finished; trial {found[0].number}: {found[0].error}")
    best = job.of(found[0].settings)
    run, summary = semi_supervised(root, best, job.rests_on(root, best))
    (test,) = (one for one in summary.accuracies if one.model == "student (fine-tuned)")
    told = Sweep(
        name=recipe.name,
        trials=found,
        n=held.info["samples"],
        images=sum({place: images for uses in ledger.uses.values() for place, images in uses.items()}.values()),
        test=test.top1,
        test_low=test.top1_low,
        test_high=test.top1_high,
        test_n=test.n,
        run=run.uri,
        soup=make_soup(root, job, found) if config.soup else None,
        config=identity_of(config),
        arguments=tuple(arguments),
    )
    write_file(f"{folder}/{SUMMARY}", json.dumps(told.to_dict(), indent=2, ensure_ascii=False).encode())
    write_file(f"{folder}/{PAGE}", write_sweep_page(told, folder).encode())
    return told, folder


def _concurrent(recipe: Recipe, trials: list[Settings]) -> int:
    """How many trials find room for their training workers at once: with more, each could hold what another needs."""
    cluster = Cluster.now()
    recipes = [apply(recipe, settings) for settings in trials]
    configs = [config for one in recipes for config in (one.teacher.train, one.pretrain, one.finetune) if config]
    workers = max(cluster.workers(recipe.resources, one.batch) for one in configs)
    return max(1, (cluster.gpus or cluster.cpus) // workers)


def _tune(
    root: Root, name: str, trials: list[Settings], job: Job, config: SweepConfig, concurrent: int
) -> dict[int, ray.tune.Result]:
    """The last result of each trial, by its number. Goes on with what stands of the sweep."""
    global _line
    fs, path = filesystem(root.uri)
    runnable = ray.tune.with_resources(ray.tune.with_parameters(trial, job=job), {"CPU": SHELL})
    files = [file for file in list_files(f"{root.uri}/{name}/{TUNE}") if "/" not in file]
    # Without a state it was killed before the first trial was noted down.
    if "tuner.pkl" in files and any(file.startswith("experiment_state") for file in files):
        tuner = ray.tune.Tuner.restore(f"{path}/{name}/{TUNE}", runnable, resume_errored=True, storage_filesystem=fs)
    else:
        numbered = [{"number": number, "settings": settings} for number, settings in enumerate(trials)]
        tuner = ray.tune.Tuner(
            runnable,
            param_space={"trial": ray.tune.grid_search(numbered)},
            tune_config=ray.tune.TuneConfig(
                scheduler=_scheduler(config),
                max_concurrent_trials=concurrent,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=ray.tune.RunConfig(
                name=TUNE, storage_path=f"{path}/{name}", storage_filesystem=fs, verbose=0, callbacks=[_Telling()]
            ),
        )
    with Progress("sweep", len(trials), "trials") as _line:
        results = tuner.fit()
        _line.update(len(results))  # those of an earlier run too
    _line = None
    return {int(result.path.rpartition("_")[2]): result for result in results}


def _scheduler(config: SweepConfig) -> Any:
    if config.scheduler == "fifo":
        return None
    return ray.tune.schedulers.ASHAScheduler(
        time_attr="stage", metric="accuracy", mode="max", max_t=len(STAGES), grace_period=1, reduction_factor=SHARE
    )


def _trial_name(one: Any) -> str:
    return f"trial_{one.config['trial']['number']:05d}"


_line: Progress | None = None


class _Telling(ray.tune.Callback):
    """Tells the terminal how far the sweep is. Ray Tune keeps it in a file, so the line is not part of it."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(trials, trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(trials, trial)

    def _tell(self, trials: list[Any], trial: Any) -> None:
        if _line:
            _line.update(sum(one.is_finished() or one is trial for one in trials))


def _seconds(root: Root, ledger: Ledger) -> dict[str, float]:
    """What the build of each artifact took that a trial used."""
    places = sorted({place for uses in ledger.uses.values() for place in uses})
    artifacts = [Artifact(f"{root.uri}/{place}", *place.rsplit("-", 1)) for place in places]
    with ThreadPoolExecutor(16) as pool:  # small files: their time is waiting
        return dict(zip(places, pool.map(lambda artifact: artifact.info["seconds"], artifacts), strict=True))


def _told(
    number: int,
    settings: Settings,
    result: ray.tune.Result | None,
    ledger: Ledger,
    seconds: Mapping[str, float],
) -> Trial:
    metrics: Mapping[str, Any] = result.metrics or {} if result else {}
    error = result.error if result else None
    stage = metrics.get("stage", 0)
    uses = ledger.uses.get(number, {})
    # The last who began to build an artifact that stands has built it.
    builder = {build.artifact: build.trial for build in ledger.builds}
    built = tuple(sorted(place for place in uses if builder.get(place) == number))
    words = str(find_input_error(error) or error).strip().splitlines()[-1] if error else ""
    return Trial(
        number=number,
        settings=settings,
        state="failed" if error or not stage else "finished" if stage == len(STAGES) else "stopped",
        accuracy=metrics.get("accuracy"),
        low=metrics.get("low"),
        high=metrics.get("high"),
        built=built,
        reused=tuple(sorted(uses.keys() - set(built))),
        picks=metrics.get("picks"),
        images=sum(uses[place] for place in built),
        seconds=round(sum(seconds[place] for place in built), 3),
        alone=sum(uses.values()),
        error=words,
    )
