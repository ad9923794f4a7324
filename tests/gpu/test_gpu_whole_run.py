"""A sweep of two trials on one GPU: labeling, training and evaluation take turns on it, as the stages of a run do."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from on_gpu import GPU, MARKS
from sweeps import no_placement_group_is_left, short

from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.weights import save_weights
from raylabel.recipes.recipe import Teacher
from raylabel.store.artifact import Artifact, Root
from raylabel.sweep.config import SweepConfig
from raylabel.sweep.run import sweep

pytestmark = [*MARKS, pytest.mark.timeout(300 if GPU else 1500)]

TEACHER = Model(arch="resnet8x2")


def test_a_sweep_of_two_trials_on_one_gpu(
    tmp_path: Path, released: Callable[[], None], compiled: Callable[[], set[str]]
):
    """The teacher is given, so that nothing but the two trials trains. They share the pre-training."""
    torch.manual_seed(0)
    path = tmp_path / "teacher.safetensors"
    path.write_bytes(save_weights(build(TEACHER, 10)))
    recipe = short(640)
    recipe = replace(
        recipe,
        teacher=Teacher(model=TEACHER, checkpoint=str(path), unchecked=True),
        select=replace(recipe.select, p=10),
    )
    before = compiled()
    root = Root.open(str(tmp_path / "root"))
    result, _ = sweep(root, recipe, SweepConfig(space=("finetune.schedule.lr=[0.005,0.01]",)))
    assert [trial.state for trial in result.trials] == ["finished"] * 2 and result.test.n == 500
    assert result.trials[0].picks == result.trials[1].picks
    released()
    no_placement_group_is_left()
    made = [Artifact(f"{root.uri}/{path.name}", *path.name.rsplit("-", 1)) for path in Path(root.uri).glob("*-*")]
    trained = [one for one in made if one.name in ("pretrained", "student", "control")]
    scored = [one for one in made if one.name == "scores"]
    assert len(trained) == 4 and len(scored) == 2 + 3 + 3  # by the teacher; on the validation split; on the test set
    for one in trained:
        assert one.info["workers"] == 1 or not GPU
        assert one.identity["train"]["precision"] == "bf16" or not GPU
    if GPU:
        assert {one.info["hardware"].partition(", ")[2] for one in (*trained, *scored)} == {"1 GPUs"}
        # The teacher and the students are compiled once each; the other test passes load what is there.
        assert 1 <= len(compiled() - before) <= 2
