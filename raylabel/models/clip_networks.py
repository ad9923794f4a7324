"""Networks of open_clip (the extra raylabel[clip]): which there are, and what open_clip states of weights.

open_clip is imported only where one of them is named, since that takes as long as importing PyTorch.

`arch` is everywhere that of `Model`, with the prefix 'clip/', the name of a network and perhaps '.' and the tag of its
weights. A model config is that of open_clip: embed_dim, vision_cfg, text_cfg, quick_gelu and so on.
"""

import difflib
import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from raylabel.errors import InputError
from raylabel.media.view import View
from raylabel.text import one_line

if TYPE_CHECKING:
    from torch import Tensor, nn

CLIP = "clip/"

_OF_TRAINING = ("patch_dropout", "timm_drop", "timm_drop_path", "timm_model_pretrained")
"""Fields of vision_cfg that do not change the features."""


def is_clip(arch: str) -> bool:
    """Whether it is a network of open_clip."""
    return arch.startswith(CLIP)


def check_clip(arch: str, name: str) -> None:
    """InputError if open_clip is missing or has no such network; `name` is that of the model in the recipe."""
    if importlib.util.find_spec("open_clip") is None:
        raise InputError(f"{name}.arch is '{arch}', which needs open_clip: pip install 'raylabel[clip]'")
    from open_clip import list_models, list_pretrained_tags_by_model

    plain, tag = clip_name(arch)
    if plain not in list_models():
        close = [CLIP + each for each in difflib.get_close_matches(plain, list_models(), n=3, cutoff=0.5)]
        hint = f"did you mean {' or '.join(close)}?" if close else "see open_clip.list_models()"
        raise InputError(f"{name}.arch is {arch!r}, which open_clip does not have: {hint}")
    tags = list_pretrained_tags_by_model(plain)
    if tag and tag not in tags:
        known = ", ".join(f"{CLIP}{plain}.{each}" for each in tags) or f"{CLIP}{plain}"
        raise InputError(f"{name}.arch is {arch!r}, but open_clip has no such weights of {plain}: give {known}")


def clip_name(arch: str) -> tuple[str, str]:
    """(the name of the network in open_clip, the tag of its weights or '')."""
    plain, _, tag = arch.removeprefix(CLIP).partition(".")
    return plain, tag


@cache
def model_config(arch: str) -> Mapping[str, Any]:
    """The model config. quick_gelu is that of the weights if `arch` has their tag: OpenAI's, for example, need it, and
    open_clip's own config of the network does not have it."""
    from open_clip import get_model_config, get_pretrained_cfg

    plain, tag = clip_name(arch)
    config: Any = get_model_config(plain)
    of_weights = bool(tag) and get_pretrained_cfg(plain, tag).get("quick_gelu")
    return config | {"quick_gelu": bool(config.get("quick_gelu") or of_weights)}


def clip_side(arch: str) -> int:
    """The side in pixels that a network of open_clip is built for."""
    return model_config(arch)["vision_cfg"].get("image_size", 224)


def build_clip(arch: str, classes: int) -> "nn.Module":
    """The network with random weights; logits [B, C] with C = `classes`."""
    from raylabel.models.clip_tower import clip_network

    return clip_network(clip_name(arch)[0], model_config(arch)["quick_gelu"], classes)


def tagged_config(name: str) -> dict[str, Any]:
    """What open_clip states of the weights that a name with a tag names, in the layout of an open_clip_config.json; and
    `repository`, that of the hub. InputError if it has no tag."""
    check_clip(name, "weights")
    from open_clip import get_pretrained_cfg, list_pretrained_tags_by_model

    plain, tag = clip_name(name)
    if not tag:
        known = ", ".join(f"{CLIP}{plain}.{each}" for each in list_pretrained_tags_by_model(plain))
        raise InputError(
            f"weights '{name}' lack the tag of the weights: give {known or 'a file, since open_clip has none of it'}"
        )
    found = get_pretrained_cfg(plain, tag)
    repository = "/".join(found["hf_hub"].split("/")[:2])  # perhaps with the name of a file
    return {"model_cfg": model_config(name), "preprocess_cfg": found, "repository": repository}


def check_tower(arch: str, config: Mapping[str, Any], name: str) -> None:
    """InputError if weights, which are called `name` and for which their publisher states this model config, are for
    another image tower than that of `arch`, or for another activation."""
    from open_clip import list_models

    wanted, found = _tower(model_config(arch), arch), _tower(config, name)
    if wanted == found:
        return
    differences = [f"{key} is {found[key]}, not {wanted[key]}" for key in wanted if found[key] != wanted[key]]
    same = [f"{CLIP}{each}" for each in list_models() if _tower(model_config(CLIP + each), each) == found]
    fix = name if is_clip(name) else " or ".join(same[:3])
    raise InputError(
        f"weights '{name}' are for another image tower than that of {arch}: {', '.join(differences)}; give "
        + (f"{fix} as the arch" if fix else "others: open_clip has no name for this network")
    )


def _tower(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What the image tower of a model config depends on."""
    from open_clip import CLIPVisionCfg

    try:
        found = asdict(CLIPVisionCfg(**config["vision_cfg"])) | {"embed_dim": config["embed_dim"]}
    except (KeyError, TypeError) as error:
        raise InputError(f"'{where}' has no model_cfg of open_clip: {one_line(error)}; give other weights") from error
    for field in _OF_TRAINING:
        del found[field]
    if isinstance(size := found["image_size"], int):
        found["image_size"] = [size, size]
    found["quick_gelu"] = bool(config.get("quick_gelu")) and not found["timm_model_name"]
    return found


def image_tensors(state: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Those of the tensors of a whole network that `build_clip` has too; and a last layer, if raylabel wrote them."""
    return {name: tensor for name, tensor in state.items() if name.startswith(("visual.", "head."))}


def text_tensors(state: Mapping[str, "Tensor"], where: str) -> dict[str, "Tensor"]:
    """The tensors of the text tower, with logit_scale. InputError, which names `where`, if there is none."""
    if "logit_scale" not in state:
        raise InputError(
            f"weights '{where}' have no text tower, which a zero-shot head is computed with: give the weights of the "
            "whole network, or teacher.head.kind 'logistic'"
        )
    others = ("visual.", "text_decoder.", "head.")
    return {name: tensor for name, tensor in state.items() if not name.startswith(others)}


def clip_view(arch: str, config: Mapping[str, Any], view: View) -> View:
    """`view` with what the publisher of the weights says of pictures: size, resize, interpolation, mean and standard
    deviation. The augmentation of training stays. InputError if a View cannot do the same."""
    from open_clip.transform import PreprocessCfg

    stated = {name: value for name, value in (config.get("preprocess_cfg") or {}).items() if value is not None}
    given, side = asdict(PreprocessCfg()) | stated, clip_side(arch)
    mode, interpolation = given["resize_mode"], given["interpolation"]
    if mode not in ("shortest", "squash") or interpolation not in ("bilinear", "bicubic", "random"):
        raise InputError(
            f"the weights of {arch} are for pictures with resize mode '{mode}' and interpolation '{interpolation}', "
            "which raylabel does not have: give teacher.view"
        )
    return replace(
        view,
        size=side,
        eval_size=0,
        resize=side,
        squash=mode == "squash",
        interpolation="bilinear" if interpolation == "bilinear" else "bicubic",  # 'random' is for training
        mean=tuple(given["mean"]),
        std=tuple(given["std"]),
    )
