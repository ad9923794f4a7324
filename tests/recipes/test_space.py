"""The space of a sweep as a user writes it, and the settings of its trials."""

import collections

import numpy as np
import pytest

from raylabel.errors import InputError
from raylabel.recipes import registry as recipes
from raylabel.recipes.space import apply, draw, grid, parse
from raylabel.sweep.config import SHARED


def test_grid_has_every_combination_and_changes_only_its_fields():
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


def test_draws_depend_on_the_seed_and_cover_the_whole_range():
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
        ([], "space is empty"),
        (["select.q=[1]"], "space: select.q is not a field: 'select' has k, p"),
        (["finetune.lr=[0.1]"], "space: finetune.lr is not a field: 'finetune' has images, schedule"),
        (["nothing=[1]"], "space: nothing is not a field: there are name"),
        (["select.k.x=[1]"], "space: select.k.x: 'select.k' is 100 and has no fields"),
        (["teacher.view.size=[8]"], "'teacher.view' is None and has no fields"),
        (["select=[1]"], "space: select has fields of its own: give one of select.k"),
        (["select.k"], "no '='"),
        (["select.k=(1,2)"], "space: select.k: '(1,2)' is not a list, choice or log_uniform"),
        (["select.k=[1"], "space: select.k: cannot parse '[1'"),
        (["select.k=[]"], "space: select.k: '[]' has no values"),
        (["select.k=[1, 1]"], "space: select.k: 1 is given twice"),
        (["select.k=[1.5]"], "space: select.k: 1.5 has the wrong type: expected int"),
        (["select.k=[True]"], "space: select.k: True has the wrong type"),
        (["select.rank=[best]"], "space: select.rank: 'best' has the wrong type: expected 'softmax' or 'logits'"),
        (["select.k=[print(1)]"], "space: select.k: 'print(1)' is not a number or word"),
        (["select.k=log_uniform(1,10)"], "space: select.k: 'log_uniform(1,10)'"),
        (["finetune.schedule.lr=log_uniform(1,0.1)"], "0 < low < high"),
        (["finetune.schedule.lr=log_uniform(0.1)"], "0 < low < high"),
        (["view.mean=[1]"], "space: view.mean is not a single number or word"),
        (["resources.workers=[1]"], "space: resources.workers does not change results"),
        (["pretrain.checkpoint_minutes=[1.0]"], "does not change results"),
        (["unlabeled.uri=[a]"], "'unlabeled' is the same for all trials"),
        (["control.train.images=[8]"], "'control' is the same for all trials"),
        (["select.k=[1]", "select.k=[2]"], "space: select.k is given twice"),
    ],
)
def test_invalid_space_is_an_error_that_names_the_field(texts, message):
    with pytest.raises(InputError) as error:
        parse(texts, recipes.digits(), SHARED)
    assert message in str(error.value)


def test_value_that_the_recipe_rejects_is_an_error_that_names_the_field():
    axes = parse(["select.k=[0]"], recipes.digits())
    with pytest.raises(InputError, match="space: select.k: select.k is 0"):
        apply(recipes.digits(), grid(axes)[0])
    with pytest.raises(InputError, match="finetune.schedule.lr is drawn at random: set samples"):
        grid(parse(["finetune.schedule.lr=log_uniform(0.1,1)"], recipes.digits()))
