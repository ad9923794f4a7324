"""What a training starts from, and which layers it changes, as a config.

PyTorch is not imported here, so that a command line can be parsed without it.
"""

from dataclasses import dataclass, field
from math import ceil
from typing import Literal, get_args

from raylabel.errors import InputError
from raylabel.store.artifact import ADDED_LATER

Taken = Literal["weights", "norms"]

TRUNK = "trunk"
"""In a list of layers: all but the head."""
CONVOLUTIONS = "convolutions"
"""In a list of layers: all convolutions, without the normalisation layers between them."""
PENULTIMATE = "penultimate"
"""As the layer of features: the one before the head. What the head takes is the feature."""


def parse_layers(layers: str) -> list[tuple[str, int]]:
    """(NAME, G) of each layer of features in NAME:G+NAME:G+...; G is 1 if there is none. InputError if it is no whole
    number."""
    found = list[tuple[str, int]]()
    for layer in layers.split("+"):
        name, _, side = layer.partition(":")
        if side and not (side.isdecimal() and int(side) > 0) or not name or layer.endswith(":"):
            raise InputError(
                f"the layer '{layer}' of features is not NAME or NAME:G, such as 'layer2:4' for 4 x 4 areas"
            )
        found.append((name, int(side or 1)))
    return found


@dataclass(frozen=True, kw_only=True)
class Init:
    """What a training starts from, and which layers it changes. The defaults are random weights, and all layers."""

    weights: str = ""
    """Weights to start from: the folder of a trained network ('runs/teacher-0a1b2c3d4e5f'), a .safetensors file or
    PyTorch state dict, a folder in the layout of timm or open_clip, or a name: torchvision's
    ('ResNet50_Weights.IMAGENET1K_V2'), that of timm or open_clip with its tag ('timm/resnet50.a1_in1k',
    'clip/ViT-B-16.openai') or a repository of the Hugging Face hub in their layout ('hf-hub:OWNER/NAME'). Empty: random
    weights, and in fine-tuning those of the pre-trained student, which is all that it can start from."""

    take: tuple[str, ...] = ()
    """Layers whose weights are taken, by the beginnings of their names ('conv1', 'layer1.0'), 'trunk', which is all but
    the head, the last layer, or 'convolutions'. The others start with random weights. Empty: all layers, and the head
    too if it has as many classes."""

    what: Taken = field(default="weights", metadata=ADDED_LATER)
    """What is taken of these layers. norms: they start with random weights too, each tensor scaled to the norm of the
    one in the weights; statistics, and tensors that start at zero, are as in a new network. A control: it shows what
    the scale of the weights is worth without their directions."""

    head: Literal["same", "new"] = "same"
    """new: the head starts with random weights, also if those that are taken have as many classes."""

    frozen: tuple[str, ...] = ()
    """Layers that do not change, as in `take`. Their normalisation layers use stored statistics, and their dropout is
    off."""

    frozen_until: float = 1.0
    """Fraction of the training for which they are frozen, over 0 and at most 1, in whole steps, rounded up."""

    first_lr: float = 1.0
    """Learning rate of the first layer, relative to that of the last one; between them it rises by the same factor from
    layer to layer (Howard & Ruder 2018, arXiv 1801.06146, §3.2: a factor of 2.6)."""

    def check(self, name: str) -> None:
        """InputError if a field is invalid. `name` is its name in the recipe, such as 'pretrain.init'. Names of layers
        are checked where the network is known."""
        if self.head not in ("same", "new"):
            raise InputError(f"{name}.head is {self.head!r}: give 'same' or 'new'")
        if self.what not in get_args(Taken):
            raise InputError(f"{name}.what is {self.what!r}: give 'weights' or 'norms'")
        if not 0 < self.frozen_until <= 1:
            raise InputError(f"{name}.frozen_until is {self.frozen_until}: give a fraction over 0 and at most 1")
        if not 0 < self.first_lr <= 1:
            raise InputError(f"{name}.first_lr is {self.first_lr}: give a number over 0 and at most 1")
        for key in ("take", "frozen"):
            if bad := [layer for layer in getattr(self, key) if not layer]:
                raise InputError(f"{name}.{key} has {bad[0]!r}: give names of layers, '{TRUNK}' or '{CONVOLUTIONS}'")

    def thaws_at(self, steps: int) -> int:
        """The step of a training of `steps` steps before which the frozen layers begin to be trained; 0: none is
        frozen."""
        return ceil(self.frozen_until * steps) if self.frozen else 0
