"""A network up to a layer, which gives the features of its input.

Letters: B batch, D numbers of a feature, H W pixels.
"""

import difflib
from typing import Any

import torch
from torch import Tensor, nn

from raylabel.errors import InputError
from raylabel.models.build import build
from raylabel.models.config import Model
from raylabel.models.head import head_of
from raylabel.models.init import PENULTIMATE


def trunk(network: nn.Module, layer: str = PENULTIMATE) -> nn.Module:
    """The network as a module that gives features [B, D] in place of logits. `layer`: what the head takes, or the
    output of the layer with this name; an output of more dimensions is averaged over all positions.

    It changes `network`. InputError if it has no such layer.
    """
    if layer == PENULTIMATE:
        network.set_submodule(head_of(network), nn.Identity())
        return Trunk(network)
    names = [name for name, _ in network.named_modules() if name]
    if layer not in names:
        close = difflib.get_close_matches(layer, names, n=3, cutoff=0.5) or [n for n, _ in network.named_children()]
        raise InputError(
            f"the network has no layer '{layer}': give '{PENULTIMATE}' or, for example, {', '.join(close)}"
        )
    return Trunk(network, layer)


class Trunk(nn.Module):
    """A network whose output, or that of one of its layers, is averaged over positions."""

    def __init__(self, network: nn.Module, layer: str = ""):
        super().__init__()
        self.network = network
        self._seen: Any = None
        if layer:
            network.get_submodule(layer).register_forward_hook(self._keep)

    def _keep(self, _: nn.Module, __: Any, output: Any) -> None:
        self._seen = output

    def forward(self, x: Tensor) -> Tensor:
        found = self.network(x)
        if self._seen is not None:
            found, self._seen = self._seen, None
        return _averaged(found)


class Headed(nn.Module):
    """A trunk and the head on its features, so that the head can be given more samples at a time than the trunk."""

    def __init__(self, network: nn.Module):
        """It changes `network`."""
        super().__init__()
        self.head = network.get_submodule(head_of(network))
        self.trunk = trunk(network)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))


def _averaged(x: Any) -> Tensor:
    """[B, D] of [B, D], of [B, D, ...] with positions in the last dimensions, or of tokens [B, N, D]."""
    if not isinstance(x, Tensor) or x.ndim < 2:
        raise InputError("the output of this layer is not a tensor of features: give another layer")
    if x.ndim == 3:
        return x.mean(1)
    return x.flatten(2).mean(2) if x.ndim > 3 else x


def width_of(model: Model, layer: str, shape: tuple[int, ...]) -> int:
    """D of the features of a network, for an input [3, ...] of this shape. It computes nothing: only shapes."""
    with torch.device("meta"), torch.inference_mode():
        module = trunk(build(model, 2), layer).eval()
        return module(torch.empty(2, *shape)).shape[1]
