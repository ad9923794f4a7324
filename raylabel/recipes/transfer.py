"""A transfer: which features to compare on another labeled set, and by which protocols."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.errors import InputError
from raylabel.evaluate.knn import Knn
from raylabel.labels.teacher import Label
from raylabel.media.view import View
from raylabel.models.init import PENULTIMATE, parse_layers
from raylabel.store.artifact import ADDED_LATER, NOT_IDENTITY
from raylabel.training.config import Train
from raylabel.training.head import Head
from raylabel.training.media import Materialize

Protocol = Literal["finetune", "probe", "logistic_raw", "logistic", "few", "knn", "scratch"]


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What the features of trained networks are worth on another labeled set (Yalniz et al. 2019, Table 8)."""

    name: str
    """Name of the transfer in the report."""
    labeled: Corpus
    """The labeled training set."""
    test: Corpus
    """The labeled test set; nothing is tuned on it."""
    validation: Corpus | None = None
    """A labeled set from which the temperatures of temperature scaling are found; nothing is trained on it."""
    real: str = ""
    """ReaL labels of the test set, which is then ImageNet's validation images in loose files: the file real.json of
    Beyer et al. 2020 (arXiv 2006.07159). The accuracy by them is reported too."""
    holdout: float = 0.2
    """Share of the labeled set that is held out for that instead, 0 to 1; nothing is trained on it. 0: all labels are
    trained on, and there is no temperature scaling."""
    networks: tuple[str, ...] = ()
    """The networks to compare: folders of trained networks ('runs/student-0a1b2c3d4e5f'), names of weights with their
    tag ('timm/resnet50.a1_in1k', 'ResNet50_Weights.IMAGENET1K_V2'), or ARCH=WEIGHTS, where the weights are a file, a
    folder or a repository of the hub ('resnet50=weights.safetensors'). The first one is compared with each of the
    others. random=NETWORK, or random=ARCH: random weights of the same architecture, in the same view."""
    several: bool = field(default=False, metadata=ADDED_LATER)
    """Whether a sample may have several labels: 'dog|person' shows both, and with '?chair' nothing is said about chairs
    (labels/several.py). `labeled.classes` and `test.classes` have the names. The trainings need the loss 'bce', and the
    result is the mean average precision."""
    view: View
    """How a sample becomes a network's input. Size, resizing, mean and standard deviation are those of each network,
    if they are known."""
    protocols: tuple[Protocol, ...] = get_args(Protocol)
    """finetune: all layers are trained, from the network's weights and a new head. probe: only a new head is trained;
    or, if `probe.init.frozen` names the layers that are frozen, the others too.
    logistic_raw and logistic: a logistic regression on stored features, as the network computes them and scaled to
    unit length. few: a logistic regression on few of the labels. knn: the nearest neighbours. scratch: each
    architecture, trained from random weights."""
    layers: tuple[str, ...] = (PENULTIMATE,)
    """The features of probes, and those that are stored; each is compared. 'penultimate': what the head takes.
    'layer3': the output of the layer with this name, averaged over all positions. 'layer3:4': averaged in each of 4 x 4
    areas. 'layer2+layer3': the numbers of both, one after the other, which a probe cannot have. All networks must have
    them."""
    finetune: Train
    """How all layers are trained."""
    probe: Train
    """How a new head is trained on the frozen network, for each of `layers`."""
    scratch: Train | None = None
    """How an architecture is trained from random weights. None: as in `finetune`."""
    head: Head = Head(kind="logistic")
    """The logistic regression."""
    shares: tuple[float, ...] = (0.01, 0.1)
    """Of few labels: shares of the labeled set, at least one sample of each class."""
    few_head: Head = Head(kind="logistic", strengths=(100.0,))
    """The logistic regression on few labels. One sample of each class allows no cross-validation, so the default has
    one strength."""
    knn: Knn = Knn()
    """The nearest neighbours."""
    label: Label = Label()
    """How samples are scored."""
    materialize: Materialize = Materialize()
    """How the training examples are stored."""
    seed: int = 0
    """Seed of every random choice: new heads, order, crops, folds, which samples are held out."""
    retry_rejects: bool = field(default=False, metadata=NOT_IDENTITY)
    """Read the samples again that an earlier run rejected."""
    resources: Resources = field(default=Resources(), metadata=NOT_IDENTITY)
    """Resources that the transfer may use; they do not change the identity of a result."""

    def __post_init__(self) -> None:
        for name in ("labeled", "test", "view", "finetune", "probe", "head", "few_head", "knn"):
            getattr(self, name).check(name)
        for name in ("validation", "scratch"):
            if config := getattr(self, name):
                config.check(name)
        if not 0 <= self.holdout < 1:
            raise InputError(f"holdout is {self.holdout}: give a share of the labeled set from 0 to 1, 1 excluded")
        if bad := [one for one in self.protocols if one not in get_args(Protocol)]:
            raise InputError(f"protocols has {bad[0]!r}: give some of {', '.join(get_args(Protocol))}")
        if not self.layers:
            raise InputError(f"layers is empty: give at least one, for example '{PENULTIMATE}'")
        if twice := [one for number, one in enumerate(self.layers) if one in self.layers[:number]]:
            raise InputError(f"layers has '{twice[0]}' twice: name it once")
        for layer in self.layers:
            if len(parse_layers(layer)) > 1 and "probe" in self.protocols:
                raise InputError(f"layers has '{layer}', but a probe is of one layer: leave probe out of protocols")
        if not self.protocols:
            raise InputError("protocols is empty: give at least one")
        if bad := [share for share in self.shares if not 0 < share < 1]:
            raise InputError(f"shares has {bad[0]}: give shares of the labeled set between 0 and 1")
        for name in ("head", "few_head"):
            if (kind := getattr(self, name).kind) != "logistic":
                raise InputError(f"{name}.kind is '{kind}': give 'logistic'")
        for name in ("finetune", "probe", "scratch"):
            if (config := getattr(self, name)) and config.init.weights:
                raise InputError(f"{name}.init.weights is given, but the weights are those of networks: leave it out")
            if config and config.validate.given:
                raise InputError(f"{name}.validate is given, but a transfer validates no training: leave it out")
        trained = {"finetune": self.finetune, "probe": self.probe, "scratch": self.scratch or self.finetune}
        for name in [name for name in trained if name in self.protocols]:
            if (loss := trained[name].loss) != (wanted := "bce" if self.several else "softmax"):
                raise InputError(f"{name}.loss is '{loss}', but several is {self.several}: give '{wanted}'")
        if self.several:
            if others := [one for one in self.protocols if one not in trained]:
                raise InputError(f"protocols has '{others[0]}', but several is True: give some of {', '.join(trained)}")
            if self.holdout or self.validation or self.real:
                raise InputError(
                    "several is True, with which there are no temperatures: set holdout to 0, and give "
                    "neither validation nor real"
                )
        if twice := [one for number, one in enumerate(self.networks) if one in self.networks[:number]]:
            raise InputError(f"networks has '{twice[0]}' twice: name it once")

    @property
    def corpora(self) -> tuple[str, ...]:
        """The names of its corpora."""
        return ("labeled", "test", *(("validation",) if self.validation else ()))
