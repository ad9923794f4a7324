"""A first convolution on the gradients of a picture in place of its colours (Caron et al. 2018, arXiv 1807.05520, §4).

Letters: B batch, T frames, H W pixels.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

SIDE = ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0))
"""The Sobel filter for gradients from left to right; its transpose is that for gradients from top to bottom."""


def use_sobel(network: nn.Module) -> None:
    """Gives the first convolution of a network for pictures or clips the two gradients of the grey picture, the mean of
    the normalised colours, as its input. The gradients are fixed; beyond the border the picture is 0, as in the
    official code. The convolution keeps its name, and the weights of its first two channels."""
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d) and layer.in_channels == 3 and layer.groups == 1:
            kind = SobelConv2d if isinstance(layer, nn.Conv2d) else SobelConv3d
            made = kind(
                2,
                layer.out_channels,
                cast(Any, layer.kernel_size),
                stride=cast(Any, layer.stride),
                padding=cast(Any, layer.padding),
                dilation=cast(Any, layer.dilation),
                bias=layer.bias is not None,
                device="meta",  # its own weights are not drawn, since that would change the random numbers of others
            )
            made.weight = nn.Parameter(layer.weight.detach()[:, :2].clone())
            made.bias = layer.bias
            network.set_submodule(name, made)
            return
    raise AssertionError("the network has no convolution that takes colours")


class SobelConv2d(nn.Conv2d):
    """A convolution of the gradients of pictures [B, 3, H, W]."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(gradients(input))


class SobelConv3d(nn.Conv3d):
    """A convolution of the gradients of the frames of clips [B, 3, T, H, W]."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(gradients(input))


def gradients(input: Tensor) -> Tensor:
    """[B, 2, H, W] of pictures [B, 3, H, W], or [B, 2, T, H, W] of the frames of clips [B, 3, T, H, W]."""
    if input.ndim == 4:
        return functional.conv2d(input, _filters(input), padding=1)
    return functional.conv3d(input, _filters(input).unsqueeze(2), padding=(0, 1, 1))


def _filters(like: Tensor) -> Tensor:
    """[2, 3, 3, 3]: from colours to the gradients of their mean."""
    across = torch.tensor(SIDE, dtype=like.dtype, device=like.device)
    return torch.stack([across, across.T]).unsqueeze(1).expand(2, 3, 3, 3) / 3
