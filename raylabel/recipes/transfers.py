"""Named transfers."""

from dataclasses import replace

from raylabel.corpus import Corpus
from raylabel.datasets import cub200, imagenet, places365, voc2007
from raylabel.media.view import View
from raylabel.models.init import Init
from raylabel.recipes.images import IMAGENET
from raylabel.recipes.transfer import Transfer
from raylabel.training.config import Train
from raylabel.training.schedule import Schedule, scaled_lr

CUB = 5_994
"""Training images of CUB-200-2011."""


def cub200_resnet50(data: str) -> Transfer:
    """Table 8 of Yalniz et al. 2019 on CUB-200-2011 (84.8 by full fine-tuning, 80.7 by logistic regression, with a
    semi-weak ResNet-50): not yet run.

    `raylabel transfer cub200-resnet50 --data DIR --networks resnet50=FILE ...`, on GPUs. `data` is the folder of the
    set. All training images are trained on, for 300 epochs with a weight decay of 0.001, as in the paper. It does not
    give the learning rate and its steps; those of ImageNet's fine-tuning are taken.
    """
    batch = 64
    train = Train(
        images=300 * CUB,
        batch=batch,
        schedule=Schedule(lr=scaled_lr(batch, base=0.01), warmup=0.0, drops=3, factor=0.1),
        weight_decay=1e-3,
    )
    return Transfer(
        name="cub200-resnet50",
        labeled=cub200(data, "train"),
        test=cub200(data, "test"),
        holdout=0.0,
        view=View(),
        finetune=train,
        probe=replace(train, images=100 * CUB, weight_decay=0.0),
        scratch=replace(train, schedule=replace(train.schedule, lr=scaled_lr(batch), warmup=0.02)),
    )


def probe_imagenet_alexnet(data: str) -> Transfer:
    """Linear probes behind each convolution of an AlexNet (Caron et al. 2018, Table 1: 12.9, 29.2, 38.2, 39.8 and 36.1
    by clusters; 11.6, 17.1, 16.9, 16.3 and 14.1 by random weights): not yet run.

    `raylabel transfer probe-imagenet-alexnet --data DIR --networks NETWORK random=NETWORK`, on GPUs; `data` is the
    folder of ImageNet. 90 epochs, with the learning rate of the official code; the areas give as many numbers as its
    pooling.
    """
    images, batch, lr, decay = 90 * IMAGENET, 256, 0.01, 1e-4
    steps = images / batch
    schedule = Schedule(lr=lr, warmup=0.0, decay="inverse_sqrt", final_lr=lr / (1 + lr * decay * steps) ** 0.5)
    train = Train(images=images, batch=batch, schedule=schedule, weight_decay=decay)
    return Transfer(
        name="probe-imagenet-alexnet",
        labeled=imagenet(data, "train"),
        test=imagenet(data, "val"),
        holdout=0.0,
        view=View(),
        protocols=("probe",),
        layers=("conv1:10", "conv2:6", "conv3:5", "conv4:5", "conv5:6"),
        finetune=train,
        probe=train,
    )


def probe_places_alexnet(data: str) -> Transfer:
    """The same on Places365: not yet run. The paper has Places205, whose accuracies are others (Table 1: 18.6, 30.8,
    37.0, 37.5 and 33.1 by clusters).

    `raylabel transfer probe-places-alexnet --data DIR --networks NETWORK random=NETWORK`; `data` is the folder of
    Places365.
    """
    recipe = probe_imagenet_alexnet(data)
    return replace(recipe, name="probe-places-alexnet", labeled=places365(data, "train"), test=places365(data, "val"))


def voc07_alexnet(data: str) -> Transfer:
    """VOC07 classification by an AlexNet that was pre-trained on gradients (Caron et al. 2018: 72.0 mAP by the fully
    connected layers, 73.7 by all, of clusters of ImageNet): not yet run.

    `raylabel transfer voc07-alexnet --data DIR --networks NETWORK`, on a GPU; `data` contains VOCdevkit. 150,000
    batches of 16, as in the paper. Trained on the fully connected layers alone (`probe`), these begin anew. The paper
    averages ten crops of a test picture; this takes the centre. Crops in training cover 0.1 to 1 of a picture, where
    the authors' PyTorch code has 0.1 to 0.5, and gradients are not clipped.
    """
    convolutions = tuple(f"conv{number}" for number in range(1, 6))
    train = Train(
        images=150_000 * 16,
        batch=16,
        schedule=Schedule(lr=1e-3, warmup=0.0, drops=7, factor=0.5),
        weight_decay=1e-6,
        loss="bce",
    )
    return Transfer(
        name="voc07-alexnet",
        labeled=voc2007(data, "trainval"),
        test=voc2007(data, "test"),
        several=True,
        holdout=0.0,
        view=View(min_scale=0.1),
        protocols=("finetune", "probe", "scratch"),
        finetune=train,
        probe=replace(
            train,
            schedule=Schedule(lr=3e-3, warmup=0.0, drops=29, factor=0.5),
            init=Init(take=convolutions, frozen=convolutions),
        ),
    )


def sign_digits(data: str) -> Transfer:
    """Ten hand signs, of which 160 labels are trained on and 40 are for temperatures.

    `raylabel transfer sign-digits --data DIR --networks NETWORK ...`; `data` contains labeled-200.parquet, test.parquet
    and classes.txt. 2 CPU cores, some 12 minutes a seed for four networks; fine-tuned students of flowers reach 79%,
    random weights 75%: see docs/results.md.
    """
    classes, lr = f"{data}/classes.txt", scaled_lr(64, base=0.2)
    steps = Schedule(lr=lr, warmup=0.05, drops=3, factor=0.1)
    train = Train(images=30_000, batch=64, schedule=steps, weight_decay=5e-4)
    return Transfer(
        name="sign-digits",
        labeled=Corpus(uri=(f"{data}/labeled-200.parquet",), classes=classes),
        test=Corpus(uri=(f"{data}/test.parquet",), classes=classes),
        view=View(size=48, resize=48, min_scale=0.5),
        finetune=train,
        probe=Train(images=30_000, batch=64, schedule=steps, weight_decay=0.0),
    )
