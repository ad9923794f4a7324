"""The control that a gain is over, in numbers and in words."""

from dataclasses import dataclass, field, replace
from typing import Any

from raylabel.media.view import View
from raylabel.pipelines.control import ControlSweep, ControlTrial
from raylabel.recipes.control import Control
from raylabel.recipes.recipe import Recipe
from raylabel.recipes.space import describe_settings
from raylabel.store.artifact import identity_of
from raylabel.training.config import Train
from raylabel.training.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class TriedControl:
    """A control that was tried."""

    settings: dict[str, Any]
    """Field of the control → value."""
    images: int
    """Images that it was trained on, each pass counted; of videos: clips."""
    value: float | None
    """Top-1 on the validation split, a fraction; None if its training diverged."""
    low: float | None
    high: float | None
    """With `low`, the 95% Wilson interval of the accuracy."""
    n: int
    """Samples of the validation split."""
    error: str
    """Why its training diverged; empty if it did not."""

    @property
    def named(self) -> str:
        """Its settings: 'train.schedule.lr 0.1, view.augment trivial'."""
        return describe_settings(self.settings)


@dataclass(frozen=True, kw_only=True)
class ControlUsed:
    """The control of a run."""

    description: str
    """How it was chosen and trained, in words: as the student, or not; its length, schedule and augmentation."""
    images: int
    """Images that it was trained on, each pass counted; of videos: clips."""
    trials: list[TriedControl] = field(default_factory=list)
    """The controls that were tried, by validation accuracy; the first one is the control."""


def control_used(recipe: Recipe, sweep: ControlSweep | None = None) -> ControlUsed:
    """The control of a recipe; `sweep`: the controls that were tried for it."""
    if sweep:
        return _chosen(recipe, sweep)
    train, view = recipe.control_train, recipe.control_view
    as_student = replace(recipe, control=Control())
    same = identity_of((train, view)) == identity_of((as_student.control_train, as_student.control_view))
    how = "trained as the student" if same else "with a training of its own"
    return ControlUsed(description=f"{how}: {describe_training(train, view)}", images=train.processed)


def _chosen(recipe: Recipe, sweep: ControlSweep) -> ControlUsed:
    best, tried = sweep.best, len(sweep.trials)
    # The sort is stable: of equal trials, the first one was chosen.
    ordered = sorted(sweep.trials, key=lambda trial: -trial.validation.value if trial.validation else 1)
    rows, diverged = [_row(trial, sweep.samples) for trial in ordered], sum(bool(trial.error) for trial in ordered)
    without = f", {diverged} of which diverged," if diverged else ""
    share, train, view = recipe.control.sweep.validation, best.recipe.control_train, best.recipe.control_view
    how = f"the best of {tried} controls{without} on {100 * share:.3g}% of the labels ({rows[0].named})"
    return ControlUsed(
        description=f"{how}: {describe_training(train, view)}",
        images=train.processed,
        trials=rows,
    )


def _row(trial: ControlTrial, n: int) -> TriedControl:
    row = trial.validation
    return TriedControl(
        settings=trial.settings,
        images=trial.recipe.control_train.processed,
        value=row and row.value,
        low=row and row.low,
        high=row and row.high,
        n=n,
        error=trial.error,
    )


def describe_training(train: Train, view: View) -> str:
    """Length, schedule and augmentation of a training: '44,000 images, learning rate 0.05 (13 drops by 0.5), random
    crops'."""
    return f"{train.processed:,} {view.inputs}, learning rate {_describe(train.schedule)}, {_augmentation(train, view)}"


def _describe(schedule: Schedule) -> str:
    if schedule.decay != "steps":
        return f"{schedule.lr:g} ({schedule.decay})"
    drops = "drop" if schedule.drops == 1 else "drops"
    return f"{schedule.lr:g} ({f'{schedule.drops} {drops} by {schedule.factor:g}' if schedule.drops else 'constant'})"


def _augmentation(train: Train, view: View) -> str:
    used = {
        "random crops": True,
        "mirroring": view.flip,
        "TrivialAugment": view.augment == "trivial",
        f"erasing {view.erase:g}": view.erase,
        f"mixup {train.mixup:g}": train.mixup,
        f"CutMix {train.cutmix:g}": train.cutmix,
    }
    return ", ".join(name for name, is_used in used.items() if is_used)
