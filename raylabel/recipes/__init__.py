"""Everything that a recipe needs, and the named recipes: `from raylabel.recipes import Recipe, Corpus, ...`."""

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.evaluate.knn import Knn
from raylabel.evaluate.precision import Truth
from raylabel.features.kmeans import KMeans
from raylabel.labels.drawn import RandomLabels, ShuffledLabels
from raylabel.labels.tags import Tags
from raylabel.labels.teacher import Label
from raylabel.media.view import Clip, View
from raylabel.models import Model
from raylabel.models.init import Init
from raylabel.recipes.arbitrary import arbitrary_cifar10, arbitrary_digits, statefarm, statefarm_by_driver
from raylabel.recipes.arbitrary_labels import ArbitraryLabels
from raylabel.recipes.clustered import (
    cluster_cifar10,
    cluster_digits,
    cluster_imagenet_alexnet,
    cluster_imagenet_vgg16,
    cluster_moving_digits,
    cluster_yfcc_alexnet,
    pretexts_cifar10,
    pretexts_digits,
)
from raylabel.recipes.control import Control
from raylabel.recipes.deep_cluster import DeepCluster
from raylabel.recipes.images import (
    cifar10,
    digits,
    flowers,
    imagenet_ig_resnet50,
    imagenet_ig_weak_resnet50,
    imagenet_yfcc_resnet50,
)
from raylabel.recipes.memorized import (
    random_actions,
    random_cifar10,
    random_digits,
    random_moving_digits,
    random_sports1m_kinetics,
    random_ucf101_hmdb51,
    redrawn_cifar10,
    redrawn_digits,
    redrawn_moving_digits,
)
from raylabel.recipes.modern import modern
from raylabel.recipes.pretexts import Pretexts
from raylabel.recipes.random_labels import LabeledSet, RandomPretraining
from raylabel.recipes.recipe import Recipe, Teacher
from raylabel.recipes.redrawing import Redrawing
from raylabel.recipes.space import Search
from raylabel.recipes.transfer import Transfer
from raylabel.recipes.transfers import (
    cub200_resnet50,
    probe_imagenet_alexnet,
    probe_places_alexnet,
    sign_digits,
    voc07_alexnet,
)
from raylabel.recipes.videos import (
    actions,
    kinetics_ig_weak_r2plus1d18,
    kinetics_r2plus1d18,
    kinetics_r2plus1d34,
    moving_digits,
)
from raylabel.selection.config import Select
from raylabel.training.config import Train, Validate
from raylabel.training.head import Head
from raylabel.training.media import Materialize
from raylabel.training.schedule import Schedule, scaled_lr

__all__ = [
    "ArbitraryLabels",
    "Clip",
    "Control",
    "Corpus",
    "DeepCluster",
    "Head",
    "Init",
    "KMeans",
    "Knn",
    "Label",
    "LabeledSet",
    "Materialize",
    "Model",
    "Pretexts",
    "RandomLabels",
    "RandomPretraining",
    "Recipe",
    "Redrawing",
    "Resources",
    "Schedule",
    "Search",
    "Select",
    "ShuffledLabels",
    "Tags",
    "Teacher",
    "Train",
    "Transfer",
    "Truth",
    "Validate",
    "View",
    "actions",
    "arbitrary_cifar10",
    "arbitrary_digits",
    "cifar10",
    "cluster_cifar10",
    "cluster_digits",
    "cluster_imagenet_alexnet",
    "cluster_imagenet_vgg16",
    "cluster_moving_digits",
    "cluster_yfcc_alexnet",
    "cub200_resnet50",
    "digits",
    "flowers",
    "imagenet_ig_resnet50",
    "imagenet_ig_weak_resnet50",
    "imagenet_yfcc_resnet50",
    "kinetics_ig_weak_r2plus1d18",
    "kinetics_r2plus1d18",
    "kinetics_r2plus1d34",
    "modern",
    "moving_digits",
    "pretexts_cifar10",
    "pretexts_digits",
    "probe_imagenet_alexnet",
    "probe_places_alexnet",
    "random_actions",
    "random_cifar10",
    "random_digits",
    "random_moving_digits",
    "random_sports1m_kinetics",
    "random_ucf101_hmdb51",
    "redrawn_cifar10",
    "redrawn_digits",
    "redrawn_moving_digits",
    "scaled_lr",
    "sign_digits",
    "statefarm",
    "statefarm_by_driver",
    "voc07_alexnet",
]
