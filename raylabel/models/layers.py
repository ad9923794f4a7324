"""The convolutions and BatchNorms of a network in the order in which they run, and what each of them takes.

Letters: B batch, C channels of the input, n patches of a sample, G groups of a convolution, L positions of its output,
D = C / G times the positions of its kernel.
"""

import math
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from raylabel.errors import InputError
from raylabel.models.head import head_of
from raylabel.models.sobel import SobelConv2d, SobelConv3d, gradients
from raylabel.models.start import CONVOLUTION
from raylabel.models.to_layer import Reached

KNOWN = (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward, SobelConv2d.forward, SobelConv3d.forward)
"""What a convolution computes. Some of timm standardise their weights, or pad in other ways."""
MOST = 8_192
"""Numbers of a filter, D: the eigenvectors of their covariance take minutes."""


def check_convolutional(network: nn.Module) -> None:
    """InputError if the network also has layers of attention, or no convolution before its head."""
    kinds = {type(layer).__name__ for layer in network.modules()}
    head = head_of(network)
    convolves = any(isinstance(layer, CONVOLUTION) for name, layer in network.named_modules() if name != head)
    if found := sorted(kind for kind in kinds if "Attention" in kind):
        raise InputError(f"the network has layers of attention ({found[0]}): give one of convolutions, as resnet50")
    if not convolves:
        raise InputError("the network has no convolutions: give another, for example resnet50")


def layer_order(network: nn.Module, x: Tensor) -> list[str]:
    """The names of the convolutions and BatchNorms of a network in evaluation mode, in the order in which they first
    run for an input x, without the head. InputError if what a convolution does with its patches is not known."""
    names, hooks, head = list[str](), [], head_of(network)
    for name, layer in network.named_modules():
        if isinstance(layer, CONVOLUTION | _BatchNorm) and name != head:
            if isinstance(layer, CONVOLUTION):
                _check(name, layer)
            hooks.append(layer.register_forward_pre_hook(lambda *_, name=name: names.append(name)))
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    return list(dict.fromkeys(names))


def _check(name: str, layer: Any) -> None:
    if type(layer).forward not in KNOWN or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise InputError(
            f"layer '{name}' is a {type(layer).__name__} with padding {layer.padding!r}: give a network of PyTorch's "
            "own convolutions, padded with zeros by a number of positions"
        )
    if (numbers := layer.weight[0].numel()) > MOST:
        raise InputError(f"a filter of layer '{name}' has {numbers:,} numbers: give a network with at most {MOST:,}")


def input_of(network: nn.Module, layer: str, x: Tensor) -> Tensor:
    """What a layer takes the first time it runs for an input x of the network; layers behind it are not computed. Of a
    convolution on gradients, these."""
    found, module = list[Tensor](), network.get_submodule(layer)

    def keep(_: nn.Module, given: tuple[Any, ...]) -> None:
        found.append(given[0])
        raise Reached

    hook = module.register_forward_pre_hook(keep)
    try:
        with suppress(Reached):
            network(x)
    finally:
        hook.remove()
    return gradients(found[0]) if isinstance(module, SobelConv2d | SobelConv3d) else found[0]


def positions_of(layer: Any, x: Tensor) -> int:
    """L of a convolution for its input x [B, C, ...]."""
    return math.prod(_output_shape(layer, x))


def patches_of(layer: Any, x: Tensor, position: Tensor) -> Tensor:
    """The patches [B, n, G, D] that a convolution multiplies with its filters, of its input x [B, C, ...] at positions
    int64 [B, n] of its output, numbered from 0 to L - 1. As `torch.nn.functional.unfold`, for one, two or three axes,
    and only at these positions."""
    axes = range(x.ndim - 2)
    x = functional.pad(x, [pad for axis in reversed(axes) for pad in [layer.padding[axis]] * 2])
    sides = torch.tensor(x.shape[2:])
    # In the padded input as one axis: where a patch begins, and where the positions of the kernel are from there.
    step = torch.tensor([int(sides[axis + 1 :].prod()) for axis in axes])
    corner = torch.stack(torch.unravel_index(position.cpu(), _output_shape(layer, x, padded=True)), -1)
    first = (corner * torch.tensor(layer.stride) * step).sum(-1)  # [B, n]
    kernel = torch.cartesian_prod(*(torch.arange(side) for side in layer.kernel_size)).reshape(-1, len(axes))
    offset = (kernel * torch.tensor(layer.dilation) * step).sum(-1)
    at = (first[..., None] + offset).flatten(1).to(x.device)  # [B, n * kernel positions]
    found = x.flatten(2).gather(2, at[:, None].expand(-1, x.shape[1], -1))
    found = found.unflatten(2, (position.shape[1], len(offset))).transpose(1, 2)  # [B, n, C, kernel positions]
    return found.flatten(2).unflatten(2, (layer.groups, -1))


def _output_shape(layer: Any, x: Tensor, padded: bool = False) -> tuple[int, ...]:
    return tuple(
        (side + (0 if padded else 2 * pad) - dilation * (kernel - 1) - 1) // stride + 1
        for side, pad, dilation, kernel, stride in zip(
            x.shape[2:], layer.padding, layer.dilation, layer.kernel_size, layer.stride, strict=True
        )
    )
