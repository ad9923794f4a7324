"""Clusters of a network's own features as labels: which samples, network, clustering and training."""

from dataclasses import dataclass, field

from raylabel.corpus import Corpus
from raylabel.errors import InputError
from raylabel.features.kmeans import KMeans
from raylabel.models.init import PENULTIMATE, Init, parse_layers
from raylabel.recipes.experiment import Experiment
from raylabel.store.artifact import ADDED_LATER, NOT_IDENTITY
from raylabel.training.config import Train


@dataclass(frozen=True, kw_only=True)
class DeepCluster(Experiment):
    """A network is trained on the clusters of its own features, which are clustered anew in each round (Caron et al.
    2018, arXiv 1807.05520).

    Each round computes the features of all samples, whitens their principal components, clusters them with another
    seed, and trains the network on the clusters, each as often as any other, with a new head.
    """

    corpus: Corpus
    """The samples. The network is never trained on their own labels."""
    labeled: bool = False
    """Whether the samples have labels, with which the clusters of each round are compared."""
    rounds: int
    """How often features are clustered and the network is trained; a round of the paper is an epoch."""
    clustered: int = 0
    """The first rounds that cluster; the others train on with the clusters of the last of these, and its head. 0: all
    cluster."""
    kmeans: KMeans
    """How features are clustered. k: the paper has 10 times the number of classes."""
    components: int = 256
    """Principal components of the features that are whitened and clustered."""
    whitened: bool = field(default=True, metadata=ADDED_LATER)
    """Whether each of these components is divided by its standard deviation. Without it, and without `uniform`,
    `new_head` or `kmeans.refill`, a run shows what this guard against trivial clusters is worth (§3.3)."""
    uniform: bool = field(default=True, metadata=ADDED_LATER)
    """Whether all clusters are trained on equally often, not all samples."""
    new_head: bool = field(default=True, metadata=ADDED_LATER)
    """Whether the head begins anew when samples are clustered anew."""
    layer: str = PENULTIMATE
    """The layer of the features: 'penultimate'; the name of a layer, whose output is averaged over positions; or
    'NAME:G', averaged in each of G x G areas."""
    train: Train
    """How the network is trained in a round; `images` are those of one round. The momentum of SGD goes on from round to
    round; that of the head begins anew."""
    reject_limit: float = field(default=0.05, metadata=NOT_IDENTITY)
    """Share of samples that may be unreadable before the run stops, 0 to 1."""

    def __post_init__(self) -> None:
        for name in ("corpus", "view", "kmeans", "train"):
            getattr(self, name).check(name)
        if not 0 <= self.reject_limit <= 1:
            raise InputError(f"reject_limit is {self.reject_limit}: give a share between 0 and 1")
        if self.rounds < 1:
            raise InputError(f"rounds is {self.rounds}: give one or more")
        if not 0 <= self.clustered <= self.rounds:
            raise InputError(f"clustered is {self.clustered}: give up to {self.rounds}, the rounds, or 0 for all")
        parse_layers(self.layer)
        if self.components < 1:
            raise InputError(f"components is {self.components}: give one or more")
        if self.train.optimizer != "sgd":
            raise InputError(f"train.optimizer is '{self.train.optimizer}': give 'sgd', whose momentum goes on")
        if self.train.init != Init():
            raise InputError("train.init is given, but a round starts from the network of the one before: leave it out")
        if self.train.validate.given:
            raise InputError(
                f"train.validate.on is '{self.train.validate.on}', but clusters change from round to round: unset it"
            )
        if self.train.soft:
            raise InputError(f"train.soft is {self.train.soft:g}, but there is no teacher: leave it out")

    def clusters_in(self, round: int) -> bool:
        """Whether a round clusters, counted from 0."""
        return round < (self.clustered or self.rounds)
