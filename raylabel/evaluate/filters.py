"""What the filters of a network respond to, as pictures (Caron et al. 2018, arXiv 1807.05520, Figures 3 and 4).

Letters: B batch, K filters, H W pixels, h w pixels of a filter.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from raylabel.models.sobel import SIDE, SobelConv2d, SobelConv3d

BLUR, BLURRED = 0.3, 5
"""Standard deviation in pixels of the blur of a picture, and in how many steps it is blurred once."""
DECAY = 1e-5
"""Of the squared norm of the input, as in the official code."""
STEP = 0.5 / 255
"""Root mean square of the change of a pixel in a step. The official code's steps are smaller, and more."""
NOISE = 20 / 255


def first_filters(network: nn.Module) -> np.ndarray:
    """The filters of the first convolution of a network, each scaled to its own range: uint8 [K, h, w, 3]; of clips
    those of the middle frame. If it takes gradients, they are the filters that these make of the grey picture."""
    layer = next(one for one in network.modules() if isinstance(one, nn.Conv2d | nn.Conv3d))
    weight = layer.weight.detach().float()
    weight = weight[:, :, weight.shape[2] // 2] if weight.ndim == 5 else weight
    if isinstance(layer, SobelConv2d | SobelConv3d):
        across = torch.tensor(SIDE)
        both = torch.stack([across, across.T]).unsqueeze(1)  # [2, 1, 3, 3]
        # A convolution of a convolution: pixel x meets both filters at all distances that sum to its own.
        grey = functional.conv_transpose2d(weight, both)
        weight = grey.expand(-1, 3, -1, -1)
    low, high = weight.amin((1, 2, 3), keepdim=True), weight.amax((1, 2, 3), keepdim=True)
    scaled = 255 * (weight - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def exciting_picture(
    trunk: nn.Module, channel: int, side: int, normalised: Any, steps: int, seed: int = 0
) -> np.ndarray:
    """A picture that excites a filter more than the others of its layer, uint8 [side, side, 3]: `steps` steps of
    gradient ascent from noise around grey.

    `trunk` gives the means over positions of the layer's channels. The log of the channel's share in a softmax of these
    is raised, less the squared norm of the input; the gradient is scaled to a fixed length, and the picture is blurred
    now and then, as in the official code. `normalised`: from pixels [B, 3, H, W] from 0 to 1 to the input.
    """
    generator = torch.Generator().manual_seed(seed)
    picture = 0.5 + NOISE * torch.randn((1, 3, side, side), generator=generator)
    trunk.eval()
    for step in range(steps):
        picture = picture.detach().requires_grad_()
        with torch.enable_grad():
            given = normalised(picture)
            aim = functional.log_softmax(trunk(given), 1)[0, channel] - DECAY * (given**2).sum()
            (gradient,) = torch.autograd.grad(aim, picture)
        length = gradient.square().mean().sqrt().clamp(min=torch.finfo(torch.float32).tiny)
        picture = picture.detach() + STEP * gradient / length
        if step % BLURRED == 0:
            picture = _blurred(picture)
    pixels = picture.detach().clamp(0, 1)[0].permute(1, 2, 0)
    return (255 * pixels).round().to(torch.uint8).numpy()


def _blurred(picture: Tensor) -> Tensor:
    from torchvision.transforms.v2.functional import gaussian_blur

    return gaussian_blur(picture, [3, 3], [BLUR, BLUR])
