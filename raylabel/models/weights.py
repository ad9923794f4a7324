"""Reads and writes weights. Code in a file is never run.

raylabel writes safetensors. A checkpoint that the user gives may also be a state dict saved by torch. It is read with
`weights_only`, which accepts tensors and plain containers and refuses everything else.
"""

import difflib
import hashlib
import io
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from http.client import HTTPException
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from raylabel.errors import InputError
from raylabel.media.view import View
from raylabel.models.config import VIDEO, Model
from raylabel.store.files import read_file
from raylabel.text import one_line

# torchvision's DenseNet files are older than its DenseNet: names have 'norm.1' where the network has 'norm1'. The
# pattern is that of torchvision.models.densenet._load_state_dict.
_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")
_AUX = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}  # parts that `build` does not create


def save_weights(module: nn.Module) -> bytes:
    """All parameters and buffers as safetensors. The bytes do not depend on the device or the memory format."""
    return save_tensors(module.state_dict())


def save_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """The tensors as safetensors."""
    return safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def load_weights(module: nn.Module, data: bytes, where: str) -> None:
    """Loads the bytes of `save_weights` into `module`. InputError, which names `where`, if they do not fit."""
    try:
        state = safetensors.torch.load(data)
    except SafetensorError as error:
        raise InputError(
            f"weights '{where}' are not a complete safetensors file: {one_line(error)}; create them again"
        ) from error
    if misfits := misfits_of(module.state_dict(), state):
        raise InputError(
            f"weights '{where}' do not fit the network: {describe_misfits(misfits)}; give the network they are for"
        )
    module.load_state_dict(state)


def read_checkpoint(uri: str) -> dict[str, Tensor]:
    """The tensors, by name and on the CPU, of a checkpoint: *.safetensors, or a state dict saved by torch.

    The state dict may be the value of 'state_dict', 'model' or 'model_state_dict'. The prefixes 'module.' and
    '_orig_mod.', which DDP and torch.compile add to every name, are removed. InputError if the file does not exist, is
    anything else, or can be read only by running code.
    """
    data = _read(uri)
    if uri.endswith(".safetensors"):
        try:
            content = safetensors.torch.load(data)
        except SafetensorError as error:
            raise InputError(
                f"checkpoint '{uri}' is not a complete safetensors file: {one_line(error)}; save it again"
            ) from error
    else:
        content = _unpickle(uri, data)
    while isinstance(content, Mapping):
        inner = (content.get(name) for name in ("state_dict", "model", "model_state_dict"))
        nested = next((value for value in inner if isinstance(value, Mapping)), None)
        if nested is None:
            break
        content = nested
    if not isinstance(content, Mapping) or not content:
        kind = type(content).__name__
        raise InputError(f"checkpoint '{uri}' contains no tensors: it is a {kind}; give a state dict")
    state = {}
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            kind = type(tensor).__name__
            raise InputError(f"checkpoint '{uri}' is not a state dict: {name!r} is a {kind}, expected a tensor")
        state[name] = tensor.detach()
    while prefix := next((p for p in ("module.", "_orig_mod.") if all(n.startswith(p) for n in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def torchvision_weights(name: str) -> tuple[Model, int, dict[str, Tensor]]:
    """The network, its number of classes and its state, of a torchvision weight such as
    'ResNet50_Weights.IMAGENET1K_V2' (1,000 classes) or 'R2Plus1D_18_Weights.KINETICS400_V1' (400); downloaded into
    torch's cache (TORCH_HOME) if it is not there.

    Accepts every weight of a network that `build` knows, except 'DEFAULT', which may be another one in each release of
    torchvision. InputError if there is no weight of that name or it cannot be downloaded.
    """
    arch, weight = _torchvision_weight(name)
    try:
        # Without weights_only, torch.hub would unpickle what it downloads.
        state = weight.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, HTTPException, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"cannot get torchvision weights '{name}' from {weight.url}: {one_line(error)}; "
            "give a checkpoint file instead"
        ) from error
    return Model(arch=arch), len(weight.meta["categories"]), current_names(state, arch)


def torchvision_arch(name: str) -> str:
    """The network of a torchvision weight. InputError if there is no weight of that name."""
    return _torchvision_weight(name)[0]


def torchvision_view(name: str, view: View) -> View:
    """`view` with what a torchvision weight for pictures was trained for: size, resize, interpolation, mean and
    standard deviation. The augmentation of training stays."""
    preset = _torchvision_weight(name)[1].transforms()
    return replace(
        view,
        size=preset.crop_size[0],
        eval_size=0,
        resize=preset.resize_size[0],
        squash=False,
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def torchvision_meta(name: str) -> Mapping[str, Any]:
    """What torchvision states about a weight (its `meta`, with recipe and perhaps license); empty if there is none of
    that name."""
    found = _torchvision_table().get(name)
    return found[1].meta if found else {}


def checkpoint_digest(uri: str) -> str:
    """sha256 of the file in hex: the identity of weights that the user gives. InputError if it cannot be read."""
    return hashlib.sha256(_read(uri)).hexdigest()


def _read(uri: str) -> bytes:
    try:
        return read_file(uri)
    except (OSError, InputError) as error:
        why = one_line(error.__cause__ or error)
        raise InputError(f"cannot read checkpoint '{uri}': {why}; give the path of a file") from error


def _unpickle(uri: str, data: bytes) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # about the file's format; the errors below are clearer
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"checkpoint '{uri}' is refused, since reading it could run code that it contains; "
            "convert it to .safetensors if you trust it"
        ) from error
    except Exception as error:  # a damaged file fails in many ways, and torch's messages may advise to run its code
        raise InputError(
            f"checkpoint '{uri}' is not a complete state dict of torch.save; save it again, or as .safetensors"
        ) from error


def misfits_of(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """One phrase for each difference between `state` and the tensors of a network, in the order of the network."""
    misfits = []
    for name, tensor in wanted.items():
        if name not in state:
            if not name.endswith("num_batches_tracked"):
                misfits.append(f"{name!r} is missing")
        elif state[name].shape != tensor.shape:
            misfits.append(f"{name!r} is {list(state[name].shape)}, expected {list(tensor.shape)}")
    return misfits + [f"{name!r} is not in the network" for name in state if name not in wanted]


def describe_misfits(misfits: list[str]) -> str:
    """The first three, and how many more there are."""
    more = f"; and {len(misfits) - 3} more" if len(misfits) > 3 else ""
    return "; ".join(misfits[:3]) + more


def current_names(state: Mapping[str, Tensor], arch: str) -> dict[str, Tensor]:
    """The tensors under the names that `build` uses, without the parts that it does not create."""
    if arch.startswith("densenet"):
        return {_DENSENET.sub(r"\1\2", name): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in state.items() if not name.startswith(_AUX.get(arch, ()))}


@cache
def _torchvision_table() -> dict[str, tuple[str, Any]]:
    import torchvision  # imported here, since it takes seconds and not every run needs it

    table = {}
    video = [arch for arch in torchvision.models.list_models(module=torchvision.models.video) if arch in VIDEO]
    for arch in [*torchvision.models.list_models(module=torchvision.models), *video]:
        for weight in torchvision.models.get_model_weights(arch):  # iteration leaves out aliases, such as DEFAULT
            # Vision transformers for larger images have more position embeddings than `build` creates for 224 pixels.
            if arch.startswith("vit_") and weight.meta["min_size"] > (224, 224):
                continue
            if weight.meta["categories"] is None:  # the classifier of VGG16's IMAGENET1K_FEATURES is NaN
                continue
            table[str(weight)] = (arch, weight)
    return table


def _torchvision_weight(name: str) -> tuple[str, Any]:
    table = _torchvision_table()
    if name not in table:
        close = difflib.get_close_matches(name, table, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "give one like 'ResNet50_Weights.IMAGENET1K_V2'"
        raise InputError(f"{name!r} is not a torchvision weight of a known network; {hint}")
    return table[name]
