"""The control is trained as the student, where its recipe does not say otherwise, and tested as the student always."""

from dataclasses import replace
from typing import Any

import pytest

from raylabel.compute.resources import Cluster, Node
from raylabel.errors import InputError
from raylabel.media.view import Clip
from raylabel.recipes import Control, Recipe, Schedule, cifar10, digits, modern, moving_digits
from raylabel.recipes.checks import check_recipe
from raylabel.store.artifact import identity_of


def with_control(recipe: Recipe, train: dict[str, Any] | None = None, view: dict[str, Any] | None = None) -> Recipe:
    """The recipe with a control that differs in some fields of its training and of its view."""
    return replace(
        recipe,
        control=Control(
            train=None if train is None else replace(recipe.control_train, **train),
            view=None if view is None else replace(recipe.view, **view),
        ),
    )


@pytest.mark.parametrize("recipe", [digits(), modern(digits()), modern(cifar10("DIR")), moving_digits()])
def test_a_control_that_is_not_given_is_trained_as_the_student(recipe: Recipe):
    assert recipe.control == Control() and "control" not in identity_of(recipe)
    images = recipe.pretrain.processed + recipe.finetune.processed
    assert recipe.control_train == replace(recipe.pretrain, images=images)
    assert recipe.control_view == recipe.view


def test_a_control_has_its_own_training_and_view_and_the_recipe_another_identity():
    recipe = with_control(
        digits(), {"images": 640, "schedule": Schedule(lr=0.5, decay="cosine")}, {"augment": "trivial"}
    )
    assert (recipe.control_train.images, recipe.control_train.schedule.lr) == (640, 0.5)
    assert recipe.control_view == replace(recipe.view, augment="trivial") and recipe.view.augment == "none"
    changed = identity_of(recipe)
    control = changed.pop("control")
    assert changed == identity_of(digits())
    assert (control["train"]["images"], control["view"]["augment"]) == (640, "trivial")


def test_the_modern_variant_changes_a_given_control_too():
    recipe = modern(with_control(digits(), {"images": 640}, {"flip": True}))
    assert (recipe.control_train.images, recipe.control_train.mixup, recipe.control_train.cutmix) == (640, 0.2, 1.0)
    assert (recipe.control_view.flip, recipe.control_view.augment) == (True, "trivial")


def test_training_examples_fit_the_control():
    assert with_control(digits(), view={"max_jpeg_pixels": 60_000_000}).max_jpeg_pixels == 60_000_000


@pytest.mark.parametrize(
    ("train", "view", "message"),
    [
        ({"batch": 1}, None, "^control.train.batch is 1"),
        ({"schedule": Schedule(lr=0)}, None, "^control.train.schedule.lr is 0"),
        (None, {"erase": 2.0}, "^control.view.erase is 2"),
        (None, {"size": 12, "resize": 12}, "evaluation at 12 pixels.*at 8: set control.view.eval_size to 8$"),
        (None, {"resize": 9}, "^control.view.resize is not that of view"),
        (None, {"mean": (0.0, 0.0, 0.0)}, "^control.view.mean is not that of view"),
        (None, {"interpolation": "bicubic"}, "^control.view.interpolation is not that of view"),
        (None, {"clip": Clip(), "crop": "random_resized"}, "^control.view.clip is not that of view"),
    ],
)
def test_an_error_names_the_field_of_the_control(train: Any, view: Any, message: str):
    with pytest.raises(InputError, match=message):
        with_control(digits(), train, view)


def test_a_control_may_be_trained_at_another_size():
    recipe = with_control(digits(), view={"size": 12, "eval_size": 8})
    assert recipe.control_view.size == 12
    assert recipe.control_view.evaluation_identity == recipe.view.evaluation_identity


def test_batchnorm_over_all_workers_needs_gpus_in_the_control_too(monkeypatch: pytest.MonkeyPatch):
    recipe = with_control(digits(), {"sync_batchnorm": True})
    monkeypatch.setattr(Cluster, "now", lambda: Cluster((Node(4),)))
    with pytest.raises(InputError, match="^control.train.sync_batchnorm is set"):
        check_recipe(recipe)
    monkeypatch.setattr(Cluster, "now", lambda: Cluster((Node(4, 1),)))
    check_recipe(recipe)


def test_the_student_of_a_mixture_is_trained_as_in_pre_training_and_as_long_as_the_fine_tuned_one():
    recipe = replace(digits(), mixed=0.25)
    assert recipe.mixed_train == digits().control_train
    assert identity_of(recipe) == identity_of(digits()) | {"mixed": 0.25}


@pytest.mark.parametrize(("share", "labeled"), [(-0.1, -6), (0.001, 0), (0.995, 64), (1.0, 64), (2.0, 128)])
def test_each_batch_of_a_mixture_has_some_of_both(share: float, labeled: int):
    assert digits().pretrain.batch == 64
    with pytest.raises(
        InputError, match=f"^mixed is {share}, so {labeled} of the 64 images of a batch would be labeled"
    ):
        replace(digits(), mixed=share)
