"""Named recipes of random labels: pre-training on them, and drawing them again."""

from dataclasses import replace

from raylabel import datasets
from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.corpus.config import Kind
from raylabel.labels.teacher import Label
from raylabel.media.view import Clip, View
from raylabel.models import Model
from raylabel.recipes.random_labels import LabeledSet, RandomPretraining
from raylabel.recipes.redrawing import Redrawing
from raylabel.recipes.videos import KINETICS, KINETICS_MEAN, KINETICS_STD
from raylabel.training.config import Train, Validate
from raylabel.training.media import Materialize
from raylabel.training.schedule import Schedule

# Without augmentation, the pixels of evaluation.
DIGITS = View(size=8, resize=8, crop="center", flip=False, mean=(0.3, 0.3, 0.3), std=(0.37, 0.37, 0.37))
CIFAR10 = View(
    size=32, resize=32, crop="center", flip=False, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)
)
MOVING_DIGITS = View(
    size=8,
    resize=8,
    crop="center",
    flip=False,
    mean=(0.2, 0.2, 0.2),
    std=(0.18, 0.18, 0.18),
    clip=Clip(frames=8, count=1),
)

UCF101 = 9_537  # training clips of split 1
SPORTS1M = 400_000  # clips that the paper takes of it, about 40%

MEMORIZED = Validate(on="labeled", targets=(0.95, 0.99))
"""The accuracy on what is learned."""


def random_digits() -> RandomPretraining:
    """Five of scikit-learn's digits, and the five others: what random and true labels of one half give the other.

    `raylabel random-labels`, on 2 CPU cores (AMD EPYC) in 3 min 47 s: top-1 of 696 digits is 3.7 points lower (95%
    interval 1.9 to 5.5) after random labels than without pre-training (one seed, 2026-12-01).
    """
    train = Train(
        images=20_000,
        batch=20,
        schedule=Schedule(lr=0.05, warmup=0.0, decay="plateau", factor=0.1, final_lr=0.0005),
        weight_decay=0.0,
        validate=MEMORIZED,
    )
    return RandomPretraining(
        name="random-digits",
        first=_embedded("digits-0-4"),
        second=_embedded("digits-5-9"),
        reverse=False,
        model=Model(arch="resnet8x1"),
        view=DIGITS,
        pretrain=train,
        finetune=replace(train, images=4_000, validate=Validate(on="validation")),
        holdout=0.5,
        materialize=Materialize(lanes=8),
        resources=Resources(workers=1),  # one core is enough for a batch of 20 tiny images
    )


def random_moving_digits() -> RandomPretraining:
    """Digits that move straight or diagonally, in frames of 8 x 8 pixels: what random and true labels of one half give
    the other.

    `raylabel random-labels random-moving-digits`, on 2 CPU cores (AMD EPYC) beside other work, 2026-12-01: 5 min 01 s.
    """
    recipe = random_digits()
    return replace(
        recipe,
        name="random-moving-digits",
        first=_embedded("moving-digits-straight", "video"),
        second=_embedded("moving-digits-diagonal", "video"),
        model=Model(arch="r2plus1d8x1"),
        view=MOVING_DIGITS,
        pretrain=replace(recipe.pretrain, images=6_000),
        finetune=replace(recipe.finetune, images=2_000),
        label=Label(batch=32),
    )


def random_cifar10(data: str) -> RandomPretraining:
    """1,000 pictures of CIFAR-10, and 100 of flowers: what random and true labels of the first give the second.

    `raylabel random-labels random-cifar10 --data DIR`, on 2 CPU cores (AMD EPYC) beside other work, 2026-12-01: 4 min
    22 s; random labels -11.8 points (-16.6 to -6.9), true ones +1.0 (-3.8 to +5.8). `data` contains cifar10 and
    flowers, each with classes.txt, test.parquet and labeled-4k.parquet or labeled-100.parquet. All pictures are scaled
    to 32 x 32 pixels.
    """
    recipe, cifar10, flowers = random_digits(), f"{data}/cifar10", f"{data}/flowers"
    first, second = (
        LabeledSet(
            name=name,
            labeled=Corpus(uri=(f"{folder}/{labeled}.parquet",), classes=f"{folder}/classes.txt", share=share),
            test=Corpus(uri=(f"{folder}/test.parquet",), classes=f"{folder}/classes.txt"),
        )
        for name, folder, labeled, share in (
            ("CIFAR-10", cifar10, "labeled-4k", 0.25),
            ("flowers", flowers, "labeled-100", 1.0),
        )
    )
    return replace(
        recipe,
        name="random-cifar10",
        first=first,
        second=second,
        view=CIFAR10,
        pretrain=replace(recipe.pretrain, images=50_000, batch=50),
        finetune=replace(recipe.finetune, images=5_000),
        holdout=0.25,
    )


def random_actions(data: str) -> RandomPretraining:
    """Moving digits, embedded, and 40 surveillance clips: what random and true labels of the first give the second.

    `raylabel random-labels random-actions --data DIR`, on 2 CPU cores: not yet run. `data` contains manifest.csv (file,
    split, label, group) and classes.txt, as for the recipe `actions`.
    """
    recipe = random_moving_digits()
    return replace(
        recipe,
        name="random-actions",
        first=_embedded("moving-digits", "video"),
        second=LabeledSet(
            name="actions", labeled=datasets.actions(data, "labeled"), test=datasets.actions(data, "test")
        ),
        view=replace(
            MOVING_DIGITS,
            size=16,
            resize=16,
            mean=KINETICS_MEAN,
            std=KINETICS_STD,
            clip=Clip(frames=8, stride=2, count=3),
        ),
        finetune=replace(recipe.finetune, images=1_000),
        holdout=0.25,
    )


def random_ucf101_hmdb51(data: str) -> RandomPretraining:
    """Table 1 of Pondenkandath et al. 2018 (UCF101 32.9 to 34.6%, HMDB51 17.4 to 18.2%): not yet run.

    `raylabel random-labels random-ucf101-hmdb51 --data DIR`, on GPUs; `data` contains the folders ucf101 and hmdb51.
    C3D, 200 epochs, a rate of 0.1 with a momentum of 0.9 and a plateau of 10 epochs are the paper's. Not in it: the
    number of random classes (here that of the set), batch, factor of the plateau, weight decay, how fine-tuning differs
    (here not at all, but for a tenth of the images), and which split. Lengths are for UCF101; in the other direction
    HMDB51, which is smaller, is passed 534 times.
    """
    ucf, hmdb = f"{data}/ucf101", f"{data}/hmdb51"
    view = View(
        size=112,
        resize=112,
        crop="center",
        flip=False,
        mean=KINETICS_MEAN,
        std=KINETICS_STD,
        clip=Clip(frames=16, count=10),
    )
    train = Train(
        images=200 * UCF101,
        batch=128,
        schedule=Schedule(lr=0.1, warmup=0.0, decay="plateau", patience=10, factor=0.1),
        weight_decay=0.0,
        validate=replace(MEMORIZED, points=200),
    )
    return RandomPretraining(
        name="random-ucf101-hmdb51",
        first=LabeledSet(name="UCF101", labeled=datasets.ucf101(ucf, "train"), test=datasets.ucf101(ucf, "test")),
        second=LabeledSet(name="HMDB51", labeled=datasets.hmdb51(hmdb, "train"), test=datasets.hmdb51(hmdb, "test")),
        model=Model(arch="c3d"),
        view=view,
        pretrain=train,
        finetune=replace(train, images=20 * UCF101, validate=Validate(on="validation")),
        holdout=0.1,
        label=Label(batch=8),
        materialize=Materialize(short_side=112),
        resources=Resources(workers=8),
    )


def random_sports1m_kinetics(data: str) -> RandomPretraining:
    """Table 2 of Pondenkandath et al. 2018 (Kinetics 35.0%, 40.2% after random and 69.8% after true labels of
    Sports-1M): not yet run.

    `raylabel random-labels random-sports1m-kinetics --data DIR`, on GPUs; `data` contains the folder kinetics, and
    sports1m with train.csv and test.csv (path and label of each clip) and classes.txt. 40% of Sports-1M are taken, as
    in the paper. For the rest see `random-ucf101-hmdb51`.
    """
    recipe, folder = random_ucf101_hmdb51(data), f"{data}/sports1m"
    sports = [
        Corpus(uri=(f"{folder}/{part}.csv",), kind="video", classes=f"{folder}/classes.txt", share=share)
        for part, share in (("train", 0.4), ("test", 1.0))
    ]
    kinetics = f"{data}/kinetics"
    return replace(
        recipe,
        name="random-sports1m-kinetics",
        first=LabeledSet(name="Sports-1M", labeled=sports[0], test=sports[1]),
        second=LabeledSet(
            name="Kinetics", labeled=datasets.kinetics(kinetics, "train"), test=datasets.kinetics(kinetics, "val")
        ),
        reverse=False,
        pretrain=replace(recipe.pretrain, images=200 * SPORTS1M),
        finetune=replace(recipe.finetune, images=20 * KINETICS),
        label=Label(batch=8, reject_limit=0.1),
        resources=Resources(workers=128),
    )


def redrawn_digits() -> Redrawing:
    """Random labels of 200 of scikit-learn's digits, embedded, drawn again twice.

    `raylabel redrawn-labels`, on 2 CPU cores (AMD EPYC) in 4 min 34 s (2026-12-01); see docs/random-labels.md.
    """
    return Redrawing(
        name="redrawn-digits",
        corpus=Corpus(uri=("embedded://digits-0-4/labeled",)),
        model=Model(arch="resnet8x1"),
        view=DIGITS,
        redraws=2,
        controlled=(1,),
        train=Train(
            images=8_000,
            batch=20,
            schedule=Schedule(lr=0.05, warmup=0.0, drops=0),
            weight_decay=0.0,
            validate=replace(MEMORIZED, points=40),
        ),
        materialize=Materialize(lanes=8),
        resources=Resources(workers=1),
    )


def redrawn_moving_digits() -> Redrawing:
    """Random labels of 500 clips of moving digits, embedded, drawn again four times.

    `raylabel redrawn-labels redrawn-moving-digits`, on a CPU core (AMD EPYC) some 30 min; results are in
    docs/random-labels.md. Frames are scaled to 8 x 8 pixels.
    """
    recipe = redrawn_digits()
    return replace(
        recipe,
        name="redrawn-moving-digits",
        redraws=4,
        controlled=(1, 4),
        corpus=Corpus(uri=("embedded://moving-digits/unlabeled",), kind="video", share=0.36),
        classes=8,
        model=Model(arch="r2plus1d8x1"),
        view=MOVING_DIGITS,
        train=replace(recipe.train, images=10_000, validate=replace(MEMORIZED, points=20)),
    )


def redrawn_cifar10(data: str) -> Redrawing:
    """Random labels of 984 pictures of CIFAR-10, drawn again four times; results are in docs/random-labels.md.

    `raylabel redrawn-labels redrawn-cifar10 --data DIR`; `data` contains labeled-4k.parquet. resnet8x1 is the smallest
    network of this family.
    """
    recipe = redrawn_digits()
    return replace(
        recipe,
        name="redrawn-cifar10",
        redraws=4,
        controlled=(1, 4),
        corpus=Corpus(uri=(f"{data}/labeled-4k.parquet",), share=0.25),
        view=CIFAR10,
        train=replace(recipe.train, images=50_000, batch=50, validate=replace(MEMORIZED, points=50)),
    )


def _embedded(name: str, kind: Kind = "image") -> LabeledSet:
    labeled, test = (Corpus(uri=(f"embedded://{name}/{part}",), kind=kind) for part in ("labeled", "test"))
    return LabeledSet(name=name, labeled=labeled, test=test)
