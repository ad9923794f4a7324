"""Builds a network by name: image classifiers of torchvision and timm, image towers of open_clip, the rest of the
ResNeXt-101 32xCd family, R(2+1)D and C3D for clips of video, and small residual networks for images and for clips.

Letters: B batch, C classes, T frames, H W pixels.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from raylabel.errors import InputError
from raylabel.models.alexnet import AlexNetBN, SmallAlexNet
from raylabel.models.c3d import C3D, SmallC3D
from raylabel.models.clip_networks import build_clip, is_clip
from raylabel.models.clip_tower import ClipNetwork
from raylabel.models.config import (
    ALEXNET,
    RESNEXT101,
    SMALL,
    SMALL_ALEXNET,
    SMALL_C3D,
    TWO_LAYERS,
    Model,
    check,
    some_shape,
)
from raylabel.models.head import head_of
from raylabel.models.small import SmallResNet
from raylabel.models.sobel import use_sobel
from raylabel.models.timm_networks import build_timm, is_timm
from raylabel.models.to_layer import end_at
from raylabel.models.two_layers import TwoConvolutions, TwoLinear
from raylabel.models.unit import UnitLinear

# Both have auxiliary classifiers for training, which are not built here. torchvision's weights of both were trained
# on images scaled to [-1, 1]; with transform_input they take images normalised as for every other network.
_INCEPTION = {"aux_logits": False, "transform_input": True, "init_weights": True}
EXTRA: dict[str, dict[str, Any]] = {"googlenet": _INCEPTION, "inception_v3": _INCEPTION}
"""Arguments of torchvision's networks besides the number of classes."""


def memory_format(module: nn.Module) -> torch.memory_format:
    """The memory format for `module.to` and for its input: channels last, so that a pixel's channels are adjacent.

    On one CPU core, r2plus1d_18 scores 1.1 times as many clips per second in this format (bf16), and r2plus1d8x1 trains
    on 1.4 times as many (fp32). No network for clips is much slower (AMD EPYC, 2026-11-21).
    """
    clips = any(parameter.ndim == 5 for parameter in module.parameters())
    return torch.channels_last_3d if clips else torch.channels_last


def input_dtype(module: nn.Module, bf16: bool) -> torch.dtype:
    """The dtype of the input that gives the same bits as float32, but is not larger than needed.

    `bf16`: autocast is on. It rounds the input of a convolution to bf16, so the input may already have been rounded if
    a convolution is the first operation.
    """
    first = next(child for child in module.modules() if not any(child.children()))
    convolves = isinstance(first, nn.Conv2d | nn.Conv3d) and not getattr(module, "transform_input", False)
    # Another operation may come before it in networks of timm and open_clip, also in a trunk of them.
    others = any(hasattr(child, "pretrained_cfg") or isinstance(child, ClipNetwork) for child in module.modules())
    return torch.bfloat16 if bf16 and convolves and not others else torch.float32


def state_bytes(model: Model, classes: int) -> int:
    """Bytes of the weights and the statistics of a network."""
    with torch.device("meta"):  # shapes only, no memory
        return sum(tensor.nbytes for tensor in build(model, classes).state_dict().values())


def build(model: Model, classes: int) -> nn.Module:
    """A new network that maps float images [B, 3, H, W], or clips [B, 3, T, H, W], to logits [B, C], with C =
    `classes`.

    Its weights are drawn from torch's global generator only, so `torch.manual_seed` before the call determines them.
    Nothing is downloaded. InputError if there is no such network.
    """
    check(model)
    if classes < 1:
        raise InputError(f"classes is {classes}; give at least 1")
    network = _build(model, classes)
    if model.input == "sobel":
        use_sobel(network)
    if model.layer:
        with torch.device("meta"):  # shapes only; it draws no random numbers
            shadow = build(replace(model, layer="", features="raw"), classes)
        end_at(network, model.layer, classes, shadow, some_shape(model))
    if model.features == "unit":
        name = head_of(network)
        head = network.get_submodule(name)
        if not isinstance(head, nn.Linear):
            raise InputError(f"{model.arch} has no linear last layer, so its features cannot be 'unit'")
        network.set_submodule(name, UnitLinear(head.in_features, classes))
    return network


def _build(model: Model, classes: int) -> nn.Module:
    small = SMALL.fullmatch(model.arch)
    if small and small[1] == "resnet":
        return SmallResNet(int(small[2]), int(small[3]), classes)
    if model.arch == "c3d":
        return C3D(classes)
    if narrow := SMALL_C3D.fullmatch(model.arch):
        return SmallC3D(int(narrow[1]), classes)
    if model.arch == ALEXNET:
        return AlexNetBN(classes)
    if narrow := SMALL_ALEXNET.fullmatch(model.arch):
        return SmallAlexNet(int(narrow[1]), classes)
    if two := TWO_LAYERS.fullmatch(model.arch):
        if two[1] == "linear2":
            return TwoLinear(model.size, classes)
        return TwoConvolutions(model.size, classes, pool=bool(two[2]), norm=bool(two[3]))
    if is_timm(model.arch):
        return build_timm(model.arch, model.size, classes)
    if is_clip(model.arch):
        return build_clip(model.arch, classes)
    # Imported only for the networks that need it: in each actor that takes as long as importing PyTorch.
    import torchvision
    from torchvision.models.resnet import Bottleneck, ResNet

    from raylabel.models.video import SmallR2Plus1D, r2plus1d_34

    if small:
        return SmallR2Plus1D(int(small[2]), int(small[3]), classes)
    if model.arch == "r2plus1d_34":
        return r2plus1d_34(classes)
    if model.arch in RESNEXT101:
        width = RESNEXT101[model.arch]
        network = ResNet(Bottleneck, [3, 4, 23, 3], num_classes=classes, groups=32, width_per_group=width)
    else:
        extra = EXTRA.get(model.arch, {})
        network = torchvision.models.get_model(model.arch, weights=None, num_classes=classes, **extra)
    if model.stem == "small":
        assert isinstance(network, ResNet)
        network.conv1 = nn.Conv2d(3, network.conv1.out_channels, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()  # type: ignore[assignment]
    return network
