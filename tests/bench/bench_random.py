"""What pre-training on random, shuffled and true labels of one half gives the other: `cifar10` and `moving-digits`,
three paired seeds (Pondenkandath et al. 2018, tables 1 and 2).

    python tests/bench/bench_random.py --data DIR    # DIR: the folder with cifar10
    python tests/bench/bench_random.py --quick       # one seed and short trainings, one rate

The rate of fine-tuning is chosen among three for no pre-training, and among the same for each kind of labels, by the
accuracy on held-out samples with a seed that is not measured. The halves of `cifar10` are the first and second 1,000 of
its labeled pictures, tested on the 10,000 of its test set; those of `moving-digits` are 200 clips each, which move
straight or diagonally. Lengths and rates were fixed before any result was seen.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
from figures import print_paired, print_value
from processes import accuracy_arguments, connect

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.evaluate.results import CURVE_AREA, EARLY_TOP1, TOP1, require
from raylabel.experiments.random_labels import write_random_labels
from raylabel.models import Model
from raylabel.pipelines.random_labels import Outcome, RandomLabelsRun
from raylabel.recipes.memorized import CIFAR10, random_digits, random_moving_digits
from raylabel.recipes.random_labels import LabeledSet, Labels, RandomPretraining
from raylabel.store.artifact import Root

SETS = ("cifar10", "moving-digits")
KINDS: tuple[Labels, ...] = ("none", "random", "shuffled", "true")
RATES = (0.02, 0.05, 0.1)
CHOOSING = 100
"""The seed by which rates are chosen."""


def main() -> None:
    arguments = accuracy_arguments(__doc__, sets=SETS)
    with tempfile.TemporaryDirectory(prefix="bench-random-") as folder:
        connect()
        root = Root.open(arguments.root or f"{folder}/root")
        for name in arguments.sets:
            recipe = recipe_of(name, arguments.data, Path(arguments.root or folder), arguments.quick)
            measure(root, name, replace(recipe, resources=Resources(workers=arguments.workers)), arguments.quick)


def measure(root: Root, name: str, recipe: RandomPretraining, quick: bool) -> None:
    rates = dict.fromkeys(KINDS, RATES[1]) if quick else chosen(root, name, recipe)
    found: dict[str, dict[Labels, list[float]]] = {}
    for seed in (0,) if quick else (0, 1, 2):
        for kind in KINDS:
            one = outcome(root, replace(recipe, seed=seed), kind, rates[kind])
            for metric in (TOP1, EARLY_TOP1, CURVE_AREA):
                split = "test" if metric == TOP1 else "validation"
                value = 100 * require(one.metrics, metric=metric, split=split).value
                found.setdefault(metric, {}).setdefault(kind, []).append(value)
            if one.learned:
                learned = 100 * one.learned.kept.accuracy
                found.setdefault("learned in pre-training", {}).setdefault(kind, []).append(learned)
    for metric, kinds in found.items():
        for kind, values in kinds.items():
            print_value(name, f"{kind} at {rates[kind]:g}: {metric}", values, "%")
    if not quick:
        for metric in (TOP1, EARLY_TOP1, CURVE_AREA):
            for kind in KINDS[1:]:
                print_paired(name, f"{kind} minus none, {metric}", found[metric][kind], found[metric]["none"])


def chosen(root: Root, name: str, recipe: RandomPretraining) -> dict[Labels, float]:
    """The rate of each kind of labels: the one with the highest mean accuracy in the second half of fine-tuning."""
    best: dict[Labels, float] = {}
    for kind in KINDS:
        accuracy: dict[float, float] = {}
        for rate in RATES:
            curve = outcome(root, replace(recipe, seed=CHOOSING), kind, rate).curve
            assert curve
            last = curve.points[len(curve.points) // 2 :]
            accuracy[rate] = sum(point.accuracy for point in last) / len(last)
            print_value(name, f"choosing, {kind} at {rate:g}: held-out accuracy", [100 * accuracy[rate]], "%")
        best[kind] = max(accuracy, key=accuracy.__getitem__)
    return best


def outcome(root: Root, recipe: RandomPretraining, kind: Labels, rate: float) -> Outcome:
    schedule = replace(recipe.finetune.schedule, lr=rate)
    recipe = replace(recipe, labels=(kind,), finetune=replace(recipe.finetune, schedule=schedule))
    run = RandomLabelsRun(root, recipe)
    write_random_labels(run)
    (found,) = run.outcomes
    return found


def recipe_of(name: str, data: str, folder: Path, quick: bool) -> RandomPretraining:
    recipe = replace(random_moving_digits() if name == "moving-digits" else random_digits(), reverse=False, holdout=0.2)
    pretrain, finetune = recipe.pretrain, recipe.finetune
    pretrain = replace(pretrain, validate=replace(pretrain.validate, points=30))
    if name == "cifar10":
        source, classes, sets = f"{data}/cifar10", f"{data}/cifar10/classes.txt", list[LabeledSet]()
        labeled = pq.read_table(f"{source}/labeled-4k.parquet").slice(0, 2_000)
        folder.mkdir(parents=True, exist_ok=True)
        for half in (0, 1):
            path = folder / f"half-{half}.parquet"
            pq.write_table(labeled.slice(1_000 * half, 1_000), path)
            corpora = [Corpus(uri=(uri,), classes=classes) for uri in (str(path), f"{source}/test.parquet")]
            sets.append(LabeledSet(name=f"half {half + 1}", labeled=corpora[0], test=corpora[1]))
        recipe = replace(recipe, first=sets[0], second=sets[1], model=Model(arch="resnet8x1"), view=CIFAR10)
        pretrain = replace(pretrain, images=50_000, batch=50)
        finetune = replace(finetune, images=30_000, batch=50)
    if quick:
        pretrain, finetune = (replace(config, images=config.images // 10) for config in (pretrain, finetune))
    return replace(recipe, name=f"{name}-halves", pretrain=pretrain, finetune=finetune)


if __name__ == "__main__":
    main()
