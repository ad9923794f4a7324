"""The control that a gain is over, in numbers and in words."""

from dataclasses import dataclass, replace

from raylabel.media.view import View
from raylabel.recipes.control import Control
from raylabel.recipes.recipe import Recipe
from raylabel.store.artifact import identity_of
from raylabel.training.config import Train
from raylabel.training.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class ControlUsed:
    """The control of a run."""

    description: str
    """How it was trained, in words: as the student or not, its length, schedule and augmentation."""
    images: int
    """Images that it was trained on, each pass counted; of videos: clips."""


def control_used(recipe: Recipe) -> ControlUsed:
    """The control of a recipe."""
    train, view = recipe.control_train, recipe.control_view
    as_student = replace(recipe, control=Control())
    same = identity_of((train, view)) == identity_of((as_student.control_train, as_student.control_view))
    how = "trained as the student" if same else "with a training of its own"
    return ControlUsed(description=f"{how}: {describe_training(train, view)}", images=train.processed)


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
