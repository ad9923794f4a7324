"""One epoch on arbitrary labels, then the head on true ones: which set, network and arms."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from raylabel.corpus import Corpus
from raylabel.errors import InputError
from raylabel.labels.teacher import Label
from raylabel.models import Model
from raylabel.models.init import Init
from raylabel.recipes.experiment import Experiment
from raylabel.training.config import Train

Labels = Literal["true", "shuffled", "teacher"]
Change = Literal["all", "head", "direction", "statistics"]
Arm = Literal["arbitrary", "true", "teacher", "direction", "calibrated", "frozen", "linear", "whole"]


class Stage(NamedTuple):
    """One training of an arm, of the recipe's length."""

    labels: Labels
    change: Change = "all"
    """all: all layers. head: the layers behind the frozen ones. direction: all, by random vectors of the gradients'
    norms. statistics: no weight, but BatchNorm's statistics."""
    linear: bool = False
    """Whether the network is the linear layers alone."""


HEAD = Stage("true", "head")
ARMS: dict[Arm, tuple[Stage, ...]] = {
    "arbitrary": (Stage("shuffled"), HEAD),
    "true": (Stage("true"), HEAD),
    "teacher": (Stage("teacher"), HEAD),
    "direction": (Stage("shuffled", "direction"), HEAD),
    "calibrated": (Stage("shuffled", "statistics"), HEAD),
    "frozen": (HEAD, HEAD),
    "linear": (Stage("true", linear=True), Stage("true", linear=True)),
    "whole": (Stage("true"), Stage("true")),
}
"""The trainings of each arm, which continue each other."""


@dataclass(frozen=True, kw_only=True)
class ArbitraryLabels(Experiment):
    """A network is trained on arbitrary labels for one epoch, all before its linear layers is frozen, and these are
    trained on true labels for one epoch: the fast.ai post "Why pseudo-label when you can arbitrarily-label?", and the
    controls that it lacks."""

    labeled: Corpus
    """The labeled set that is trained on. The arbitrary labels are its true ones, shuffled."""
    test: Corpus
    """Nothing is tuned on it."""
    arms: tuple[Arm, ...] = get_args(Arm)
    """arbitrary: as in the post. true: the first epoch is on true labels. teacher: it is on those of a teacher
    (question 2 of the post). direction: it is on arbitrary ones, by random vectors of the norms of the gradients
    (question 3). calibrated: in the first epoch no weight changes, but BatchNorm's statistics do. frozen: random layers
    are frozen, and the head is trained for both epochs (the post's third run). linear: no convolutions, both epochs on
    true labels. whole: all layers, both epochs on true labels."""
    linear: Model = Model(arch="linear2")
    """The network without convolutions; its size is that of the view."""
    frozen: tuple[str, ...] = ("bn0", "conv1", "bn1", "conv2", "bn2")
    """The layers that are frozen for the head: all before the flattening."""
    train: Train
    """How each epoch is trained, also on a teacher's labels; `images` are those of one epoch."""
    teacher: Train
    """How the teacher is trained, which is the same network."""
    teacher_share: float = 0.2
    """Share of the labeled set that the teacher is trained on; it labels the whole set. Not in the post."""
    label: Label = Label()
    """How samples are scored."""

    def __post_init__(self) -> None:
        for name in ("labeled", "test", "view", "train", "teacher"):
            getattr(self, name).check(name)
        if bad := [one for one in self.arms if one not in get_args(Arm)]:
            raise InputError(f"arms has {bad[0]!r}: give some of {', '.join(get_args(Arm))}")
        if not self.arms or len(set(self.arms)) < len(self.arms):
            raise InputError(f"arms is {self.arms}: give one or more, each once")
        if not self.frozen or not all(self.frozen):
            raise InputError(f"frozen is {self.frozen}: give the layers before the head")
        if not 0 < self.teacher_share < 1:
            raise InputError(f"teacher_share is {self.teacher_share}: give a share of the labeled set between 0 and 1")
        for name in ("train", "teacher"):
            config = getattr(self, name)
            if config.init != Init():
                raise InputError(f"{name}.init is given, but each epoch continues the one before: leave it out")
            if config.soft:
                raise InputError(f"{name}.soft is {config.soft:g}, but labels are not soft here: leave it out")
            if config.validate.given:
                raise InputError(f"{name}.validate.on is '{config.validate.on}': each epoch is tested, leave it out")
