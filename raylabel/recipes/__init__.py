"""Everything that a recipe needs, and the named recipes: `from raylabel.recipes import Recipe, Corpus, ...`."""

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.evaluate.knn import Knn
from raylabel.evaluate.precision import Truth
from raylabel.labels.drawn import RandomLabels, ShuffledLabels
from raylabel.labels.teacher import Label
from raylabel.media.view import Clip, View
from raylabel.models import Model
from raylabel.models.init import Init
from raylabel.recipes.control import Control
from raylabel.recipes.images import (
    cifar10,
    digits,
    flowers,
    imagenet_ig_resnet50,
    imagenet_ig_weak_resnet50,
    imagenet_yfcc_resnet50,
)
from raylabel.recipes.modern import modern
from raylabel.recipes.recipe import Recipe, Teacher
from raylabel.recipes.space import Search
from raylabel.recipes.transfer import Transfer
from raylabel.recipes.transfers import cub200_resnet50, sign_digits
from raylabel.recipes.videos import (
    actions,
    kinetics_ig_weak_r2plus1d18,
    kinetics_r2plus1d18,
    kinetics_r2plus1d34,
    moving_digits,
)
from raylabel.selection.config import Select
from raylabel.training.config import Train
from raylabel.training.head import Head
from raylabel.training.media import Materialize
from raylabel.training.schedule import Schedule, scaled_lr

__all__ = [
    "Clip",
    "Control",
    "Corpus",
    "Head",
    "Init",
    "Knn",
    "Label",
    "Materialize",
    "Model",
    "RandomLabels",
    "Recipe",
    "Resources",
    "Schedule",
    "Search",
    "Select",
    "ShuffledLabels",
    "Teacher",
    "Train",
    "Transfer",
    "Truth",
    "View",
    "actions",
    "cifar10",
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
    "scaled_lr",
    "sign_digits",
]
