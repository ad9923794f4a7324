"""Named recipes on videos. Each docstring gives the command, hardware, time and result, or "not yet run"."""

from dataclasses import replace

from raylabel import datasets
from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.evaluate.precision import Truth
from raylabel.labels.tags import Tags
from raylabel.labels.teacher import Label
from raylabel.media.view import Clip, View
from raylabel.models import Model
from raylabel.recipes.recipe import Recipe, Teacher
from raylabel.selection.config import Select
from raylabel.training.config import Train
from raylabel.training.media import Materialize
from raylabel.training.schedule import Schedule, scaled_lr

KINETICS = 240_436  # training videos of Kinetics-400; some are no longer available


def moving_digits() -> Recipe:
    """scikit-learn's digits that move in eight directions, as embedded MP4 files: the method on video, on a laptop.

    The classes are the directions, which no single frame shows. `raylabel semi-supervised moving-digits`, on 2
    CPU cores (AMD EPYC) beside other work in 3 min 42 s: teacher 62.5, control 61.8, student 88.8 top-1 on 400
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
            flip=False,  # a flip turns east into west
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
        resources=Resources(workers=1),  # one core is enough for a batch of 32 tiny clips
    )


def actions(data: str) -> Recipe:
    """A folder of labeled, unlabeled and test clips with a manifest.csv: a small set that runs in minutes.

    `raylabel semi-supervised actions --data DIR`; `data` contains manifest.csv (file, split, label, group),
    classes.txt and unlabeled-truth.csv (file, label). Its settings are for 157 surveillance clips of two seconds,
    40 of them labeled. On these, on 4 CPU cores (AMD EPYC) beside other work in 7 to 12 min: teacher 58.7, control
    60.9, student 58.7 top-1 on 46 test clips, no measurable gain (-2.2 points, 95% interval -18.9 to +14.7;
    2026-11-21).
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

    `raylabel semi-supervised kinetics-r2plus1d18 --data DIR`, on 128 GPUs with 16 clips each. `data` contains
    Kinetics-400 (train.csv and val.csv, with their videos), the folder unlabeled (WebDataset tars; 65 M videos in the
    paper) and r2plus1d_34.safetensors, a teacher of 32 frames and 400 classes. K, the 490 M clips of pre-training, the
    10 clips of the test and the epochs of fine-tuning are the paper's. Not verified, since not in the sources:
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

    `raylabel semi-supervised kinetics-r2plus1d34 --data DIR`.
    """
    recipe = kinetics_r2plus1d18(data)
    return replace(recipe, name="kinetics-r2plus1d34", student=Model(arch="r2plus1d_34"))


def kinetics_ig_weak_r2plus1d18(data: str) -> Recipe:
    """Weakly supervised pre-training on hashtags (Yalniz et al. 2019 §5.1, table 7: 71.5 top-1): not yet run.

    `raylabel semi-supervised kinetics-ig-weak-r2plus1d18 --data DIR`. As `kinetics-r2plus1d18`, but the tars in the
    folder unlabeled have a field `tags` in their JSON members, and no teacher is needed: tags are made from the names
    of the classes, as for IG-Kinetics. With `--student.arch r2plus1d_34` it gives the pre-trained network that a
    teacher of the semi-weak run starts from. K is as in that run, which is an assumption.
    """
    recipe = kinetics_r2plus1d18(data)
    return replace(
        recipe,
        name="kinetics-ig-weak-r2plus1d18",
        labeler="tags",
        tags=Tags(column="json:tags"),
        select=Select(k=4_000, p=1, rank="random", allow_empty=True),  # 41 of 400 classes have no hashtag
    )
