"""What regularisation does to memorizing random labels, and to what they give another set: halves of `digits`, three
paired seeds.

    python tests/bench/bench_regularised.py
    python tests/bench/bench_regularised.py --quick       # one seed

Each arm regularises the training on random labels of five digits, which is then fine-tuned on five others without it,
except for the crops, which fine-tuning has too; the gain is that over no pre-training with the same fine-tuning. The
settings are those of `random-digits`, with a constant rate in pre-training; not chosen by a result.
"""

import tempfile
from dataclasses import replace

from figures import print_paired, print_value
from processes import accuracy_arguments, connect

from raylabel.compute.resources import Resources
from raylabel.evaluate.results import EARLY_TOP1, TOP1, require
from raylabel.experiments.random_labels import write_random_labels
from raylabel.pipelines.random_labels import RandomLabelsRun
from raylabel.recipes.memorized import random_digits
from raylabel.store.artifact import Root
from raylabel.training.schedule import Schedule

ARMS: dict[str, dict] = {
    "none": {},
    "weight decay 5e-4": {"weight_decay": 5e-4},
    "weight decay 5e-3": {"weight_decay": 5e-3},
    "dropout 0.5": {"dropout": 0.5},
    "label noise 0.2": {"label_noise": 0.2},
    "label noise 0.5": {"label_noise": 0.5},
    "crops": {},
}


def main() -> None:
    arguments = accuracy_arguments(__doc__)
    with tempfile.TemporaryDirectory(prefix="bench-regularised-") as folder:
        connect()
        root, seeds = Root.open(arguments.root or f"{folder}/root"), (0,) if arguments.quick else (0, 1, 2)
        gains = {arm: measure(root, arm, arguments.workers, seeds) for arm in ARMS}
        for arm, found in gains.items():
            if arm != "none" and len(seeds) > 1:
                print_paired(arm, "gain of random labels minus that without regularisation", found, gains["none"])


def measure(root: Root, arm: str, workers: int, seeds: tuple[int, ...]) -> list[float]:
    """The gain of random labels over no pre-training with each seed, in points."""
    recipe = random_digits()
    view = replace(recipe.view, crop="padded", padding=1) if arm == "crops" else recipe.view
    schedule = Schedule(lr=recipe.pretrain.schedule.lr, warmup=0.0, drops=0)
    pretrain = replace(recipe.pretrain, schedule=schedule, **ARMS[arm])
    recipe = replace(
        recipe,
        name=f"regularised-{arm}",
        labels=("none", "random"),
        view=view,
        pretrain=pretrain,
        resources=Resources(workers=workers),
    )
    learned, gains, early = list[float](), list[float](), list[float]()
    epochs: dict[float, list[float]] = {target: [] for target in pretrain.validate.targets}
    for seed in seeds:
        run = RandomLabelsRun(root, replace(recipe, seed=seed))
        write_random_labels(run)
        none, random = run.outcomes
        assert random.learned and random.gain
        learned.append(100 * random.learned.kept.accuracy)
        length = pretrain.processed / random.learned.samples
        for target, images in random.learned.reached.items():
            epochs[target].append(images / random.learned.samples if images else length)
        gains.append(100 * random.gain.value)
        both = [require(one.metrics, metric=EARLY_TOP1, split="validation").value for one in (random, none)]
        early.append(100 * (both[0] - both[1]))
    print_value(arm, "learned in pre-training", learned, "%")
    for target, values in epochs.items():
        print_value(arm, f"epochs to {100 * target:g}%, or all", values, "epochs")
    print_value(arm, f"gain over none, {TOP1}", gains, "points")
    print_value(arm, f"gain over none, {EARLY_TOP1}", early, "points")
    return gains


if __name__ == "__main__":
    main()
