"""A network up to a layer, which gives the features of its input.

Letters: B batch, D numbers of a feature, G areas in a row, K channels of a layer, N tokens.
"""

import difflib
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from raylabel.errors import InputError
from raylabel.models.build import build
from raylabel.models.config import Model
from raylabel.models.head import head_of
from raylabel.models.init import PENULTIMATE, parse_layer
from raylabel.models.to_layer import averaged


def trunk(network: nn.Module, layer: str = PENULTIMATE) -> nn.Module:
    """The network as a module that gives features [B, D] in place of logits. `layer`: what the head takes; or NAME, the
    output of the layer with this name, averaged over all positions; or NAME:G, averaged in each of G x G areas, which
    gives G^2 numbers for each channel.

    Layers behind it are not computed. It changes `network`. InputError if it has no such layer.
    """
    if layer == PENULTIMATE:
        network.set_submodule(head_of(network), nn.Identity())
        return Trunk(network)
    layer, side = parse_layer(layer)
    names = [name for name, _ in network.named_modules() if name]
    if layer not in names:
        close = difflib.get_close_matches(layer, names, n=3, cutoff=0.5) or [n for n, _ in network.named_children()]
        raise InputError(
            f"the network has no layer '{layer}': give '{PENULTIMATE}' or, for example, {', '.join(close)}"
        )
    return Trunk(network, layer, side)


class Trunk(nn.Module):
    """A network whose output, or that of one of its layers the first time it runs, is averaged over positions."""

    def __init__(self, network: nn.Module, layer: str = "", side: int = 1):
        super().__init__()
        self.network = network
        self._layer, self._side = layer, side
        self._seen: Tensor | None = None
        if layer:
            network.get_submodule(layer).register_forward_hook(self._keep)

    def _keep(self, _: nn.Module, __: Any, output: Any) -> None:
        self._seen = averaged(output, self._side)
        raise _Reached

    def forward(self, x: Tensor) -> Tensor:
        if not self._layer:
            return averaged(self.network(x), 1)
        with suppress(_Reached):
            self.network(x)
        found, self._seen = self._seen, None
        if found is None:
            raise InputError(f"the network has a layer '{self._layer}', but does not run it: give another layer")
        return found


class _Reached(Exception):
    """The layer of the features was computed. Nothing behind it is needed; it might also change its output in place."""


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
