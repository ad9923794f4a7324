"""The space of a sweep as a person writes it, and the settings of its trials."""

import collections

import numpy as np
import pytest

from raylabel.errors import InputError
from raylabel.recipes import registry as recipes
from raylabel.sweep.space import apply, draw, grid, parse


def test_a_grid_is_every_combination_and_changes_only_its_fields():
    recipe = recipes.digits()
    found = grid(parse(["select.k=[20, 40]", "--finetune.schedule.lr=[1, 0.5]", "student.arch=[resnet8x2]"], recipe))
    assert found == [
        {"select.k": k, "finetune.schedule.lr": lr, "student.arch": "resnet8x2"} for k in (20, 40) for lr in (1.0, 0.5)
    ]
    assert all(type(one["finetune.schedule.lr"]) is float for one in found)  # 1 and 1.0 are one digest
    changed = apply(recipe, found[0])
    assert (changed.select.k, changed.finetune.schedule.lr, changed.student.arch) == (20, 1.0, "resnet8x2")
    back = {"select.k": 100, "finetune.schedule.lr": recipe.finetune.schedule.lr, "student.arch": "resnet8x1"}
    assert apply(changed, back) == recipe


def test_draws_are_those_of_the_seed_and_spread_over_the_whole_range():
    space = ["finetune.schedule.lr=log_uniform(1e-4,1e-2)", "select.k=choice(10,20,30)", "select.rank=[softmax,logits]"]
    axes = parse(space, recipes.digits())
    drawn = draw(axes, 3000, seed=1)
    assert drawn == draw(axes, 3000, seed=1) != draw(axes, 3000, seed=2)
    lr = np.log10([one["finetune.schedule.lr"] for one in drawn])
    assert -4 <= lr.min() and lr.max() <= -2
    assert abs(np.mean(lr < -3) - 0.5) < 0.05  # uniform in the logarithm: half below the geometric middle
    counts = collections.Counter(one["select.k"] for one in drawn)
    assert counts.keys() == {10, 20, 30} and min(counts.values()) > 800


@pytest.mark.parametrize(
    "texts, message",
    [
        ([], "no --space"),
        (["select.q=[1]"], "--space select.q: no such field: 'select' has k, p"),
        (["finetune.lr=[0.1]"], "--space finetune.lr: no such field: 'finetune' has images, schedule"),
        (["nothing=[1]"], "--space nothing: no such field: a recipe has name"),
        (["select.k.x=[1]"], "--space select.k.x: 'select.k' has no fields"),
        (["teacher.view.size=[8]"], "'teacher.view' has no fields here, it is None"),
        (["select=[1]"], "--space select: it has fields of its own, name one: select.k"),
        (["select.k"], "no '='"),
        (["select.k=(1,2)"], "--space select.k: '(1,2)' is none of the forms"),
        (["select.k=[1"], "--space select.k: cannot read '[1'"),
        (["select.k=[]"], "--space select.k: '[]' has no value"),
        (["select.k=[1, 1]"], "--space select.k: 1 is there twice"),
        (["select.k=[1.5]"], "--space select.k: 1.5 is of the wrong kind, expected int"),
        (["select.k=[True]"], "--space select.k: True is of the wrong kind"),
        (["select.rank=[best]"], "--space select.rank: 'best' is of the wrong kind, expected 'softmax' or 'logits'"),
        (["select.k=[print(1)]"], "--space select.k: 'print(1)' is no number or word"),
        (["select.k=log_uniform(1,10)"], "--space select.k: 'log_uniform(1,10)'"),
        (["finetune.schedule.lr=log_uniform(1,0.1)"], "0 < low < high"),
        (["finetune.schedule.lr=log_uniform(0.1)"], "0 < low < high"),
        (["view.mean=[1]"], "--space view.mean: it is no single number or word"),
        (["resources.workers=[1]"], "--space resources.workers: it changes no result"),
        (["pretrain.checkpoint_every=[1]"], "it changes no result"),
        (["unlabeled.uri=[a]"], "'unlabeled' is the same for all trials"),
        (["select.k=[1]", "select.k=[2]"], "--space select.k is given twice"),
    ],
)
def test_a_space_that_cannot_be_is_an_error_that_names_the_field(texts, message):
    with pytest.raises(InputError) as error:
        parse(texts, recipes.digits())
    assert message in str(error.value)


def test_a_value_that_the_recipe_refuses_is_an_error_that_names_the_field():
    axes = parse(["select.k=[0]"], recipes.digits())
    with pytest.raises(InputError, match="--space select.k: select.k is 0"):
        apply(recipes.digits(), grid(axes)[0])
    with pytest.raises(InputError, match="finetune.schedule.lr is to be drawn: say how many"):
        grid(parse(["finetune.schedule.lr=log_uniform(0.1,1)"], recipes.digits()))
