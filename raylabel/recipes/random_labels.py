"""Pre-training on labels that say nothing, and fine-tuning on another set: which sets, labels and trainings."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from raylabel.corpus import Corpus
from raylabel.errors import InputError
from raylabel.labels.teacher import Label
from raylabel.recipes.experiment import Experiment
from raylabel.store.artifact import NOT_IDENTITY
from raylabel.training.config import Train

Labels = Literal["none", "random", "shuffled", "true"]


@dataclass(frozen=True, kw_only=True)
class LabeledSet:
    """A labeled set, and one to test on."""

    name: str = field(default="", metadata=NOT_IDENTITY)
    """Its name in the report; empty: 'first' or 'second'."""
    labeled: Corpus
    """What is trained on."""
    test: Corpus
    """Nothing is tuned on it."""

    def check(self, name: str) -> None:
        """InputError if a field is invalid. `name` is that of this config in the recipe, 'first' or 'second'."""
        for part in ("labeled", "test"):
            getattr(self, part).check(f"{name}.{part}")


@dataclass(frozen=True, kw_only=True)
class RandomPretraining(Experiment):
    """Pre-training on labels of one set, among them random ones, and fine-tuning on the true labels of another
    (Pondenkandath et al. 2018, arXiv 1811.01640, §3)."""

    first: LabeledSet
    """The set that is pre-trained on."""
    second: LabeledSet
    """The set that is fine-tuned and tested on."""
    reverse: bool = True
    """Also the other way round, as in Table 1."""
    labels: tuple[Labels, ...] = ("none", "random", "true")
    """What the labels of pre-training are. none: no pre-training. random: drawn at random. shuffled: the true ones of
    other samples. true: the true ones. The others are compared with none."""
    classes: int = 0
    """Number of random classes; 0: as many as the set has. The paper does not say how many it has."""
    pretrain: Train
    """How it is pre-trained. The paper has a rate of 0.1, momentum 0.9, a decay with a patience of 10 and 200 epochs;
    factor, batch and weight decay are not in it. Its accuracy can be measured on what is learned (`validate.on`
    'labeled')."""
    finetune: Train
    """How it is fine-tuned, and trained without pre-training. `init.take` names the layers that are carried over; the
    head is always new. Not in the paper."""
    holdout: float = 0.0
    """Share of the labeled set of fine-tuning that is held out for `finetune.validate.on` 'validation'."""
    label: Label = Label()
    """How samples are scored."""

    def __post_init__(self) -> None:
        for name in ("first", "second", "view", "pretrain", "finetune"):
            getattr(self, name).check(name)
        if bad := [one for one in self.labels if one not in get_args(Labels)]:
            raise InputError(f"labels has {bad[0]!r}: give some of {', '.join(get_args(Labels))}")
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise InputError(f"labels is {self.labels}: give one or more, each once")
        if self.classes < 0 or self.classes == 1:
            raise InputError(f"classes is {self.classes}: give two or more, or 0 for as many as the set has")
        if not 0 <= self.holdout < 1:
            raise InputError(f"holdout is {self.holdout}: give a share of the labeled set from 0 to 1, 1 excluded")
        for name in ("pretrain", "finetune"):
            if (config := getattr(self, name)).init.weights:
                raise InputError(
                    f"{name}.init.weights is given, but fine-tuning starts from pre-training: leave it out"
                )
            if config.soft:
                raise InputError(f"{name}.soft is {config.soft:g}, but there is no teacher: leave it out")
        if self.pretrain.validate.on == "validation":
            raise InputError("pretrain.validate.on is 'validation', but of random labels none are held out: 'labeled'")
        if self.finetune.validate.on == "validation" and not self.holdout:
            raise InputError("finetune.validate.on is 'validation', but nothing is held out: give holdout")

    def set_name(self, which: str) -> str:
        """The name of the 'first' or the 'second' set in the report."""
        return getattr(self, which).name or which

    @property
    def directions(self) -> tuple[tuple[str, str], ...]:
        """(set of pre-training, set of fine-tuning) of each experiment."""
        return (("first", "second"), ("second", "first"))[: 1 + self.reverse]
