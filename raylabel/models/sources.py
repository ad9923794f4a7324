"""Weights that the user names: of torchvision or of the Hugging Face hub, in a folder or in a file."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raylabel.errors import InputError
from raylabel.media.view import View
from raylabel.models.build import build
from raylabel.models.clip_networks import check_clip, clip_view, image_tensors, is_clip
from raylabel.models.config import Model, is_torchvision_name
from raylabel.models.head import head_of
from raylabel.models.hub import hub_config, is_hub_folder, is_hub_name, layout_for, published
from raylabel.models.timm_networks import converted, is_timm, pretrained_config, pretrained_view
from raylabel.models.weights import (
    checkpoint_digest,
    current_names,
    describe_misfits,
    misfits_of,
    read_checkpoint,
    torchvision_view,
    torchvision_weights,
)
from raylabel.store.artifact import identity_of

RANDOM = "random"
"""random:SEED is a source of random weights, with which networks are compared."""


@dataclass(frozen=True)
class Source:
    """Weights that the user names."""

    name: str
    """As the user gives them."""
    identity: str
    """torchvision's name, or a sha256 in hex of the content."""
    read: Callable[[], dict[str, Tensor]]
    """The tensors as `build` names them. InputError if they are of another network."""
    licence: str = ""
    """What their publisher states; empty if that is not known."""

    @property
    def info(self) -> dict[str, str]:
        """What is kept of it beside the weights."""
        return {"source": self.name} | ({"licence": self.licence} if self.licence else {})


def is_name(source: str) -> bool:
    """Whether this is a name of torchvision or of the hub, and not of a file or a folder."""
    return is_torchvision_name(source) or is_hub_name(source)


def is_published(source: str, arch: str) -> bool:
    """Whether this is a name of the hub, or a folder in the layout for `Model` of this arch."""
    return is_hub_name(source) or is_hub_folder(source, arch)


def find_source(source: str, model: Model) -> Source:
    """The weights for `model` that `source` names. InputError if there are none, or if they cannot be had."""
    if is_torchvision_name(source):
        return Source(source, source, lambda: _of_torchvision(source, model))
    if seed := re.fullmatch(rf"{RANDOM}:(\d+)", source):
        identity = json.dumps({"random": int(seed[1])} | identity_of(model))
        return Source(source, identity, lambda: _random(int(seed[1]), model))
    if is_published(source, model.arch):
        found = published(source, model.arch)
        licence = found.config.get("license") or ""
        return Source(source, found.identity, lambda: found.state(model.arch, model.size), licence)
    return Source(source, checkpoint_digest(source), lambda: _of_file(source, model))


def view_for(model: Model, source: str, view: View) -> View:
    """`view` for the weights that `source` names: if they are of timm, open_clip or torchvision, and for pictures, with
    the size, interpolation, mean and standard deviation that their publisher states. InputError if a View cannot do the
    same."""
    if is_torchvision_name(source) and not view.clip:
        return torchvision_view(source, view)
    if not (source and (is_timm(model.arch) or is_clip(model.arch)) and is_published(source, model.arch)):
        return view
    if (layout := layout_for(source, model.arch)) != layout_for("", model.arch):
        return view  # these weights are an error when they are read
    if is_clip(model.arch):
        check_clip(model.arch, "model")
    config = hub_config(source, layout)
    if is_clip(model.arch):
        return clip_view(model.arch, config, view)
    return pretrained_view(model.arch, model.size, config, view)


def load_source(module: nn.Module, source: Source, model: Model, classes: int) -> None:
    """Loads weights into `module`, which is `build(model, classes)`.

    InputError, with `module` unchanged, if a tensor is missing, is not in the network, or has another shape.
    """
    state = source.read()
    if is_clip(model.arch) and f"{head_of(module)}.weight" not in state:
        raise InputError(
            f"weights '{source.name}' of {model.arch} have no last layer for classes: give teacher.head.kind "
            "'zero-shot' or 'logistic', or teacher.train with these weights as teacher.train.init.weights"
        )
    if misfits := misfits_of(module.state_dict(), state):
        stem = "" if model.stem == "imagenet" else f" (stem '{model.stem}')"
        given = f"weights '{source.name}' do" if is_name(source.name) else f"checkpoint '{source.name}' does"
        raise InputError(
            f"{given} not fit {model.arch}{stem} with {classes} classes: {describe_misfits(misfits)}; give the arch, "
            "stem and classes of the training, or other weights"
        )
    # A plain dict has no version, so batch norms saved before torch 0.4.1 may lack num_batches_tracked.
    module.load_state_dict(state)


def _random(seed: int, model: Model) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(model, 2).state_dict()


def _of_torchvision(name: str, model: Model) -> dict[str, Tensor]:
    known, _, state = torchvision_weights(name)
    if known != model:
        raise InputError(f"weights {name} are for {known.arch}, not for {model.arch}: give others")
    return state


def _of_file(uri: str, model: Model) -> dict[str, Tensor]:
    state = read_checkpoint(uri)
    if is_clip(model.arch):
        return image_tensors(state)
    if is_timm(model.arch):
        return converted(model.arch, model.size, state, pretrained_config(model.arch), uri)
    return current_names(state, model.arch)
