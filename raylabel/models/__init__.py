"""Networks by name, and their weights in and out of files."""

from raylabel.models.build import Model, build, check
from raylabel.models.trained import CURVE, WEIGHTS, describe, import_model, load_model
from raylabel.models.weights import (
    checkpoint_digest,
    load_checkpoint,
    load_weights,
    read_checkpoint,
    save_weights,
    torchvision_weights,
)

__all__ = [
    "CURVE",
    "WEIGHTS",
    "Model",
    "build",
    "check",
    "checkpoint_digest",
    "describe",
    "import_model",
    "load_checkpoint",
    "load_model",
    "load_weights",
    "read_checkpoint",
    "save_weights",
    "torchvision_weights",
]
