"""A sweep: runs the trials in Ray Tune, ranks them, and tests the best one.

The best trial is chosen on the validation split. The test set is used once, for the student of the chosen trial.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray
import ray.tune

from raylabel.errors import InputError, find_input_error
from raylabel.evaluate.results import STUDENT, TOP1, require
from raylabel.labels.holdout import hold_out
from raylabel.pipelines.existing import MissingError, ReadOnlyRoot, find_existing
from raylabel.pipelines.inputs import prepare
from raylabel.recipes.checks import check_classes, check_recipe
from raylabel.recipes.recipe import Recipe
from raylabel.recipes.space import Settings, apply
from raylabel.report.run import write_report
from raylabel.store.artifact import Artifact, Root, digest, identity_of, write_recipe
from raylabel.store.files import write_file
from raylabel.store.names import SWEEP_PAGE, SWEEP_SUMMARY
from raylabel.sweep.claims import Ledger, make_claims
from raylabel.sweep.config import SHARED, STAGES, SweepConfig
from raylabel.sweep.page import write_sweep_page
from raylabel.sweep.result import Sweep, Trial, ranked
from raylabel.sweep.soup import check_soup, make_soup
from raylabel.sweep.trial import TrialTask
from raylabel.sweep.tune import ConcurrencyLimit, run_trials
from raylabel.text import slug
from raylabel.training.digests import read_digests


def sweep(
    root: Root,
    recipe: Recipe,
    config: SweepConfig,
    arguments: Sequence[str] = (),
    programs: tuple[str, str] = Sweep.programs,
) -> tuple[Sweep, str]:
    """Runs the trials that are not finished yet. Returns (the results of all trials, the folder of sweep.json,
    sweep.html and Ray Tune's logs). `arguments` name the recipe on a command line, and `programs` are the commands for
    a sweep and a run, for the page.

    The name of the folder has a digest of the recipe, the trials and the data. So the same command resumes the sweep,
    and no finished trial runs again. Trials share all artifacts that they have in common, with each other and with any
    run in this root.
    InputError: input that the user can fix, or all trials failed.
    """
    trials = config.trials(recipe, recipe.seed, SHARED)
    recipe = replace(recipe, retry_rejects=False)
    if config.soup:
        check_soup(trials)
    for settings in trials:  # an invalid trial is reported before any trial runs
        check_recipe(apply(recipe, settings))
    start = prepare(root, recipe)
    for settings in trials:
        check_classes(apply(recipe, settings), len(start.classes))
    digests = read_digests(root, start.labels, start.shards["labeled"], start.corpora["labeled"])
    rest, held = hold_out(root, start.labels, start.groups["labeled"], digests, config.validation, recipe.seed)
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
    root.begins(name)
    write_recipe(folder, name.rpartition("-")[0], identity)
    limit = ConcurrencyLimit(recipe, trials)
    claims = make_claims(folder, limit())
    task = TrialTask(root=root.uri, recipe=recipe, start=start, held=held, claims=claims)
    _find_existing(root, task, trials)
    results = run_trials(root, name, trials, ray.put(task), claims, config, limit)
    ledger: Ledger = ray.get(claims.get.remote())
    ray.kill(claims)
    seconds = _seconds(root, ledger)
    found = ranked(
        [_result_of(number, settings, results.get(number), ledger, seconds) for number, settings in enumerate(trials)]
    )
    if found[0].state != "finished":
        raise InputError(_none_finished(found))
    best = task.recipe_of(found[0].settings)
    run, summary = write_report(task.run_of(root, best))
    test = require(summary.metrics, model=STUDENT, metric=TOP1, split="test")
    found_all = Sweep(
        name=recipe.name,
        trials=found,
        n=held.info["samples"],
        images=sum({name: images for uses in ledger.uses.values() for name, images in uses.items()}.values()),
        test=test,
        run=run.uri,
        soup=make_soup(root, task, found) if config.soup else None,
        config=identity_of(config),
        arguments=tuple(arguments),
        programs=programs,
    )
    write_file(f"{folder}/{SWEEP_SUMMARY}", json.dumps(found_all.to_dict(), indent=2, ensure_ascii=False).encode())
    write_file(f"{folder}/{SWEEP_PAGE}", write_sweep_page(found_all, folder).encode())
    return found_all, folder


def _find_existing(root: Root, task: TrialTask, trials: Sequence[Settings]) -> None:
    """Finds the artifacts of all trials that exist, so that the record of the root has them from the start; what a
    trial builds is in the ledger."""
    existing = ReadOnlyRoot(root.uri, root)
    for settings in trials:
        with suppress(MissingError, InputError):  # the trial itself raises it
            of_trial = task.run_of(existing, task.recipe_of(settings))
            find_existing(of_trial)
            for network in (of_trial.pretrained, of_trial.student):
                of_trial.score(network, of_trial.recipe.view, "labeled")


def _none_finished(trials: Sequence[Trial]) -> str:
    if len({trial.error for trial in trials}) == 1:
        return f"all {len(trials)} trials failed: {trials[0].error}"
    return f"none of {len(trials)} trials finished; trial {trials[0].number}: {trials[0].error}"


def _seconds(root: Root, ledger: Ledger) -> dict[str, float]:
    """Artifact → seconds of its build, for all artifacts that a trial used."""
    names = sorted({name for uses in ledger.uses.values() for name in uses})
    artifacts = [Artifact(f"{root.uri}/{name}", *name.rsplit("-", 1)) for name in names]
    with ThreadPoolExecutor(16) as pool:  # small files: reading them is mostly waiting
        return dict(zip(names, pool.map(lambda artifact: artifact.info["seconds"], artifacts), strict=True))


def _result_of(
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
    # An artifact was built by the last trial that began to build it.
    builder = {build.artifact: build.trial for build in ledger.builds}
    built = tuple(sorted(name for name in uses if builder.get(name) == number))
    message = str(find_input_error(error) or error).strip().splitlines()[-1] if error else ""
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
        images=sum(uses[name] for name in built),
        seconds=round(sum(seconds[name] for name in built), 3),
        alone=sum(uses.values()),
        error=message,
    )
