"""A network up to a layer, which gives the features of its input.

Letters: B batch, D numbers of a feature, G areas in a row, K channels of a layer, N tokens.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from raylabel.errors import InputError
from raylabel.models.build import build
from raylabel.models.config import Model
from raylabel.models.head import head_of
from raylabel.models.init import PENULTIMATE, parse_layers
from raylabel.models.to_layer import Reached, averaged, check_layer


def trunk(network: nn.Module, layer: str = PENULTIMATE) -> nn.Module:
    """The network as a module that gives features [B, D] in place of logits. `layer`: what the head takes; or NAME, the
    output of the layer with this name, averaged over all positions; or NAME:G, averaged in each of G x G areas, which
    gives G^2 numbers for each channel; or several of these joined by '+', whose numbers follow each other.

    Layers behind the last of them are not computed. It changes `network`. InputError if it has no such layer.
    """
    if layer == PENULTIMATE:
        network.set_submodule(head_of(network), nn.Identity())
        return Trunk(network)
    layers = parse_layers(layer)
    for name, _ in layers:
        check_layer(network, name, PENULTIMATE)
    return Trunk(network, layers)


class Trunk(nn.Module):
    """A network whose output, or that of some of its layers the first time each runs, is averaged over positions."""

    def __init__(self, network: nn.Module, layers: Sequence[tuple[str, int]] = ()):
        """`layers`: each with its number of areas in a row."""
        super().__init__()
        self.network, self._layers = network, tuple(layers)
        self._seen: dict[tuple[str, int], Tensor] = {}
        for layer in self._layers:
            network.get_submodule(layer[0]).register_forward_hook(partial(self._keep, layer))

    def _keep(self, layer: tuple[str, int], _: nn.Module, __: Any, output: Any) -> None:
        if layer not in self._seen:
            self._seen[layer] = averaged(output, layer[1])
        if len(self._seen) == len(set(self._layers)):
            raise Reached

    def forward(self, x: Tensor) -> Tensor:
        if not self._layers:
            return averaged(self.network(x), 1)
        with suppress(Reached):
            self.network(x)
        seen, self._seen = self._seen, {}
        if missing := [name for name, side in self._layers if (name, side) not in seen]:
            raise InputError(f"the network has a layer '{missing[0]}', but does not run it: give another layer")
        return torch.cat([seen[layer] for layer in self._layers], 1)


class Headed(nn.Module):
    """A trunk and the head on its features, so that the head can be given more samples at a time than the trunk."""

    def __init__(self, network: nn.Module):
        """It changes `network`."""
        super().__init__()
        self.head = network.get_submodule(head_of(network))
        self.trunk = trunk(network)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))


def width_of(model: Model, layer: str, shape: tuple[int, ...]) -> int:
    """D of the features of a network, for an input [3, ...] of this shape. It computes nothing: only shapes."""
    with torch.device("meta"), torch.inference_mode():
        module = trunk(build(model, 2), layer).eval()
        return module(torch.empty(2, *shape)).shape[1]
