"""The passes of the audit that a plan counts, until they are done."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from helpers import random_model
from scoring import scored_in_this_process

from raylabel.compute.resources import Cluster, Resources
from raylabel.corpus import Shards
from raylabel.models import Model
from raylabel.models.trained import WEIGHTS
from raylabel.pipelines.inputs import prepare
from raylabel.pipelines.semi_supervised import Run
from raylabel.plan.done import Done
from raylabel.plan.passes import Passes
from raylabel.plan.report import Work
from raylabel.plan.traffic import CorpusSize
from raylabel.recipes.recipe import Recipe, Teacher
from raylabel.recipes.registry import digits
from raylabel.store.artifact import Root

MEASURED: Any = SimpleNamespace(
    teacher=SimpleNamespace(start=2.0, slots_per_second=10.0, memory=7, device_memory=None, bytes_per_row=100.0)
)


def passes(root: Root, recipe: Recipe) -> Passes:
    start = prepare(root, recipe)
    shards = {name: Shards(one) for name, one in start.shards.items()}
    sizes = {name: CorpusSize.of(one) for name, one in shards.items()}
    return Passes(recipe, start, Done(root, recipe, start), MEASURED, Cluster.now(), shards, sizes)


def test_the_scores_of_the_held_out_samples_are_counted_until_they_exist(ray_local, tmp_path: Path):
    root = Root.open(str(tmp_path / "root"))
    weights = tmp_path / "teacher.safetensors"
    weights.write_bytes(random_model(root).read(WEIGHTS))
    teacher = Teacher(model=Model(arch="resnet8x1"), checkpoint=str(weights), unchecked=True)
    recipe = replace(digits(), teacher=teacher, holdout=0.4, resources=Resources(teachers=1))
    work = passes(root, recipe).audit()
    # The whole labeled set passes the network, of which the held-out samples are a part, in padded batches.
    assert (work.stage, work.images, work.seconds) == ("audit", 50, 2 + recipe.label.batch / 10)
    assert work.memory == 7 and work.traffic.reads > 0
    assert passes(root, replace(recipe, audit=False)).audit() == Work.nothing("audit")
    assert passes(root, replace(recipe, holdout=0.0)).audit() == Work.nothing("audit")
    with scored_in_this_process(tmp_path):
        assert Run(root, recipe, prepare(root, recipe)).held
    assert passes(root, recipe).audit() == Work.nothing("audit")
