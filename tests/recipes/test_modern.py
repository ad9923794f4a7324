"""The modern variant of a recipe: torchvision's values, and nothing else of the recipe changes."""

from dataclasses import fields, replace

import pytest

from raylabel.recipes import Schedule, modern
from raylabel.recipes.recipe import Recipe
from raylabel.recipes.registry import NAMED, make, returning, takes_data
from raylabel.training.config import Train
from raylabel.training.schedule import lr_at

CHANGED = {"name", "view", "teacher", "pretrain", "finetune"}


@pytest.mark.parametrize("name", returning(Recipe))
def test_every_recipe_has_a_modern_variant_that_keeps_the_rest(name: str):
    recipe = make(NAMED[name], "DIR" if takes_data(NAMED[name]) else "")
    found = modern(recipe)
    assert all(getattr(found, f.name) == getattr(recipe, f.name) for f in fields(recipe) if f.name not in CHANGED)
    assert (found.teacher.model, found.teacher.checkpoint) == (recipe.teacher.model, recipe.teacher.checkpoint)
    for before, after in ((recipe.pretrain, found.pretrain), (recipe.finetune, found.finetune)):
        assert (after.images, after.batch, after.precision) == (before.images, before.batch, before.precision)
        assert (after.mixup, after.cutmix, after.label_smoothing, after.decay_norms) == (0.2, 1.0, 0.1, False)
    assert found.control_train == replace(found.pretrain, images=recipe.control_train.images)
    assert (found.view.augment, found.view.erase) == ("trivial", 0.1)
    assert found.view.tested_size == recipe.view.size
    if recipe.teacher.given:
        assert found.teacher_view == recipe.teacher_view


def test_the_values_are_those_of_torchvision():
    """600 epochs of ImageNet at a batch of 1,024: `--lr 0.5 --lr-warmup-epochs 5 --lr-warmup-decay 0.01 --wd 2e-5`."""
    recipe = make(NAMED["imagenet-yfcc-resnet50"], "DIR")
    images = 600 * 1_281_167
    long = Train(images=images, batch=1024, schedule=Schedule(lr=1.0))
    found = modern(replace(recipe, pretrain=long))
    rates = [lr_at(found.pretrain.schedule, image, images) for image in (0, 5 * 1_281_167, images - 1)]
    assert rates == pytest.approx([0.005, 0.5, 0.0], abs=1e-6) and found.pretrain.weight_decay == 2e-5
    # torchvision: every 32 steps with a decay of 1 - 2e-5 * 1024 * 32 / 600.
    assert found.pretrain.ema**32 == pytest.approx(1 - 2e-5 * 1024 * 32 / 600, abs=1e-6)
    assert (found.view.size, found.view.eval_size, found.view.resize) == (176, 224, 232)
    assert found.finetune.schedule.lr == recipe.finetune.schedule.lr and found.finetune.schedule.warmup == 0
