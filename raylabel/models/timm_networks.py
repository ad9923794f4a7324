"""Networks of timm (the extra raylabel[timm]): which there are, how they are built, and what timm states of weights.

timm is imported only where one of them is named, since that takes as long as importing PyTorch.

`arch` is everywhere that of `Model`, with the prefix 'timm/', and `size` is its field of that name.
"""

import difflib
import importlib.util
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from raylabel.errors import InputError
from raylabel.media.view import View
from raylabel.text import one_line

if TYPE_CHECKING:
    from torch import Tensor, nn

TIMM = "timm/"


def is_timm(arch: str) -> bool:
    """Whether it is a network of timm."""
    return arch.startswith(TIMM)


def check_timm(arch: str, size: int, name: str) -> None:
    """InputError if timm is missing or has no such network; `name` is that of the model in the recipe."""
    if importlib.util.find_spec("timm") is None:
        raise InputError(f"{name}.arch is '{arch}', which needs timm: pip install 'raylabel[timm]'")
    from timm import list_models
    from timm.models import is_model

    plain, _, tag = arch.removeprefix(TIMM).partition(".")
    if not is_model(plain):
        close = [TIMM + each for each in difflib.get_close_matches(plain, list_models(), n=3, cutoff=0.5)]
        hint = f"did you mean {' or '.join(close)}?" if close else "see timm.list_models()"
        raise InputError(f"{name}.arch is {arch!r}, which timm does not have: {hint}")
    tags = _tags(plain)
    if tag and tag not in tags:
        known = ", ".join(f"{TIMM}{plain}.{each}" for each in tags) or f"{TIMM}{plain}"
        raise InputError(f"{name}.arch is {arch!r}, but timm has no such weights of {plain}: give {known}")
    config = pretrained_config(arch)
    if not isinstance(config["classifier"], str):
        layers = "several last layers" if config["classifier"] else "no last layer"
        raise InputError(f"{name}.arch is {arch!r}, which has {layers} for classes: give a network with one")
    if size and not config["fixed_input_size"]:
        raise InputError(f"{name}.size is {size}, but {arch} takes pictures of any size: leave it out")


def fixed_size(arch: str, size: int) -> int:
    """The side in pixels that a network of timm is built for; 0 if it takes pictures of any size."""
    config = pretrained_config(arch)
    return (size or config["input_size"][-1]) if config["fixed_input_size"] else 0


def build_timm(arch: str, size: int, classes: int) -> "nn.Module":
    """The network with random weights, as timm initialises them; logits [B, C] with C = `classes`."""
    import timm

    return timm.create_model(arch.removeprefix(TIMM), num_classes=classes, **_arguments(arch, size))


def _arguments(arch: str, size: int) -> dict[str, Any]:
    return {"img_size": side} if (side := fixed_size(arch, size)) else {}


@cache
def pretrained_config(arch: str) -> Mapping[str, Any]:
    """What timm states of the weights that the tag of `arch` names, or of its default ones: input_size, mean, std,
    crop_pct, num_classes, license, hf_hub_id and so on."""
    from timm.models import get_pretrained_cfg

    found = get_pretrained_cfg(arch.removeprefix(TIMM))
    assert found is not None, arch
    return found.to_dict()


def _tags(plain: str) -> list[str]:
    from timm.models import list_pretrained

    return [name.partition(".")[2] for name in list_pretrained(f"{plain}.*")]


def converted(
    arch: str, size: int, state: Mapping[str, "Tensor"], config: Mapping[str, Any], where: str
) -> dict[str, "Tensor"]:
    """The tensors as `build_timm` names and shapes them, by timm's own conversion: of the names of the network's first
    publication, and of its positions to another size. The head keeps its number of classes.

    `config`: what the publisher says of the weights, as `pretrained_config`. InputError, which names `where`, if they
    are not of this network.
    """
    import timm

    weight = state.get(f"{config['classifier']}.weight")
    classes = config["num_classes"] if weight is None else len(weight) - (config.get("label_offset") or 0)
    given = {"state_dict": dict(state), "num_classes": classes, "source": "", "custom_load": False}
    given |= {key: config[key] for key in ("label_offset", "first_conv") if key in config}
    try:
        network = timm.create_model(
            arch.removeprefix(TIMM),
            pretrained=True,
            num_classes=classes,
            pretrained_cfg_overlay=given,
            **_arguments(arch, size),
        )
    except (RuntimeError, KeyError, ValueError) as error:
        raise InputError(f"'{where}' does not fit {arch}: {one_line(error)}; give weights of this network") from error
    return network.state_dict()


def pretrained_view(arch: str, size: int, config: Mapping[str, Any], view: View) -> View:
    """`view` with what the publisher of the weights says of pictures: size, resize, interpolation, mean and standard
    deviation. The augmentation of training stays. InputError if a View cannot do the same."""
    side = fixed_size(arch, size) or config["input_size"][-1]
    mode, interpolation = config.get("crop_mode") or "center", config["interpolation"]
    if mode not in ("center", "squash") or interpolation not in ("bilinear", "bicubic"):
        raise InputError(
            f"the weights of {arch} are for pictures with crop mode '{mode}' and interpolation "
            f"'{interpolation}', which raylabel does not have: give teacher.view"
        )
    return replace(
        view,
        size=side,
        eval_size=0,
        resize=math.floor(side / config["crop_pct"]),
        squash=mode == "squash",
        interpolation=interpolation,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
