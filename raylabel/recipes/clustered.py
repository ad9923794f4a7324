"""Named recipes of DeepCluster."""

from dataclasses import replace

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.features.kmeans import KMeans
from raylabel.models import Model
from raylabel.recipes.deep_cluster import DeepCluster
from raylabel.recipes.memorized import DIGITS, MOVING_DIGITS
from raylabel.training.config import Train
from raylabel.training.media import Materialize
from raylabel.training.schedule import Schedule


def cluster_digits() -> DeepCluster:
    """The unlabeled part of scikit-learn's digits: a network learns the clusters of its own features.

    `raylabel deep-cluster`, on 2 CPU cores: not yet run.
    """
    return DeepCluster(
        name="cluster-digits",
        corpus=Corpus(uri=("embedded://digits/unlabeled",)),
        rounds=10,
        kmeans=KMeans(k=100),
        components=32,
        model=Model(arch="resnet8x1"),
        view=replace(DIGITS, crop="padded"),
        train=Train(
            images=4_000,
            batch=50,
            schedule=Schedule(lr=0.05, warmup=0.0, drops=0),
            weight_decay=1e-5,
            head_momentum=0.0,
        ),
        materialize=Materialize(lanes=8),
        resources=Resources(workers=1),  # one core is enough for a batch of 50 tiny images
    )


def cluster_moving_digits() -> DeepCluster:
    """The unlabeled part of the embedded moving digits: a network of clips learns the clusters of its own features.

    `raylabel deep-cluster cluster-moving-digits`, on 2 CPU cores: not yet run.
    """
    recipe = cluster_digits()
    return replace(
        recipe,
        name="cluster-moving-digits",
        corpus=Corpus(uri=("embedded://moving-digits/unlabeled",), kind="video"),
        model=Model(arch="r2plus1d8x1"),
        view=replace(MOVING_DIGITS, crop="random_resized"),
        train=replace(recipe.train, images=2_000),
    )
