"""A network with a decoder in place of its head, which restores the picture from the map of the last convolution.

A head on the mean over positions could not say what is where. So the map itself is decoded: a 3x3 convolution with
BatchNorm and ReLU, then the pixels of each position by a 1x1 convolution, as He et al. 2022 (arXiv 2111.06377, §3)
predict those of each token. The layers behind the map, such as the linear ones of AlexNet, stay as they are.

Letters: B batch, K channels of the map, T frames, H W pixels.
"""

import math
from collections import Counter
from contextlib import suppress
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from raylabel.models.layers import check_convolutional
from raylabel.models.start import CONVOLUTION
from raylabel.models.to_layer import Reached
from raylabel.models.weights import save_tensors

NETWORK = "network."
"""What the names of the network's tensors begin with, beside those of the decoder."""


class Restoring(nn.Module):
    """Pictures [B, 3, H, W] → pictures of that shape, or clips [B, 3, T, H, W] → clips, float32. The parameters behind
    the map need no gradient."""

    def __init__(self, network: nn.Module, shape: tuple[int, ...]):
        """`shape`: of a picture [3, H, W] or a clip [3, T, H, W]. It changes `network`, which is on the CPU. Draws the
        weights of the decoder from torch's generator. InputError if the network is not one of convolutions."""
        super().__init__()
        check_convolutional(network)
        layer, (width, *sides), used = _last_map(network, torch.zeros(2, *shape))
        for name, module in network.named_modules():
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(name in used)
        self.network = network
        self._steps = [-(-whole // part) for whole, part in zip(shape[1:], sides, strict=True)]
        convolution, norm = (nn.Conv2d, nn.BatchNorm2d) if len(sides) == 2 else (nn.Conv3d, nn.BatchNorm3d)
        self.decoder = nn.Sequential(
            convolution(width, width, 3, padding=1, bias=False),
            norm(width),
            nn.ReLU(inplace=True),
            convolution(width, 3 * math.prod(self._steps), 1),
        )
        self._seen: Tensor | None = None
        network.get_submodule(layer).register_forward_hook(self._keep)

    def _keep(self, _: nn.Module, __: Any, output: Tensor) -> None:
        self._seen = output
        raise Reached

    def forward(self, x: Tensor) -> Tensor:
        with suppress(Reached):
            self.network(x)
        found, self._seen = self._seen, None
        assert found is not None
        pixels = _spread(self.decoder(found).float(), self._steps)
        if pixels.shape[2:] == x.shape[2:]:
            return pixels
        mode = "bilinear" if x.ndim == 4 else "trilinear"
        return functional.interpolate(pixels, x.shape[2:], mode=mode, align_corners=False)


def _spread(x: Tensor, steps: list[int]) -> Tensor:
    """[B, 3, s1 h1, s2 h2, ...] of [B, 3 s1 s2 ..., h1, h2, ...]: each position becomes s1 x s2 x ... of them, as in
    `torch.nn.functional.pixel_shuffle`."""
    axes, sides = len(steps), x.shape[2:]
    x = x.reshape(len(x), 3, *steps, *sides)
    order = [axis for number in range(axes) for axis in (2 + axes + number, 2 + number)]
    return x.permute(0, 1, *order).reshape(len(x), 3, *(side * step for side, step in zip(sides, steps, strict=True)))


def _last_map(network: nn.Module, x: Tensor) -> tuple[str, tuple[int, ...], set[str]]:
    """(the last layer that gives a map of the shape of the last convolution's output, this shape [K, ...], the names of
    the layers that run until then). Convolutions with one position, as in squeeze-and-excitation or in the last stage
    of a network for larger pictures, are passed over if there are others: they do not say what is where."""
    done, begun, hooks = list[tuple[str, tuple[int, ...], set[str]]](), set[str](), []
    for name, module in network.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: begun.add(name)))
        hooks.append(
            module.register_forward_hook(lambda *a, name=name: done.append((name, tuple(a[2].shape[1:]), {*begun})))
        )
    training = network.training
    with torch.no_grad():
        network.eval()(x)
    network.train(training)
    for hook in hooks:
        hook.remove()
    convolutions = {name for name, layer in network.named_modules() if isinstance(layer, CONVOLUTION)}
    shapes = [shape for name, shape, _ in done if name in convolutions]
    wide = [shape for shape in shapes if math.prod(shape[1:]) > 1]
    wanted, runs = (wide or shapes)[-1], Counter(name for name, *_ in done)
    return next(one for one in reversed(done) if one[1] == wanted and runs[one[0]] == 1)


def without_decoder(data: bytes) -> bytes:
    """The weights of the network alone, in the file of those of a `Restoring`."""
    tensors = safetensors.torch.load(data)
    return save_tensors({name.removeprefix(NETWORK): x for name, x in tensors.items() if name.startswith(NETWORK)})
