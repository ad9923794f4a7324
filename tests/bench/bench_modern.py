"""Gain over the stronger control: the recipe of CIFAR-10 as in the paper and with `modern`, over three paired seeds.

    python tests/bench/bench_modern.py --data DIR    # DIR: the folder of CIFAR-10; about two hours on 2 cores
    python tests/bench/bench_modern.py --quick       # one seed and short trainings

Each seed runs the whole pipeline twice, once with each recipe: teacher, student and control, all of them resnet14x1.
A control is trained on as many images as its student in pre-training and fine-tuning together. The stronger control is
the one with the higher mean over the seeds. The lengths were fixed before any result was seen. They are short, a
fifteenth of those of the recipe.
"""

import statistics
import tempfile
from dataclasses import replace

from figures import print_paired, print_value
from processes import accuracy_arguments, connect

from raylabel.compute.resources import Resources
from raylabel.evaluate.results import CONTROL, PRECISION, PRETRAINED, STUDENT, TEACHER, TOP1, require
from raylabel.models import Model
from raylabel.pipelines.semi_supervised import Run
from raylabel.recipes import registry as recipes
from raylabel.recipes.modern import modern
from raylabel.recipes.recipe import Recipe, Teacher
from raylabel.report.run import write_report
from raylabel.store.artifact import Root

MODELS = (TEACHER, CONTROL, PRETRAINED, STUDENT)


def main() -> None:
    arguments = accuracy_arguments(__doc__, "cifar10")
    with tempfile.TemporaryDirectory(prefix="bench-modern-") as folder:
        connect()
        measure(Root.open(arguments.root or folder), arguments.data, arguments.workers, arguments.quick)


def measure(root: Root, data: str, workers: int, quick: bool) -> None:
    tops: dict[tuple[str, str], list[float]] = {}  # recipe, model -> top-1 in percent, one for each seed
    for seed in (0,) if quick else (0, 1, 2):
        for name, variant in (("paper", lambda recipe: recipe), ("modern", modern)):
            found = write_report(Run(root, variant(short_cifar10(data, seed, workers, quick))))[1]
            for model in MODELS:
                top = 100 * require(found.metrics, metric=TOP1, model=model).value
                tops.setdefault((name, model), []).append(top)
                print_value("modern", f"seed {seed}, {name}: {model}, top-1", [top], "%")
            right = 100 * require(found.metrics, metric=PRECISION).value
            print_value("modern", f"seed {seed}, {name}: picks with their true label", [right], "%")
    for (name, model), values in tops.items():
        print_value("modern", f"{name}: {model}, top-1", values, "%")
    if not quick:
        stronger = max(("paper", "modern"), key=lambda name: statistics.mean(tops[name, CONTROL]))
        for name in ("paper", "modern"):
            print_paired("modern", f"{name}: student over its control", tops[name, STUDENT], tops[name, CONTROL])
            figure = f"{name}: student over the stronger control ({stronger})"
            print_paired("modern", figure, tops[name, STUDENT], tops[stronger, CONTROL])
        print_paired("modern", "modern control over paper control", tops["modern", CONTROL], tops["paper", CONTROL])


def short_cifar10(data: str, seed: int, workers: int, quick: bool) -> Recipe:
    recipe = recipes.cifar10(data)
    assert recipe.teacher.train is not None
    scale, model = 10 if quick else 1, Model(arch="resnet14x1")
    return replace(
        recipe,
        name="short-cifar10",
        teacher=Teacher(model=model, train=replace(recipe.teacher.train, images=80_000 // scale)),
        student=model,
        pretrain=replace(recipe.pretrain, images=90_000 // scale),
        finetune=replace(recipe.finetune, images=10_000 // scale),
        seed=seed,
        resources=Resources(workers=workers),
    )


if __name__ == "__main__":
    main()
