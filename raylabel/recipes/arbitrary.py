"""Named recipes of arbitrary labels. Each docstring gives the command, hardware, time and result, or "not yet run"."""

from dataclasses import replace

from raylabel import datasets
from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.recipes.arbitrary_labels import ArbitraryLabels
from raylabel.recipes.memorized import CIFAR10, DIGITS
from raylabel.training.config import Train
from raylabel.training.media import Materialize
from raylabel.training.schedule import Schedule

ADAM = Schedule(lr=1e-4, warmup=0.0, drops=0)
"""As in the post."""


def arbitrary_digits() -> ArbitraryLabels:
    """1,397 of scikit-learn's digits, embedded: one epoch on arbitrary labels, then the head on true ones.

    `raylabel arbitrary-labels`, on 2 CPU cores (AMD EPYC) in 4 min 06 s; see docs/random-labels.md. The rate is ten
    times that of the post, whose epoch has 14 times as many pictures.
    """
    train = Train(
        images=1_397,
        batch=16,
        optimizer="adam",
        schedule=replace(ADAM, lr=1e-3),
        weight_decay=0.0,
    )
    halves = ("digits-0-4", "digits-5-9")
    return ArbitraryLabels(
        name="arbitrary-digits",
        arms=("arbitrary", "calibrated", "frozen"),  # the others with --arms
        labeled=Corpus(uri=tuple(f"embedded://{half}/test" for half in halves)),
        test=Corpus(uri=tuple(f"embedded://{half}/labeled" for half in halves)),
        model=Model(arch="conv2", size=8),
        view=DIGITS,
        train=train,
        teacher=train,
        materialize=Materialize(lanes=8),
        resources=Resources(workers=1),
    )


def arbitrary_cifar10(data: str) -> ArbitraryLabels:
    """4,000 pictures of CIFAR-10: one epoch on arbitrary labels, then the head on true ones.

    `raylabel arbitrary-labels arbitrary-cifar10 --data DIR`; `data` contains labeled-4k.parquet, test.parquet and
    classes.txt. The rate is that of the post; its batch is not in it.
    """
    classes = f"{data}/classes.txt"
    train = Train(images=4_000, batch=16, optimizer="adam", schedule=ADAM, weight_decay=0.0)
    return ArbitraryLabels(
        name="arbitrary-cifar10",
        labeled=Corpus(uri=(f"{data}/labeled-4k.parquet",), classes=classes),
        test=Corpus(uri=(f"{data}/test.parquet",), classes=classes),
        model=Model(arch="conv2", size=32),
        view=CIFAR10,
        train=train,
        teacher=train,
    )


def statefarm(data: str) -> ArbitraryLabels:
    """The post's own run on State Farm's drivers, split at random (99.1% after arbitrary labels, one run): not yet run.

    `raylabel arbitrary-labels statefarm --data DIR`, on a GPU; `data` contains driver_imgs_list.csv and imgs. The
    network has 3x3 pools and BatchNorm, which is our reading of the post; batch and pixels' scale are not in it. Frames
    of one video are in both parts.
    """
    train = Train(images=20_220, batch=64, optimizer="adam", schedule=ADAM, weight_decay=0.0)
    return ArbitraryLabels(
        name="statefarm",
        labeled=datasets.statefarm(data, "train", "random"),
        test=datasets.statefarm(data, "test", "random"),
        model=Model(arch="conv2_pool_norm", size=224),
        view=View(size=224, resize=224, squash=True, crop="center", flip=False),
        train=train,
        teacher=train,
    )


def statefarm_by_driver(data: str) -> ArbitraryLabels:
    """`statefarm` with no driver in both parts: not yet run.

    `raylabel arbitrary-labels statefarm-by-driver --data DIR`.
    """
    labeled, test = (datasets.statefarm(data, part, "driver") for part in ("train", "test"))
    return replace(statefarm(data), name="statefarm-by-driver", labeled=labeled, test=test)
