"""Where in a picture a network finds a class: Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391, §3).

Letters: B batch, C classes, K channels, H W pixels, h w positions of the layer.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def class_maps(network: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """How much each pixel speaks for a class, float32 [B, H, W] from 0 to 1, for square images [B, 3, H, W] and classes
    int64 [B]; all 0 where nothing does.

    The layer is the last one, in the order of computation, whose output [B, K, h, w], or [B, h, w, K] as in Swin
    transformers, has several positions: behind it are the pool and the head. The map is ReLU(sum_k a_k A_k), where A_k
    are its channels and a_k the mean gradients of the class's logit by them, resized to the picture, with 1 as its
    maximum. For a network that averages over positions and has one linear layer, it is CAM (Zhou et al. 2016, arXiv
    1512.04150) but for the factor. The network is in evaluation mode afterwards. ValueError if no layer has several
    positions.
    """
    network.eval()
    layer = network.get_submodule(_last_with_positions(network, images[:1]))
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()  # what follows may work in place

    hook = layer.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            logits = network(images.requires_grad_())
            chosen = logits.gather(1, classes[:, None]).sum()
            output = kept[-1]  # a module may be used several times
            (gradient,) = torch.autograd.grad(chosen, output)
    finally:
        hook.remove()
    gradient, output = _channels_first(gradient), _channels_first(output.detach())
    assert gradient is not None and output is not None
    found = (gradient.mean((2, 3), keepdim=True) * output).sum(1, keepdim=True).relu()
    found = functional.interpolate(found.float(), images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    most = found.amax((1, 2), keepdim=True)
    return found / most.clamp(min=torch.finfo(torch.float32).tiny)


def _last_with_positions(network: nn.Module, image: Tensor) -> str:
    """The name of the layer for an image [1, 3, H, W]."""
    order: list[str] = []

    def note(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and _channels_first(output) is not None and len(output) == len(image):
                order.append(name)

        return hook

    hooks = [module.register_forward_hook(note(name)) for name, module in network.named_modules() if name]
    try:
        with torch.no_grad():
            network(image)
    finally:
        for hook in hooks:
            hook.remove()
    if not order:
        raise ValueError("no layer of the network has an output with several positions")
    return order[-1]


def _channels_first(output: Tensor) -> Tensor | None:
    """A layer's output as [B, K, h, w]; None if it has not several positions. Positions are square, as the images."""
    if output.ndim != 4 or output.shape[2] == 1:
        return None
    if output.shape[2] == output.shape[3]:
        return output
    return output.permute(0, 3, 1, 2) if output.shape[1] == output.shape[2] else None
