"""A network that ends at one of its layers, with a linear head on the features of it: `Model.layer`.

Letters: B batch, C classes, D numbers of a feature, G areas in a row, K channels of a layer.
"""

import difflib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from raylabel.errors import InputError
from raylabel.models.head import TO_LAYER
from raylabel.models.init import parse_layers


def end_at(network: nn.Module, layer: str, classes: int, shadow: nn.Module, shape: tuple[int, ...]) -> None:
    """Ends `network` at a layer NAME or NAME:G: what it does not run before is taken away, and a new head [C, D] is put
    on the features. Layers that stay keep their names.

    `shadow`: the same network on the device 'meta', on which the layers that run are found with an input [2, *shape].
    InputError if there is no such layer, or it does not run.
    """
    (name, side), *more = parse_layers(layer)
    if more:
        raise InputError(f"the network cannot end at several layers, '{layer}': name one")
    check_layer(network, name)
    before = set(network.state_dict())
    width = _take_away(network, name, shadow, shape) * side * side
    network.get_submodule(name).register_forward_hook(_Stop(side))
    cls = type(network)
    network.__class__ = type(f"{cls.__name__}ToLayer", (_ToLayer, cls), {})
    setattr(network, LEFT_OUT, frozenset(before - set(network.state_dict())))
    network.add_module(TO_LAYER, nn.Linear(width, classes))


def check_layer(network: nn.Module, name: str, other: str = "") -> None:
    """InputError if the network has no such layer. `other`: what else the user may give."""
    names = [one for one, _ in network.named_modules() if one]
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or [one for one, _ in network.named_children()]
        also = f"'{other}' or, " if other else ""
        raise InputError(f"the network has no layer '{name}': give {also}for example {', '.join(close)}")


LEFT_OUT = "_left_out"
"""The attribute of such a network with the names of the tensors of the whole one that it does not have."""


def without_left_out(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a whole network without those that a network that ends at a layer has no place for."""
    left_out = getattr(network, LEFT_OUT, frozenset())
    return {name: tensor for name, tensor in state.items() if name not in left_out}


class Reached(Exception):
    """A hook raises it when the last layer that is needed was computed: those behind it are not run, and might change
    its output in place. Its argument, if it has one, is what was asked for."""


class _Stop:
    """A hook of the last layer."""

    def __init__(self, side: int):
        self.side = side

    def __call__(self, _: nn.Module, __: Any, output: Any) -> None:
        raise Reached(averaged(output, self.side))


class _ToLayer(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C]."""
        features = None
        try:
            super().forward(x)
        except Reached as reached:
            features = reached.args[0]
        if features is None:
            raise InputError("the network did not run its last layer: give another layer")
        return self.get_submodule(TO_LAYER)(features)


def _take_away(network: nn.Module, name: str, shadow: nn.Module, shape: tuple[int, ...]) -> int:
    """Takes away what does not run before the layer, and returns the D of its features for G = 1."""
    entered, done = set[str](), set[str]()
    for one, module in shadow.named_modules():
        module.register_forward_pre_hook(lambda *_, one=one: entered.add(one))
        module.register_forward_hook(lambda *_, one=one: done.add(one))
    shadow.get_submodule(name).register_forward_hook(_Stop(1))
    with torch.enable_grad():
        try:
            shadow(torch.empty(2, *shape, device="meta"))
        except Reached as reached:
            features = reached.args[0]
        else:
            raise InputError(f"the network has a layer '{name}', but does not run it: give another layer")
        # Some modules use the weights of others without running them, such as attention those of its last projection.
        parameters = dict(shadow.named_parameters())
        found = torch.autograd.grad(features.sum(), list(parameters.values()), allow_unused=True)
    used = {one for one, gradient in zip(parameters, found, strict=True) if gradient is not None}

    def visit(prefix: str) -> None:
        if prefix in done:
            return
        module = network.get_submodule(prefix)
        for one, parameter in list(module.named_parameters(recurse=False)):
            if parameter is not None and _join(prefix, one) not in used:
                module.register_parameter(one, None)
        for one, _ in list(module.named_children()):
            child = _join(prefix, one)
            if any(each == child or each.startswith(f"{child}.") for each in entered | used):
                visit(child)
            else:  # in place of None, since a network may look up a layer before it runs the one ahead of it
                network.set_submodule(child, nn.Identity())

    visit("")
    return features.shape[1]


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def averaged(x: Any, side: int) -> Tensor:
    """[B, D] of [B, D], of [B, K, ...] with positions in the last dimensions, or of tokens [B, N, K]: of `side` x
    `side` areas of the last two dimensions, D = K side^2."""
    if not isinstance(x, Tensor) or x.ndim < 2:
        raise InputError("the output of this layer is not a tensor of features: give another layer")
    if side > 1 and (x.ndim < 4 or min(x.shape[-2:]) < side):
        raise InputError(f"the output of this layer has not {side} x {side} positions: give fewer, or none")
    if x.ndim == 3:
        return x.mean(1)
    if x.ndim > 4 and side > 1:
        x = x.flatten(2, -3).mean(2)
    if side > 1:
        return functional.adaptive_avg_pool2d(x, side).flatten(1)
    return x.flatten(2).mean(2) if x.ndim > 3 else x
