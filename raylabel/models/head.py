"""The last layer of a network: its name; and how to compute it in float32, while the others compute in bfloat16.

A bfloat16 has 8 significant bits, so logits computed in it take few values, many samples of a class tie, and the order
of ties says nothing about the samples. The last layer is where most of this is lost, and it is cheap.
"""

import torch
from torch import Tensor, nn

TO_LAYER = "probe"
"""The name of the head of a network that ends at a layer (models/to_layer.py)."""


def head_of(network: nn.Module) -> str:
    """The name of the last layer, whose outputs are the logits.

    It is linear in all networks that `build` makes, except in SqueezeNet and some of timm, where it is a convolution.
    timm tells its name; in the others it is the last layer that is registered.
    """
    if TO_LAYER in dict(network.named_children()):
        return TO_LAYER
    if config := getattr(network, "pretrained_cfg", None):
        return config["classifier"]
    return [name for name, layer in network.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))][-1]


def float32_head(network: nn.Module) -> nn.Module:
    """The network itself, with its last layer computed in float32 also under autocast. For inference: it changes the
    names of that layer's weights.
    """
    name = head_of(network)
    network.set_submodule(name, Float32(network.get_submodule(name)))
    return network


class Float32(nn.Module):
    """A layer that computes in float32, also under autocast."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.layer(x.float())
