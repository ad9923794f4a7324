"""The seconds that `jobs/plan.py` predicts, divided by those of the run; the ratio must be within 20% of 1.

    python tests/bench/bench_plan.py --data DIR     # DIR: the folder of CIFAR-10; about 7 minutes on 4 cores
    python tests/bench/bench_plan.py --quick        # the embedded digits instead

- cifar10: the built-in recipe with trainings of a tenth of their length, so that it takes minutes.
- label: ResNet-18 over JPEG photographs of about 500 x 375.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from figures import print_ratio, print_value
from photographs import PHOTOGRAPHS, ROWS
from photographs import build as build_photographs
from processes import connect, in_fresh_process
from safetensors.torch import save_file

from raylabel.corpus import Corpus
from raylabel.labels.teacher import TrainedNetwork
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.pipelines.inputs import prepare
from raylabel.pipelines.semi_supervised import Run
from raylabel.plan.estimate import plan
from raylabel.recipes import registry as recipes
from raylabel.recipes.recipe import Recipe, Teacher
from raylabel.report.run import write_report
from raylabel.selection.config import Select
from raylabel.store.artifact import Root
from raylabel.training.config import Train
from raylabel.training.schedule import Schedule

SHOWN = ("teacher", "label", "pretrain", "control", "evaluate")  # the other stages take seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"))
    parser.add_argument("--images", type=int, default=8192, help="photographs to label")
    parser.add_argument("--quick", action="store_true", help="the embedded digits and few photographs")
    arguments = parser.parse_args()
    recipe = recipes.digits() if arguments.quick else tenth(recipes.cifar10(arguments.data))
    images = 512 if arguments.quick else arguments.images
    with tempfile.TemporaryDirectory(prefix="bench-plan-") as folder:
        predicted, measured, pilot = in_fresh_process(whole_run, f"{folder}/run", recipe)
        name = f"{recipe.name}: predicted over measured time"
        print_ratio("plan", name, "the run", [sum(predicted.values())], [sum(measured.values())])
        for stage in SHOWN:
            print_ratio("plan", f"{name}, {stage}", "the run", [predicted[stage]], [measured[stage]])
        print_value("plan", f"{recipe.name}: the pilot, start-up included", [pilot], "s")
        one, other = in_fresh_process(labeling, folder, images)
        print_ratio("plan", f"label, {images:,} photographs: predicted over measured time", "the run", [one], [other])


def tenth(recipe: Recipe) -> Recipe:
    """The recipe with trainings of a tenth of their length."""

    def shorter(config: Train) -> Train:
        return dataclasses.replace(config, images=config.images // 10)

    assert recipe.teacher.train is not None
    teacher = dataclasses.replace(recipe.teacher, train=shorter(recipe.teacher.train))
    pretrain, finetune = shorter(recipe.pretrain), shorter(recipe.finetune)
    return dataclasses.replace(recipe, teacher=teacher, pretrain=pretrain, finetune=finetune)


def whole_run(root: str, recipe: Recipe) -> tuple[dict[str, float], dict[str, float], float]:
    """Predicted and measured seconds of each stage, and the seconds of the pilot."""
    connect()
    planned = plan(Root.open(root), recipe)
    _, summary = write_report(Run(Root.open(root), recipe))
    predicted = {work.stage: work.seconds for work in planned.stages}
    return predicted, {stage.name: stage.seconds for stage in summary.stages}, planned.pilot_seconds


def labeling(folder: str, images: int) -> tuple[float, float]:
    """Predicted and measured seconds of a label stage; no other stage of its recipe is run."""
    connect()
    root, recipe = Root.open(f"{folder}/label"), photographs(folder, images)
    (predicted,) = (work.seconds for work in plan(root, recipe).stages if work.stage == "label")
    start = prepare(root, recipe)
    assert start.teacher is not None
    shards, corpus = start.shards["unlabeled"], start.corpora["unlabeled"]
    scores = TrainedNetwork(
        network=start.teacher, view=recipe.view, config=recipe.label, resources=recipe.resources
    ).label(root, corpus, shards)
    return predicted, scores.info["seconds"]


def photographs(folder: str, images: int) -> Recipe:
    """A recipe whose teacher is a ResNet-18 with random weights; the rest is as small as possible."""
    made = build_photographs(f"{folder}/photographs", images)
    labeled = f"{folder}/labeled.parquet"
    media = made.read(8 * len(PHOTOGRAPHS))
    pq.write_table(pa.table({"image": media, "label": np.arange(len(media)) % len(PHOTOGRAPHS)}), labeled)
    torch.manual_seed(0)
    checkpoint = f"{folder}/teacher.safetensors"
    save_file(build(Model(arch="resnet18"), len(PHOTOGRAPHS)).state_dict(), checkpoint)
    short = Train(images=1024, batch=32, schedule=Schedule(lr=0.1))
    return Recipe(
        name="photographs",
        labeled=Corpus(uri=(labeled,)),
        unlabeled=Corpus(uri=tuple(made.shards(images // ROWS))),
        test=Corpus(uri=(labeled,)),
        view=View(),
        teacher=Teacher(model=Model(arch="resnet18"), checkpoint=checkpoint),
        select=Select(k=100, p=2),
        student=Model(arch="resnet8x1"),
        pretrain=short,
        finetune=short,
    )


if __name__ == "__main__":
    main()
