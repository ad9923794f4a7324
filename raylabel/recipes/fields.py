"""What of the fields of a recipe can be checked by themselves."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from raylabel.errors import InputError
from raylabel.features.thumbnails import SIDE, has_thumbnails

if TYPE_CHECKING:
    from raylabel.recipes.recipe import Recipe

NAME = re.compile(r"[A-Za-z0-9_.-]+")


def check_fields(recipe: Recipe) -> None:
    """InputError if a field of a recipe is invalid, or does not go with another one."""
    for name in ("labeled", "unlabeled", "test", "view", "pretrain", "finetune"):
        getattr(recipe, name).check(name)
    if recipe.teacher.view:
        recipe.teacher.view.check("teacher.view")
    if recipe.teacher.train:
        recipe.teacher.train.check("teacher.train")
    if recipe.validation:
        recipe.validation.check("validation")
    if not 0 <= recipe.holdout < 1:
        raise InputError(f"holdout is {recipe.holdout}: give a share of the labeled set from 0 to 1, 1 excluded")
    for name in recipe.against:
        if not NAME.fullmatch(name) or name in recipe.own_corpora:
            raise InputError(
                f"against has a set '{name}': give a name of letters, digits, '_', '.' and '-', other than "
                f"{', '.join(recipe.own_corpora)}"
            )
    _check_comparisons(recipe)
    if recipe.validation and recipe.holdout:
        raise InputError(f"validation is given and holdout is {recipe.holdout}: keep one")
    if recipe.finetune.init.weights:
        raise InputError(
            f"finetune.init.weights is '{recipe.finetune.init.weights}', but fine-tuning starts from the pre-trained "
            "student: give it as pretrain.init.weights"
        )
    if recipe.teacher.features and recipe.unlabeled.kind == "video":
        raise InputError(
            "teacher.features is set, but the scores of a video are a mean over its clips, which are not those of "
            "its feature: unset it"
        )
    recipe.control.check("control", recipe.view)
    picked, batch = round(recipe.finetune_picks * recipe.finetune.batch), recipe.finetune.batch
    if recipe.finetune_picks not in (0, 1) and not 0 < picked < batch:
        raise InputError(
            f"finetune_picks is {recipe.finetune_picks}, so {picked} of the {batch} {recipe.view.inputs} of a batch "
            "would be picks: give a share with which a batch has some of both, or 0 or 1"
        )
    if recipe.rounds and not recipe.taught:
        raise InputError(f"rounds is {recipe.rounds}, but no teacher labels the corpus: leave it out")
    _check_tags(recipe)
    _check_soft(recipe)
    if recipe.select.precision is not None and not recipe.audited:
        raise InputError(
            f"select.precision is {recipe.select.precision}, but no labeled samples are held out that tell the "
            "precision: give --holdout 0.2, a share of the labeled set, or --validation.uri, without --no-audit"
        )
    labeled, batch = round(recipe.mixed * recipe.pretrain.batch), recipe.pretrain.batch
    if recipe.mixed and not 0 < labeled < batch:
        raise InputError(
            f"mixed is {recipe.mixed}, so {labeled} of the {batch} {recipe.view.inputs} of a batch would be labeled: "
            "give a share with which a batch has some of both, or 0 for no such training"
        )


def _check_comparisons(recipe: Recipe) -> None:
    """InputError if what is compared with what is not possible."""
    if not 0 < recipe.near <= 1:
        raise InputError(f"near is {recipe.near}: give a similarity above 0 and up to 1")
    if recipe.copies not in ("bytes", "near"):
        raise InputError(f"copies is '{recipe.copies}': choose 'bytes' or 'near'")
    compares = {"copies is 'near'": recipe.copies == "near", "against is given": bool(recipe.against)}
    for what in (name for name, given in compares.items() if given):
        if not has_thumbnails(recipe.compared_view.tested_size):
            raise InputError(
                f"{what}, but the view has {recipe.compared_view.tested_size} pixels: near-duplicates are found in "
                f"views of at least {SIDE}"
            )
        if recipe.source:
            raise InputError(f"{what}, but a source labels the corpus: leave it out, or give no source")
        if recipe.leaks == "skip":
            raise InputError(f"{what}, but leaks is 'skip': choose 'remove', 'report' or 'error'")
    if recipe.leaks == "skip" and not recipe.labeler == "tags":
        raise InputError(
            "leaks is 'skip', which saves reading a corpus that tags label: choose 'report', since this one is "
            "read by its teacher"
        )


def _check_tags(recipe: Recipe) -> None:
    if recipe.labeler not in ("teacher", "tags"):
        raise InputError(f"labeler is '{recipe.labeler}': choose 'teacher' or 'tags'")
    needs = {"labeler": recipe.labeler, "select.counts": recipe.select.counts}
    for name in (name for name, value in needs.items() if value == "tags" and not recipe.tags.column):
        raise InputError(f"{name} is 'tags', but there are none: say where they are, such as --tags.column tags")
    if not recipe.taught and recipe.tags.filter:
        raise InputError("tags.filter is set, but no teacher scores the corpus: leave it out")
    if recipe.labeler == "teacher" or recipe.source:
        return
    if recipe.select.rank != "random":
        raise InputError(
            f"labeler is 'tags', which have no order, but select.rank is '{recipe.select.rank}': give --select.rank "
            "random"
        )
    if recipe.select.minimum is not None:
        raise InputError(f"labeler is 'tags', which have no scores, but select.minimum is {recipe.select.minimum}")


def _check_soft(recipe: Recipe) -> None:
    """InputError if a training has soft targets whose samples have no probabilities of the teacher."""
    on_labels = {"teacher.train": recipe.teacher.train, "control.train": recipe.control.train}
    on_labels |= {} if recipe.finetune_picks else {"finetune": recipe.finetune}
    for name, config in on_labels.items():
        if config and config.soft:
            raise InputError(f"{name}.soft is {config.soft}, but it is not trained on picks: unset it")
    if recipe.soft and not recipe.taught:
        raise InputError("pretrain.soft or finetune.soft is set, but no teacher labels the corpus: unset it")
