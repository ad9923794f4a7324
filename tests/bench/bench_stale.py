"""What a gradient is worth that is used for several steps (question 4 of the post on arbitrary labels): `digits`, three
paired seeds.

    python tests/bench/bench_stale.py
    python tests/bench/bench_stale.py --quick       # one seed

For m of 2 to 16: m steps with each gradient; against one step of m times the rate, and one step of the rate, with as
many gradients; and against a gradient for each step, which takes m times as many. The seconds of a training, of one
worker in a group of its own, say what equal time would be. Without momentum the first two are the same but for
rounding, which training makes larger. 1,397 digits, 400 to test on. Rates and lengths were fixed before any result was
seen.
"""

import tempfile
from dataclasses import replace

from figures import print_paired, print_value
from processes import accuracy_arguments, connect

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.evaluate.results import TOP1, require
from raylabel.experiments.random_labels import write_random_labels
from raylabel.pipelines.random_labels import RandomLabelsRun
from raylabel.recipes.memorized import random_digits
from raylabel.recipes.random_labels import LabeledSet, RandomPretraining
from raylabel.store.artifact import Root
from raylabel.training.config import Train
from raylabel.training.schedule import Schedule

IMAGES, RATE = 5_600, {0.0: 0.05, 0.9: 0.005}
"""Images that gradients are computed of, and the rate by the momentum."""


def main() -> None:
    arguments = accuracy_arguments(__doc__)
    with tempfile.TemporaryDirectory(prefix="bench-stale-") as folder:
        connect()
        root = Root.open(arguments.root or f"{folder}/root")
        for momentum in RATE:
            measure(root, momentum, arguments.workers, (0,) if arguments.quick else (0, 1, 2))


def measure(root: Root, momentum: float, workers: int, seeds: tuple[int, ...]) -> None:
    name = f"momentum {momentum:g}"
    plain = trained(root, name, "a gradient for each step", momentum, seeds, workers)
    for m in (2, 4, 8, 16):
        arms = {
            f"{m} steps with each gradient": {"m": m},
            f"{m} times the rate": {"rate": m},
            f"{m} times as many gradients": {"length": m},
        }
        found = {arm: trained(root, name, arm, momentum, seeds, workers, **more) for arm, more in arms.items()}
        if len(seeds) > 1:
            stale, *others = found.values()
            for arm, values in zip([*list(arms)[1:], "as many gradients"], [*others, plain], strict=True):
                print_paired(name, f"{m} steps with each gradient minus {arm}, top-1", stale, values)


def trained(
    root: Root,
    name: str,
    arm: str,
    momentum: float,
    seeds: tuple[int, ...],
    workers: int,
    m: int = 1,
    rate: int = 1,
    length: int = 1,
) -> list[float]:
    """Top-1 in percent of each seed, printed."""
    train = Train(
        images=IMAGES * length,
        batch=20,
        schedule=Schedule(lr=RATE[momentum] * rate, warmup=0.0, drops=0),
        momentum=momentum,
        weight_decay=0.0,
        steps_per_gradient=m,
    )
    tops, seconds = list[float](), list[float]()
    for seed in seeds:
        run = RandomLabelsRun(root, replace(recipe(train, workers), seed=seed))
        write_random_labels(run)
        tops.append(100 * require(run.outcomes[0].metrics, metric=TOP1, split="test").value)
        seconds.append(run.outcomes[0].network.info["seconds"])
    print_value(name, f"{arm}: top-1", tops, "%")
    print_value(name, f"{arm}: time of the training", seconds, "s")
    return tops


def recipe(train: Train, workers: int) -> RandomPretraining:
    """Training without pre-training, on all digits."""
    both = ("digits-0-4", "digits-5-9")
    labeled, test = (Corpus(uri=tuple(f"embedded://{half}/{part}" for half in both)) for part in ("test", "labeled"))
    digits = LabeledSet(name="digits", labeled=labeled, test=test)
    return replace(
        random_digits(),
        name="stale",
        first=digits,
        second=digits,
        reverse=False,
        labels=("none",),
        finetune=train,
        holdout=0.0,
        resources=Resources(workers=workers),
    )


if __name__ == "__main__":
    main()
