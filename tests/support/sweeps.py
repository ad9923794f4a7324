"""Synthetic sweeps of any size, for the tests of their page, and short recipes for real ones."""

import itertools
import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import ray._private.state
import ray.exceptions
import ray.util

from raylabel.evaluate.classify import wilson
from raylabel.evaluate.results import Metric
from raylabel.recipes import registry as recipes
from raylabel.recipes.recipe import Recipe
from raylabel.sweep.result import Soup, State, Sweep, Trial, ranked
from raylabel.training.config import Train

GRID = {"select.k": [20, 40, 80, 160, 320], "select.p": [1, 3, 10], "finetune.schedule.lr": [0.005, 0.01, 0.02]}


def grid(fields: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(fields, values, strict=True)) for values in itertools.product(*fields.values())]


def drawn(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Random settings of several types: numbers, strings and booleans."""
    rng = np.random.default_rng(seed)
    return [
        {
            "select.k": int(rng.choice([184, 368, 736, 1472, 16000])),
            "select.p": int(rng.choice([1, 3, 10])),
            "finetune.schedule.lr": float(f"{10 ** rng.uniform(-4, -1):.6g}"),
            "pretrain.weight_decay": float(f"{rng.uniform(0, 1e-3):.6g}"),
            "student.arch": str(rng.choice(["resnet8x1", "resnet20x1", "resnext101_32x16d"])),
            "select.repeat_videos": bool(rng.integers(2)),
        }
        for _ in range(count)
    ]


def make(
    settings: list[dict[str, Any]],
    states: str = "f",
    text: str = "digits",
    soup: bool = False,
    seed: int = 0,
    n: int = 500,
) -> Sweep:
    """`states`: f(inished), s(topped), x (failed) or y (failed after pre-training), repeated over the trials. The first
    trial has to be finished."""
    rng = np.random.default_rng(seed)
    trials, names = [], {"f": "finished", "s": "stopped", "x": "failed", "y": "failed"}
    for number, (one, letter) in enumerate(zip(settings, itertools.cycle(states), strict=False)):
        state: State = names[letter]  # pyright: ignore[reportAssignmentType]
        k, p, lr = one.get("select.k", 100), one.get("select.p", 1), one.get("finetune.schedule.lr", 0.01)
        good = 0.9 - 0.04 * math.log10(k / 100) ** 2 - 0.05 * math.log10(lr / 0.01) ** 2 + rng.normal(0, 0.01)
        right = int(n * min(max(good - 0.1 * (letter in "sy"), 0), 1))
        low, high = wilson(right, n)
        measured = {} if letter == "x" else {"accuracy": right / n, "low": low, "high": high}
        picks = int(10 * k * min(1, 0.6 + 0.2 * math.log2(p + 1)))
        made = ("picks", "examples-picked", "pretrained", "scores", "student")
        built = tuple(f"{name}-{rng.integers(16**12):012x}" for name in made[: int(rng.integers(6))])
        images = int(rng.integers(10**6)) if built else 0
        trials.append(
            Trial(
                number=number, settings=one, state=state, built=built, reused=("teacher-0123456789ab", "scores-ba98"),
                picks=None if letter == "x" else picks, images=images, alone=images + 2_000_000,
                seconds=float(rng.integers(10**6)) / 1000, error=text if state == "failed" else "", **measured,
            )
        )  # fmt: skip
    low, high = wilson(int(0.912 * n), n)
    test = {"seed": seed, "dataset": text, "split": "test", "n": 10_000}
    mean = Soup(
        trials=(0, 7),
        left_out=(3,),
        artifact="soup-0123456789ab",
        validation=Metric(
            model="soup", seed=seed, dataset=text, split="validation",
            metric="top1", value=int(0.912 * n) / n, low=low, high=high, n=n,
        ),
        test=Metric(model="soup", **test, metric="top1", value=0.914, low=0.89, high=0.93),
        gain=Metric(model="soup", **test, metric="gain_top1", value=0.002, low=-0.011, high=0.0149),
    ) if soup else None  # fmt: skip
    return Sweep(
        name=text, trials=ranked(trials), n=n, images=sum(one.images for one in trials),
        test=Metric(model="student", **test, metric="top1", value=0.9123, low=0.8999, high=0.9234),
        run=f"/some/runs/run-{text}-0123456789ab", soup=mean,
        config={"space": ["select.k=[20,40]"], "samples": 0, "soup": soup}, arguments=(text, "--root", "/some/runs"),
    )  # fmt: skip


def short(images: int = 4_000) -> Recipe:
    recipe = recipes.digits()
    assert recipe.teacher.train
    return replace(
        recipe,
        teacher=replace(recipe.teacher, train=shorter(recipe.teacher.train, images)),
        pretrain=shorter(recipe.pretrain, images),
        finetune=shorter(recipe.finetune, images // 4),
    )


def no_placement_group_is_left() -> None:
    deadline = time.monotonic() + 30
    while left := [group for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def shorter(config: Train, images: int) -> Train:
    return replace(config, images=images)
