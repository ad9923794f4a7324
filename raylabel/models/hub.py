"""Weights in the layout of the Hugging Face hub, in a repository or in a folder: config.json and model.safetensors of
timm, open_clip_config.json and open_clip_model.safetensors of open_clip.

Only safetensors are read: other formats of weights can contain code. The hub's own client downloads and caches, so its
environment variables apply: HF_HOME, HF_TOKEN, HF_HUB_OFFLINE, HF_ENDPOINT.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from raylabel.errors import InputError
from raylabel.models.clip_networks import CLIP, check_tower, image_tensors, is_clip, tagged_config
from raylabel.models.timm_networks import TIMM, check_timm, converted, is_timm, pretrained_config
from raylabel.store.files import filesystem, read_file, reading
from raylabel.text import one_line

HUB = "hf-hub:"


@dataclass(frozen=True)
class Layout:
    """The files of a repository or of a folder."""

    library: str
    config: str
    weights: str


OF_TIMM = Layout("timm", "config.json", "model.safetensors")
OF_CLIP = Layout("open_clip", "open_clip_config.json", "open_clip_model.safetensors")


def layout_for(name: str, arch: str) -> Layout:
    """The layout of the weights that a name of the hub or a folder names, for `Model` of this arch: some repositories
    have both."""
    return OF_CLIP if name.startswith(CLIP) or (is_clip(arch) and not name.startswith(TIMM)) else OF_TIMM


def is_hub_name(name: str) -> bool:
    """Whether this names a repository of the hub: 'timm/' or 'clip/' and a name of timm or open_clip with the tag of
    its weights, or 'hf-hub:', the repository, and perhaps '@' and a revision."""
    return name.startswith((TIMM, CLIP, HUB))


def is_hub_folder(uri: str, arch: str) -> bool:
    """Whether this is a folder with the files of the layout for `Model` of this arch."""
    fs, path = filesystem(uri)
    layout = layout_for(uri, arch)
    with reading(uri):
        return all(i.is_file for i in fs.get_file_info([f"{path}/{layout.config}", f"{path}/{layout.weights}"]))


@dataclass(frozen=True)
class Published:
    """Weights of the hub or of a folder in its layout."""

    name: str
    """As the user gives them."""
    config: Mapping[str, Any]
    """What their publisher says of them, as `hub_config`."""
    uri: str
    """The file with the weights."""

    @property
    def identity(self) -> str:
        """A sha256 in hex of the weights and of what is needed to read them."""
        needed = {key: self.config.get(key) for key in ("architecture", "label_offset", "num_classes", "classifier")}
        return hashlib.sha256(self._bytes() + json.dumps(needed, sort_keys=True).encode()).hexdigest()

    def state(self, arch: str, size: int) -> dict[str, Tensor]:
        """The tensors for `build`. InputError if they are for another network than `Model` of this arch and size."""
        state = self.tensors()
        if is_clip(arch):
            return image_tensors(state)
        if not is_timm(arch):
            return state
        known, wanted = self.config.get("architecture"), arch.removeprefix(TIMM).partition(".")[0]
        if known != wanted:
            raise InputError(f"weights '{self.name}' are for {TIMM}{known}, not for {arch}: give others")
        if more := self.config.get("model_args", {}).keys() - {"img_size"}:
            raise InputError(f"weights '{self.name}' are for {arch} with {', '.join(sorted(more))}: give others")
        return converted(arch, size, state, self.config, self.name)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors, as they are published."""
        try:
            return safetensors.torch.load(self._bytes())
        except SafetensorError as error:
            raise InputError(
                f"'{self.uri}' is not a complete safetensors file: {one_line(error)}; delete it, and download or save "
                "it again"
            ) from error

    def _bytes(self) -> bytes:
        return read_file(self.uri)


@cache
def hub_config(name: str, layout: Layout = OF_TIMM) -> Mapping[str, Any]:
    """What the publisher says of weights. InputError if it cannot be had.

    Of timm: as `timm_networks.pretrained_config`, with `architecture`; and with `model_args` if they are not in timm's
    own list. Of open_clip: the content of open_clip_config.json, or `clip_networks.tagged_config`.
    """
    if name.startswith(CLIP):
        return tagged_config(name)
    if name.startswith(TIMM):
        check_timm(name, 0, "weights")
        plain, _, tag = name.removeprefix(TIMM).partition(".")
        config = {**pretrained_config(name), "architecture": plain}
        if not (tag and config.get("hf_hub_id")):
            raise InputError(
                f"weights '{name}' are not on the hub: give a name with the tag of its weights, such as "
                f"timm/resnet50.a1_in1k; see timm.list_pretrained('{plain}*')"
            )
        return config
    if name.startswith(HUB):
        return _parse(_download(name, name.removeprefix(HUB), layout.config, layout), layout)
    return _parse(f"{name.rstrip('/')}/{layout.config}", layout)


def published(name: str, arch: str) -> Published:
    """The weights that a name of the hub or a folder names, for `Model` of this arch. InputError if they cannot be
    had, are of another library, or are for another image tower of open_clip."""
    layout = layout_for(name, arch)
    if layout != layout_for("", arch):
        raise InputError(f"weights '{name}' are of {layout.library}, not for {arch}: give others")
    config = hub_config(name, layout)
    if is_clip(arch):
        check_tower(arch, config["model_cfg"], name)
    if is_hub_name(name):
        known = {HUB: name.removeprefix(HUB), CLIP: config.get("repository"), TIMM: config.get("hf_hub_id")}
        repository = next(found for prefix, found in known.items() if name.startswith(prefix))
        return Published(name, config, _download(name, repository, layout.weights, layout))
    return Published(name, config, f"{name.rstrip('/')}/{layout.weights}")


def _download(name: str, repository: str, file: str, layout: Layout) -> str:
    """The path of a file of a repository in the hub's cache."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        raise InputError(f"weights '{name}' are on the Hugging Face hub: pip install huggingface_hub") from error
    repository, _, revision = repository.partition("@")
    try:
        return hf_hub_download(repository, file, revision=revision or None)
    except Exception as error:  # also those of the client's own HTTP library
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise InputError(
                f"weights '{name}': {repository} has no {file}: give a repository in the layout of "
                f"{layout.library}; other formats of weights are refused, since reading them could run code"
            ) from error
        raise InputError(
            f"cannot get {file} of weights '{name}' from the Hugging Face hub: {one_line(error)}; check the name and "
            "the network, set HF_TOKEN if they are not public, or give a folder with "
            f"{layout.config} and {layout.weights}"
        ) from error


def _parse(uri: str, layout: Layout) -> dict[str, Any]:
    """The content of a configuration, of timm also in its older form, in which all is on one level."""
    try:
        found = json.loads(read_file(uri))
        if layout == OF_CLIP:
            return {"preprocess_cfg": {}, **found, "model_cfg": dict(found["model_cfg"])}
        config = dict(found.get("pretrained_cfg", found))
        config["architecture"] = found["architecture"]
        config |= {key: found[key] for key in ("num_classes", "model_args") if key in found}
        return {"label_offset": None, "model_args": {}} | config
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"'{uri}' is not a {layout.config} of {layout.library}: {one_line(error)}; give another folder"
        ) from error
