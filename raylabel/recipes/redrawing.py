"""Random labels that are memorized and drawn again, with the weights kept: which samples, network and controls."""

from dataclasses import dataclass, field

from raylabel.corpus import Corpus
from raylabel.errors import InputError
from raylabel.models.init import Init
from raylabel.recipes.experiment import Experiment
from raylabel.store.artifact import NOT_IDENTITY
from raylabel.training.config import Train

KEPT = "all"
"""The start from all weights of the drawing before."""
FRESH = "none"
STARTS = {
    KEPT: Init(),
    FRESH: None,
    "head": Init(head="new"),
    "norms": Init(what="norms"),
    "trunk": Init(take=("trunk",)),
    "convolutions": Init(take=("convolutions",)),
}
"""Starts with a name. None: random weights."""


def init_of(start: str) -> Init | None:
    """What a training takes from the network of the drawing before; None: nothing."""
    return STARTS[start] if start in STARTS else Init(take=tuple(start.split("+")))


@dataclass(frozen=True, kw_only=True)
class Redrawing(Experiment):
    """One network memorizes random labels, which are drawn again several times; its weights are kept (Pondenkandath et
    al. 2018, arXiv 1811.01640, Figure 1). Optimizer and learning rate begin anew with each drawing."""

    corpus: Corpus
    """The samples. Their own labels are not read."""
    classes: int = 10
    """Number of random classes."""
    redraws: int = 4
    """How often the labels are drawn again after the first drawing."""
    controls: tuple[str, ...] = (FRESH, "head", "norms", "convolutions")
    """Other starts on the same labels, instead of all weights of the drawing before. none: random weights. head: all,
    with a new head. norms: random weights, each tensor scaled to the norm of the trained one. trunk, convolutions:
    these layers alone, the others random. Or names of layers with + between them, 'conv1+bn1+layer1'."""
    controlled: tuple[int, ...] = (1, 4)
    """The redraws with controls, counted from 1."""
    train: Train
    """How each drawing is trained on; `images` are those of one drawing. `validate.on` is 'labeled': the accuracy on
    what is learned, in evaluation mode; `validate.targets` are the accuracies whose epochs are compared."""
    reject_limit: float = field(default=0.05, metadata=NOT_IDENTITY)
    """Share of samples that may be unreadable before the run stops, 0 to 1."""

    def __post_init__(self) -> None:
        for name in ("corpus", "view", "train"):
            getattr(self, name).check(name)
        if not 0 <= self.reject_limit <= 1:
            raise InputError(f"reject_limit is {self.reject_limit}: give a share between 0 and 1")
        if self.classes < 2:
            raise InputError(f"classes is {self.classes}: give two or more")
        if self.redraws < 1:
            raise InputError(f"redraws is {self.redraws}: give one or more")
        if KEPT in self.controls or len(set(self.controls)) < len(self.controls) or not all(self.controls):
            raise InputError(f"controls is {self.controls}: give other starts than '{KEPT}', each once")
        if bad := [at for at in self.controlled if not 1 <= at <= self.redraws]:
            raise InputError(f"controlled has {bad[0]}: give redraws from 1 to {self.redraws}")
        if len(set(self.controlled)) < len(self.controlled):
            raise InputError(f"controlled is {self.controlled}: give each redraw once")
        if self.train.validate.on != "labeled":
            raise InputError(
                f"train.validate.on is '{self.train.validate.on}': give 'labeled', the accuracy on what is learned"
            )
        if self.train.init != Init():
            raise InputError("train.init is given, but the starts are those of the drawings: leave it out")
        if self.train.soft:
            raise InputError(f"train.soft is {self.train.soft:g}, but there is no teacher: leave it out")
