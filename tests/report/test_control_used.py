"""The report says in words how the control was trained."""

from dataclasses import replace

import pytest

from raylabel.recipes import Control, Recipe, Schedule, digits, modern
from raylabel.report.control import control_used


def own(recipe: Recipe) -> Recipe:
    train = replace(recipe.control_train, images=640, schedule=Schedule(lr=0.5, warmup=0.1, drops=1, factor=0.1))
    return replace(recipe, control=Control(train=train))


@pytest.mark.parametrize(
    ("recipe", "description"),
    [
        (digits(), "trained as the student: 44,032 images, learning rate 0.05 (13 drops by 0.5), random crops"),
        (
            modern(digits()),
            "trained as the student: 44,032 images, learning rate 0.03125 (cosine), random crops, TrivialAugment, "
            "erasing 0.1, mixup 0.2, CutMix 1",
        ),
        (own(digits()), "with a training of its own: 640 images, learning rate 0.5 (1 drop by 0.1), random crops"),
        (
            replace(digits(), control=Control(view=replace(digits().view, flip=True))),
            "with a training of its own: 44,032 images, learning rate 0.05 (13 drops by 0.5), random crops, mirroring",
        ),
    ],
)
def test_the_control_is_described(recipe: Recipe, description: str):
    assert control_used(recipe).description == description
    assert control_used(recipe).images == recipe.control_train.processed


def test_a_control_that_is_given_as_the_student_is_described_as_the_student():
    recipe = digits()
    train = replace(recipe.control_train, checkpoint_minutes=1.0)  # not part of a result
    given = replace(recipe, control=Control(train=train, view=recipe.view))
    assert control_used(given) == control_used(recipe)
