"""Networks by name, and their weights in and out of files."""

from raylabel.models.build import Model, build, check, check_input, memory_format, takes_clips
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
    "check_input",
    "checkpoint_digest",
    "describe",
    "import_model",
    "load_checkpoint",
    "load_model",
    "load_weights",
    "memory_format",
    "read_checkpoint",
    "save_weights",
    "takes_clips",
    "torchvision_weights",
]
