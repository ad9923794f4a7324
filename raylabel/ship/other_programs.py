"""How programs without raylabel build a network: Python code for torchvision, timm or copied files, and timm's config.

`tests/ship/test_other_programs.py` builds the networks in both ways and compares their logits.
"""

import importlib
import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch

from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.build import EXTRA, build
from raylabel.models.clip_networks import clip_name, is_clip, model_config
from raylabel.models.config import ALEXNET, RESNEXT101, SMALL, SMALL_ALEXNET, SMALL_C3D
from raylabel.models.head import head_of
from raylabel.models.timm_networks import TIMM, fixed_size, is_timm
from raylabel.models.trained import WEIGHTS

SOURCE, UNIT_SOURCE, SOBEL_SOURCE = "model.py", "unit.py", "sobel.py"
SOURCES = SOURCE, UNIT_SOURCE, SOBEL_SOURCE
TIMM_CONFIG = "config.json"

# Networks whose weights have the same names in timm, and which give the same logits there, bit for bit.
_IN_TIMM = {
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
    *(f"resnext101_32x{d}d" for d in (4, 8, 16, 32, 48)),
    *("densenet121", "densenet161", "densenet169", "densenet201"),
}


def timm_network(model: Model) -> tuple[str, dict[str, Any]] | None:
    """The architecture and the arguments with which timm builds the network; None if it has no such network.

    Other architectures of torchvision do not exist in timm, have other names of weights there, or other arithmetic
    (VGG).
    """
    if model.features != "raw" or model.input != "rgb":
        return None
    if is_timm(model.arch):
        return _of_timm(model)
    if model.arch not in _IN_TIMM or model.stem != "imagenet":
        return None
    if model.arch == "resnext101_32x48d":  # has no name of its own in timm 1
        return "resnext101_32x32d", {"base_width": 48}
    return model.arch, {}


def _of_timm(model: Model) -> tuple[str, dict[str, Any]]:
    side = fixed_size(model.arch, model.size)
    return model.arch.removeprefix(TIMM).partition(".")[0], {"img_size": side} if side else {}


def timm_config(model: Model, view: View, classes: Sequence[str]) -> dict[str, Any] | None:
    """The content of config.json for `timm.create_model("local-dir:FOLDER", pretrained=True)`; None if timm has no such
    network."""
    import timm

    if (found := timm_network(model)) is None:
        return None
    arch, arguments = found
    known, side = timm.get_pretrained_cfg(arch), view.tested_size
    assert known is not None
    return {
        "architecture": arch,
        "num_classes": len(classes),
        "global_pool": "avg",
        "model_args": arguments,
        "label_names": list(classes),
        "pretrained_cfg": {
            "input_size": [3, side, side],
            "fixed_input_size": "img_size" in arguments,
            "interpolation": view.interpolation,
            "crop_pct": crop_fraction(side, view.resize),
            "crop_mode": "squash" if view.squash else "center",
            "mean": list(view.mean),
            "std": list(view.std),
            "num_classes": len(classes),
            "first_conv": known.first_conv,  # with these two, timm loads it for other channels or other classes
            "classifier": known.classifier,
        },
    }


def crop_fraction(size: int, resize: int) -> float:
    """The fraction from which timm computes `resize`, the short side before the crop, as floor(size / fraction)."""
    fraction = size / resize
    while math.floor(size / fraction) < resize:
        fraction = math.nextafter(fraction, 0)
    return fraction


def source_texts(model: Model) -> dict[str, str]:
    """Python files that the code needs → their content: modules of raylabel that import only PyTorch, torchvision and
    open_clip."""
    modules = {SOURCE: _own(model)[0], UNIT_SOURCE: "unit" if model.features == "unit" else ""}
    modules |= {SOBEL_SOURCE: "sobel"} if model.input == "sobel" else {}
    return {
        file: inspect.getsource(importlib.import_module(f"raylabel.models.{name}"))
        for file, name in modules.items()
        if name
    }


def torch_code(model: Model, classes: int) -> str:
    """Python code that loads the weights in the current folder into `network`, without raylabel."""
    own, call = _own(model)
    imports, lines = ["import safetensors.torch"], [f"network = {call}"]
    if own:
        imports.append(f"from model import {call.partition('(')[0]}")
        lines = [f"network = {call}{classes})"]
    elif is_timm(model.arch):
        imports.append("import timm")
        name, arguments = _of_timm(model)
        extra = "".join(f", {key}={value}" for key, value in arguments.items())
        lines = [f'network = timm.create_model("{name}", num_classes={classes}{extra})']
    elif width := RESNEXT101.get(model.arch):
        imports.append("from torchvision.models.resnet import Bottleneck, ResNet")
        groups = f"groups=32, width_per_group={width}"
        lines = [f"network = ResNet(Bottleneck, [3, 4, 23, 3], num_classes={classes}, {groups})"]
    else:
        imports.append("import torchvision")
        extra = "".join(f", {name}={value}" for name, value in EXTRA.get(model.arch, {}).items())
        lines = [f'network = torchvision.models.get_model("{model.arch}", num_classes={classes}{extra})']
    if model.stem == "small":
        imports.append("import torch")
        lines += [
            "channels = network.conv1.out_channels",
            "network.conv1 = torch.nn.Conv2d(3, channels, kernel_size=3, stride=1, padding=1, bias=False)",
            "network.maxpool = torch.nn.Identity()",
        ]
    if model.input == "sobel":
        imports.append("from sobel import use_sobel")
        lines.append("use_sobel(network)")
    if model.features == "unit":
        imports.append("from unit import UnitLinear")
        with torch.device("meta"):  # shapes only, no memory
            network = build(model, classes)
        name = head_of(network)
        width = network.get_submodule(name).in_features
        lines.append(f'network.set_submodule("{name}", UnitLinear({width}, {classes}))')
    lines += [f'network.load_state_dict(safetensors.torch.load_file("{WEIGHTS}"))', "network.eval()"]
    return "\n".join([*imports, "", *lines])


def _own(model: Model) -> tuple[str, str]:
    """(the module of raylabel.models that has the network, the call that builds it up to the number of classes); empty
    if torchvision or timm has it."""
    if is_clip(model.arch):
        quick_gelu = model_config(model.arch)["quick_gelu"]
        return "clip_tower", f'clip_network("{clip_name(model.arch)[0]}", {quick_gelu}, '
    if small := SMALL.fullmatch(model.arch):
        module, name = ("small", "SmallResNet") if small[1] == "resnet" else ("video", "SmallR2Plus1D")
        return module, f"{name}({small[2]}, {small[3]}, "
    if narrow := SMALL_C3D.fullmatch(model.arch):
        return "c3d", f"SmallC3D({narrow[1]}, "
    if narrow := SMALL_ALEXNET.fullmatch(model.arch):
        return "alexnet", f"SmallAlexNet({narrow[1]}, "
    if model.arch == ALEXNET:
        return "alexnet", "AlexNetBN("
    return {"r2plus1d_34": ("video", "r2plus1d_34("), "c3d": ("c3d", "C3D(")}.get(model.arch, ("", ""))
