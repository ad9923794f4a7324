"""Pre-trainings without labels of one network: which, on what, and how their features are judged."""

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.errors import InputError
from raylabel.models.init import PENULTIMATE, parse_layers
from raylabel.recipes.deep_cluster import DeepCluster
from raylabel.store.artifact import ADDED_LATER, NOT_IDENTITY
from raylabel.training.config import Train
from raylabel.training.filters_from_patches import Method
from raylabel.training.head import Head
from raylabel.training.schedule import Schedule

Start = Literal[
    "none",
    "clusters",
    "rotation",
    "jigsaw",
    "position",
    "surrogate",
    "layer_kmeans",
    "layer_pca",
    "layer_rbm",
    "layer_autoencoder",
    "completion",
    "denoising",
    "true",
]
STARTS: tuple[Start, ...] = get_args(Start)
LAYERWISE: dict[Start, Method] = {
    "layer_kmeans": "kmeans",
    "layer_pca": "pca",
    "layer_rbm": "rbm",
    "layer_autoencoder": "autoencoder",
}
"""The starts that are learned layer by layer, and how."""


@dataclass(frozen=True, kw_only=True)
class Pretexts:
    """One network is pre-trained without labels in several ways, each on as many images; then a logistic regression on
    its frozen features says what each layer is worth (Caron et al. 2018, arXiv 1807.05520, §4.2, Table 1)."""

    name: str
    """Name of the experiment in the report."""
    clusters: DeepCluster
    """The pre-training on clusters. All others have its corpus, network, view and seed; and its optimizer, and process
    as many images as all its rounds together, but for those that are learned layer by layer."""
    starts: tuple[Start, ...] = ("none", "clusters", "rotation", "jigsaw", "position", "surrogate")
    """none: random weights. clusters: DeepCluster. rotation, jigsaw, position: the network says how the picture was
    changed (training/pretexts.py). surrogate: each of `surrogates` samples is a class of its own (Dosovitskiy et al.
    2014, arXiv 1406.6909). layer_...: convolutions learn their filters one after another from patches of some samples,
    by k-means, principal components, a restricted Boltzmann machine or a denoising autoencoder
    (training/layerwise.py). completion, denoising: the network restores blanked cells of the picture, or a picture with
    noise (training/restoration.py). true: the true labels of the corpus, an upper bound; needs `clusters.labeled`."""
    ks: tuple[int, ...] = field(default=(), metadata=ADDED_LATER)
    """Numbers of clusters, of which one is used: that whose features a logistic regression classifies best in
    cross-validation on the labeled set, in the mean of the layers. The test set has no say. Empty: that of
    `clusters`."""
    surrogates: float = 0.1
    """Share of the corpus whose samples are classes of their own; the others are not trained on."""
    schedule: Schedule | None = None
    """The learning rate of all but the clusters; None: that of a round of clusters."""
    labeled: Corpus
    """The labeled set that the logistic regression is fitted to."""
    test: Corpus
    """The labeled set that it is tested on."""
    layers: tuple[str, ...] = (PENULTIMATE,)
    """The layers whose features are judged, as of a transfer: 'penultimate', 'layer1', or 'layer1:4' of 4 x 4 areas."""
    head: Head = Head(kind="logistic")
    """The logistic regression."""
    retry_rejects: bool = field(default=False, metadata=NOT_IDENTITY)
    """Read the samples again that an earlier run rejected."""
    resources: Resources = field(default=Resources(), metadata=NOT_IDENTITY)
    """Resources that the run may use; they do not change the identity of a result."""

    def __post_init__(self) -> None:
        for name in ("labeled", "test", "head"):
            getattr(self, name).check(name)
        for name in ("labeled", "test"):
            if (kind := getattr(self, name).kind) != self.clusters.corpus.kind:
                raise InputError(
                    f"{name}.kind is '{kind}', but clusters.corpus.kind is '{self.clusters.corpus.kind}': change one"
                )
        if self.schedule:
            self.schedule.check("schedule")
        if not self.starts:
            raise InputError("starts is empty: give at least one")
        if bad := [one for one in self.starts if one not in STARTS]:
            raise InputError(f"starts has {bad[0]!r}: give some of {', '.join(STARTS)}")
        if len(set(self.starts)) < len(self.starts):
            raise InputError("starts names one twice: name each once")
        if "true" in self.starts and not self.clusters.labeled:
            raise InputError("starts has 'true', but clusters.labeled is not given: the corpus needs labels")
        for k in self.ks:
            replace(self.clusters.kmeans, k=k).check("ks")
        if len(set(self.ks)) < len(self.ks):
            raise InputError("ks has a number twice: give each once")
        if self.ks and "clusters" not in self.starts:
            raise InputError("ks is given, but starts has no 'clusters': add it, or leave ks out")
        if not 0 < self.surrogates <= 1:
            raise InputError(f"surrogates is {self.surrogates}: give a share over 0 and at most 1")
        if not self.layers:
            raise InputError("layers is empty: give at least one")
        for layer in self.layers:
            parse_layers(layer)
        if self.head.kind != "logistic":
            raise InputError(f"head.kind is '{self.head.kind}': give 'logistic'")

    @property
    def train(self) -> Train:
        """The pre-training of all but the clusters."""
        own = self.clusters.train
        images = self.clusters.rounds * own.processed
        return replace(own, images=images, schedule=self.schedule or own.schedule, head_momentum=None)
