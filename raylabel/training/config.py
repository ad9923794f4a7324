"""How a network is trained."""

from dataclasses import dataclass, field
from math import inf
from operator import attrgetter
from typing import Literal, get_args

from raylabel.errors import InputError
from raylabel.models.init import Init
from raylabel.store.artifact import ADDED_LATER, NOT_IDENTITY
from raylabel.training.schedule import Schedule

Set = Literal["none", "validation", "labeled"]
Pretext = Literal["none", "rotation", "jigsaw", "position", "completion", "denoising"]
PRETEXTS: dict[str, int] = {"rotation": 4, "jigsaw": 24, "position": 8, "completion": 2, "denoising": 2}
"""Pretext → its number of classes. Those that restore the picture have none; the head, which stays random, has two."""
RESTORING: tuple[Pretext, ...] = ("completion", "denoising")
"""The pretexts that restore the picture, by a decoder in place of the head: models/restoring.py."""


@dataclass(frozen=True, kw_only=True)
class Validate:
    """How the accuracy of a network on a labeled set is measured while it is trained: in evaluation mode, as in a test,
    and of the average of the weights if there is one."""

    on: Set = "none"
    """The set: none; the validation set of the recipe; or its labeled set, for the accuracy on what was learned. Never
    the test set."""
    points: int = 20
    """Measurements, evenly spaced over the training; the last one is at its end."""
    keep_best: bool = False
    """The trained network is that of the most accurate point, the earliest one if several are, and not the last."""
    targets: tuple[float, ...] = field(default=(), metadata=NOT_IDENTITY)
    """Accuracies, fractions. The report says after how many images each was reached."""

    def check(self, name: str) -> None:
        """InputError if a field is invalid. `name` is its name in the recipe, such as 'pretrain.validate'."""
        if self.on not in get_args(Set):
            raise InputError(f"{name}.on is {self.on!r}: give {' or '.join(map(repr, get_args(Set)))}")
        if self.points < 1:
            raise InputError(f"{name}.points is {self.points}: give at least 1")
        if bad := [target for target in self.targets if not 0 < target <= 1]:
            raise InputError(f"{name}.targets has {bad[0]}: give fractions over 0 and at most 1")
        if self.on == "none" and (self.keep_best or self.targets):
            raise InputError(
                f"{name}.keep_best or targets is set, but {name}.on is 'none': give the set to validate on"
            )
        if self.on == "labeled" and self.keep_best:
            raise InputError(f"{name}.keep_best is set, but {name}.on is 'labeled', which is trained on: unset it")

    @property
    def given(self) -> bool:
        return self.on != "none"


@dataclass(frozen=True, kw_only=True)
class Train:
    """How a network is trained. The length is the number of images processed, forward and backward (Yalniz et al. 2019
    §3). With videos, each clip counts as an image.
    """

    images: int
    """Images processed in total, rounded up to whole batches."""
    schedule: Schedule
    """Learning rate over the run."""
    batch: int = 256
    """Images in a global batch, summed over all workers."""
    optimizer: Literal["sgd", "adam", "adamw", "lamb"] = field(default="sgd", metadata=ADDED_LATER)
    """torch.optim's SGD with momentum, as in the paper, Adam or AdamW; or timm's LAMB (You et al. 2019, arXiv
    1904.00962) with its clipping of the gradient, which needs the extra raylabel[timm]."""
    loss: Literal["softmax", "bce"] = field(default="softmax", metadata=ADDED_LATER)
    """softmax: cross-entropy; a sample with several labels is trained on once for each of them, as in the paper. bce:
    the binary cross-entropy of each class, summed; a sample is trained on once, with all its labels. For sets in which
    a sample shows things of several classes."""
    momentum: float = 0.9
    """Momentum of SGD; the decay of the first moment (beta 1) of the others."""
    beta2: float = field(default=0.999, metadata=ADDED_LATER)
    """Decay of the second moment (beta 2) of the others; SGD has none."""
    direction: Literal["gradient", "random"] = field(default="gradient", metadata=ADDED_LATER)
    """random: each gradient is replaced by a random vector of its norm, over all parameters together: a control of what
    the direction is worth."""
    steps_per_gradient: int = field(default=1, metadata=ADDED_LATER)
    """Steps that are taken with each gradient, m. Above 1, all but the first use a stale one. Images are processed, and
    the rate of the schedule changes, once in m steps; weight decay, momentum and the average change in each."""
    weight_decay: float = 1e-4
    """Weight decay (1e-4 in the paper). A part of the gradient with SGD and Adam, apart from it with AdamW, a part of
    the step with LAMB."""
    decay_norms: bool = field(default=True, metadata=ADDED_LATER)
    """Decay the parameters with one dimension too, which are those of normalisation layers and the biases."""
    label_smoothing: float = field(default=0.0, metadata=ADDED_LATER)
    """Share of each target that is spread equally over all classes (Szegedy et al. 2015, arXiv 1512.00567 §7)."""
    label_noise: float = field(default=0.0, metadata=ADDED_LATER)
    """Share of the labels that are replaced by a random class, drawn anew whenever a sample is trained on. The accuracy
    of the training curve is by the labels themselves."""
    dropout: float = field(default=0.0, metadata=ADDED_LATER)
    """Share of the features before the last layer that are dropped, beside the dropout that some networks have."""
    soft: float = field(default=0.0, metadata=ADDED_LATER)
    """Share of each target that is the teacher's probabilities, 0 to 1; the rest is the label of the pick. Only for
    trainings on picks. 0, the label alone, is the paper's (§3). training/soft.py has the formula."""
    temperature: float = field(default=1.0, metadata=ADDED_LATER)
    """T of these probabilities: at 1 they are the teacher's own; above 1 they are flatter, below 1 sharper, and those
    of the `label.p` classes that are stored alone."""
    pretext: Pretext = field(default="none", metadata=ADDED_LATER)
    """Labels that a picture makes itself, in place of those of the samples: training/pretexts.py. The number of classes
    is then that of the pretext. Or the picture itself as the target: the accuracy of the training curve is then the
    share of restored numbers with a small error (training/restoration.py)."""
    mixup: float = field(default=0.0, metadata=ADDED_LATER)
    """Alpha of mixup, the convex combination of two images and of their labels; 0: none. See training/mixing.py."""
    cutmix: float = field(default=0.0, metadata=ADDED_LATER)
    """Alpha of CutMix, in which a rectangle is of another image; 0: none."""
    ema: float = field(default=0.0, metadata=ADDED_LATER)
    """Decay per step of an exponential moving average of the weights and of BatchNorm's statistics, which is then the
    trained network; 0: the network is that of the last step. It covers about 1 / (1 - ema) steps."""
    accumulate: int = field(default=1, metadata=ADDED_LATER)
    """Parts in which a worker's share of a batch passes the network, one after another. The gradients are those of the
    whole share, except that BatchNorm sees one part at a time; the memory is that of a part."""
    sync_batchnorm: bool = field(default=False, metadata=ADDED_LATER)
    """BatchNorm over the whole batch, not over the share of each worker as in the paper. Needs GPUs."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the forward pass (autocast). auto: bf16 if the hardware supports it; fp32 for clips on a CPU."""
    init: Init = field(default=Init(), metadata=ADDED_LATER)
    """What it starts from, and which layers it changes."""
    validate: Validate = field(default=Validate(), metadata=ADDED_LATER)
    """On which set its accuracy is measured meanwhile, and whether the best network is kept."""
    head_momentum: float | None = field(default=None, metadata=ADDED_LATER)
    """Momentum of SGD for the head, the last layer; None: that of the others."""
    checkpoint_minutes: float = field(default=5.0, metadata=NOT_IDENTITY)
    """Minutes between checkpoints, which are written while training goes on. A crash costs at most so many minutes of
    training, and the time that it takes to write a checkpoint."""

    def check(self, name: str) -> None:
        """InputError if a field is invalid. `name` is that of this config in the recipe, for example 'pretrain'."""
        for key in ("images", "batch"):
            if (value := getattr(self, key)) < 1:
                raise InputError(f"{name}.{key} is {value}: give at least 1")
        if not self.checkpoint_minutes > 0:
            raise InputError(f"{name}.checkpoint_minutes is {self.checkpoint_minutes}: give a positive number")
        if self.batch < 2:
            raise InputError(f"{name}.batch is {self.batch}: give at least 2, because BatchNorm needs 2 images")
        if not 0 <= self.momentum < 1:
            raise InputError(f"{name}.momentum is {self.momentum}: give a number from 0 to 1, 1 excluded")
        for key in ("beta2", "label_smoothing", "label_noise", "dropout", "ema"):
            if not 0 <= (value := getattr(self, key)) < 1:
                raise InputError(f"{name}.{key} is {value}: give a number from 0 to 1, 1 excluded")
        for key in ("weight_decay", "mixup", "cutmix"):
            if not 0 <= (value := getattr(self, key)) < inf:
                raise InputError(f"{name}.{key} is {value}: give 0 or a positive number")
        if not 0 <= self.soft <= 1:
            raise InputError(f"{name}.soft is {self.soft}: give a share from 0 to 1")
        if not 0 < self.temperature < inf:
            raise InputError(f"{name}.temperature is {self.temperature}: give a positive number")
        if self.temperature != 1 and not self.soft:
            raise InputError(
                f"{name}.temperature is {self.temperature}, but {name}.soft is 0: give a share, or unset it"
            )
        if self.pretext not in get_args(Pretext):
            raise InputError(f"{name}.pretext is {self.pretext!r}: give {' or '.join(map(repr, get_args(Pretext)))}")
        if self.pretext != "none" and (self.soft or self.validate.given):
            raise InputError(
                f"{name}.pretext is '{self.pretext}', which has no soft targets and no validation: unset {name}.soft "
                f"and {name}.validate"
            )
        for key in ("label_smoothing", "label_noise", "dropout", "mixup", "cutmix", "init.frozen"):
            if self.pretext in RESTORING and attrgetter(key)(self):
                raise InputError(
                    f"{name}.pretext is '{self.pretext}', which has no labels and no head: unset {name}.{key}"
                )
        if self.pretext in RESTORING and self.head_momentum is not None:
            raise InputError(f"{name}.pretext is '{self.pretext}', which has no head: unset {name}.head_momentum")
        if self.loss not in ("softmax", "bce"):
            raise InputError(f"{name}.loss is {self.loss!r}: give 'softmax' or 'bce'")
        for key in ("label_smoothing", "label_noise", "soft", "mixup", "cutmix", "validate.given"):
            if self.loss == "bce" and attrgetter(key)(self):
                raise InputError(f"{name}.loss is 'bce', with which {name}.{key.removesuffix('.given')} cannot be used")
        if self.loss == "bce" and self.pretext != "none":
            raise InputError(f"{name}.loss is 'bce', but {name}.pretext is '{self.pretext}': unset one")
        for key in ("accumulate", "steps_per_gradient"):
            if (value := getattr(self, key)) < 1:
                raise InputError(f"{name}.{key} is {value}: give at least 1")
        if self.direction not in ("gradient", "random"):
            raise InputError(f"{name}.direction is {self.direction!r}: give 'gradient' or 'random'")
        if self.head_momentum is not None and not 0 <= self.head_momentum < 1:
            raise InputError(f"{name}.head_momentum is {self.head_momentum}: give a number from 0 to 1, 1 excluded")
        if self.head_momentum is not None and self.optimizer != "sgd":
            raise InputError(f"{name}.head_momentum is given, but {name}.optimizer is '{self.optimizer}': unset it")
        self.schedule.check(f"{name}.schedule")
        self.init.check(f"{name}.init")
        self.validate.check(f"{name}.validate")
        if self.schedule.decay == "plateau" and not self.validate.given:
            raise InputError(
                f"{name}.schedule.decay is 'plateau', which follows the accuracy of {name}.validate: give "
                f"{name}.validate.on"
            )

    @property
    def steps(self) -> int:
        return -(-self.images // self.batch)

    @property
    def processed(self) -> int:
        """Images processed: `images` rounded up to whole batches."""
        return self.steps * self.batch
