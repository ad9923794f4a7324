"""The trials that choose the control of a run, on a validation split of the labeled set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from raylabel.compute.progress import say
from raylabel.errors import DivergedError, InputError
from raylabel.evaluate.results import Metric
from raylabel.labels.holdout import hold_out
from raylabel.pipelines.leaks import labeled_digests
from raylabel.pipelines.metrics import validate
from raylabel.recipes.recipe import Recipe
from raylabel.recipes.space import Settings, describe_settings
from raylabel.store.artifact import Artifact

if TYPE_CHECKING:
    from raylabel.pipelines.semi_supervised import Run

TRIED = "control-trial"
"""The name of networks that are tried."""
TRAINING, VALIDATION = "training", "validation"  # the two parts of the labeled set


@dataclass(frozen=True, kw_only=True)
class ControlTrial:
    """A control that was tried."""

    settings: Settings
    recipe: Recipe
    """The recipe of the run with this control."""
    validation: Metric | None = None
    """Top-1 on the validation split; None if the training diverged."""
    error: str = ""
    """Why it diverged."""
    artifacts: tuple[Artifact, ...]
    """EXAMPLES, and if it did not diverge the network and its SCORES."""


@dataclass(frozen=True, kw_only=True)
class ControlSweep:
    """The controls that were tried."""

    trials: tuple[ControlTrial, ...]
    """In the order of the space."""
    samples: int
    """Samples of the validation split."""

    @property
    def best(self) -> ControlTrial:
        """The trial with the highest accuracy on the validation split, and of equal ones the first. InputError if all
        diverged."""
        found = [(trial, trial.validation.value) for trial in self.trials if trial.validation]
        if not found:
            failed = f"all {len(self.trials)} trials failed; trial 0: {self.trials[0].error}"
            raise InputError(f"control.sweep: {failed}")
        return max(found, key=lambda one: one[1])[0]

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        return tuple(artifact for trial in self.trials for artifact in trial.artifacts)


def split_labels(run: Run) -> dict[str, Artifact]:
    """PICKS of the labeled set without a validation split, and of the split."""
    labels, groups, sweep = run.start.labels, run.start.groups["labeled"], run.recipe.control.sweep
    name = "control.sweep.validation"
    found = hold_out(run.root, labels, groups, labeled_digests(run), sweep.validation, run.recipe.seed, name)
    return dict(zip((TRAINING, VALIDATION), found, strict=True))


def trial_runs(run: Run) -> Iterator[tuple[Settings, Run]]:
    """(settings, run with this control and without the validation split) of each trial."""
    for settings, recipe in run.recipe.control_trials:
        yield settings, type(run)(run.root, recipe, replace(run.start, labels=run.split[TRAINING]))


def try_controls(run: Run) -> ControlSweep:
    """Trains the control of each trial and tests it on the validation split, one after the other: each training uses
    the whole cluster, as any other training of a run."""
    trials, held, total = [], run.split[VALIDATION], len(run.recipe.control_trials)
    for settings, trial in trial_runs(run):
        say(f"control {len(trials) + 1} of {total} that are tried: {describe_settings(settings)}")
        examples, recipe = trial.labeled_examples, trial.recipe
        try:
            network = trial.train_control(TRIED, recipe)
        except DivergedError as error:
            trials.append(ControlTrial(settings=settings, recipe=recipe, error=str(error), artifacts=(examples,)))
            continue
        validation, scores = validate(trial, network, held), trial.score(network, recipe.view, "labeled")
        made = examples, network, scores
        trials.append(ControlTrial(settings=settings, recipe=recipe, validation=validation, artifacts=made))
    return ControlSweep(trials=tuple(trials), samples=held.info["samples"])
