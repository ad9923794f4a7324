"""The text tower of a network of open_clip: names of classes → a last layer on the embeddings of images.

Letters: C classes, D numbers of an embedding.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raylabel.errors import InputError
from raylabel.models.clip_networks import CLIP, clip_name, model_config, text_tensors
from raylabel.models.config import Model
from raylabel.models.hub import HUB, published
from raylabel.models.sources import is_name, is_published
from raylabel.models.trained import open_network
from raylabel.models.weights import read_checkpoint
from raylabel.store.files import is_local
from raylabel.text import one_line

HASHED = 1000  # names whose tokens are in memory at a time

_NO_IMAGE = {"layers": 1, "width": 64, "head_width": 64, "patch_size": 1, "image_size": 1}
"""The smallest image tower that open_clip builds. It is not used."""

Tokenizer = Callable[[list[str]], Tensor]
"""n texts → int64 [n, length]."""


@dataclass(frozen=True)
class TextTower:
    """The text tower of given weights."""

    config: Mapping[str, Any]
    """The model config."""
    tokenizer: Tokenizer
    read: Callable[[], dict[str, Tensor]]
    """Its tensors. InputError if the weights have none."""

    def digest(self, names: Sequence[str], templates: Sequence[str]) -> str:
        """A sha256 in hex of what `class_weights` computes from, without the weights."""
        found = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        for first in range(0, len(names), HASHED):
            texts = [template.format(name) for name in names[first : first + HASHED] for template in templates]
            found.update(self.tokenizer(texts).numpy().tobytes())
        return found.hexdigest()


def find_text(given: str, model: Model) -> TextTower:
    """The text tower of the weights that the user names, `given`, for the image tower `model`. InputError if they have
    none, as far as that can be known without reading them, or if the tokenizer cannot be had."""
    if is_published(given, model.arch):
        found = published(given, model.arch)
        config = found.config["model_cfg"]
        return TextTower(config, _tokenizer(given, config), lambda: text_tensors(found.tensors(), given))
    if not is_name(given) and open_network(given):
        text_tensors({}, given)  # of a trained network the image tower is kept
    name, config = CLIP + clip_name(model.arch)[0], model_config(model.arch)
    return TextTower(config, _tokenizer(name, config), lambda: text_tensors(read_checkpoint(given), given))


def _tokenizer(given: str, config: Mapping[str, Any]) -> Tokenizer:
    from open_clip import get_tokenizer

    text = config["text_cfg"]
    of_transformers, arguments = text.get("hf_tokenizer_name"), dict[str, Any]()
    if given.startswith(CLIP):
        name = clip_name(given)[0]
    elif not of_transformers:  # that of CLIP, for which nothing has to be read
        name, arguments = "", {"context_length": text.get("context_length"), **text.get("tokenizer_kwargs", {})}
    elif given.startswith(HUB) and "@" not in given:
        name = given
    elif is_local(given) and not given.startswith(HUB):
        name = f"local-dir:{given}"
    else:
        raise InputError(
            f"weights '{given}' have a tokenizer of transformers, which open_clip reads from a local folder, or from a "
            "repository without a revision: give such weights, or teacher.head.kind 'logistic'"
        )
    try:
        return get_tokenizer(name, **arguments)
    except ImportError as error:
        raise InputError(
            f"weights '{given}' have a tokenizer of transformers: pip install 'transformers[sentencepiece]'"
        ) from error
    except Exception as error:  # of transformers, of the hub's client, of its HTTP library
        raise InputError(
            f"cannot get the tokenizer of weights '{given}': {one_line(error)}; check the network, or give a folder "
            "that has the files of the tokenizer too"
        ) from error


def class_weights(
    config: Mapping[str, Any],
    state: bytes,
    tokenizer: Tokenizer,
    names: Sequence[str],
    templates: Sequence[str],
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """(weight float32 [C, D], bias float32 [C]) of a last layer on embeddings of unit length: logits as open_clip's. By
    its `build_zero_shot_classifier`, with the text tower of a model config and the bytes of its tensors."""
    from open_clip import build_zero_shot_classifier

    network: Any = _load_text(config, state).eval().to(device)
    found = build_zero_shot_classifier(network, tokenizer, names, templates, device=device)
    with torch.inference_mode():
        weight = network.logit_scale.exp() * found.T
        bias = torch.zeros(len(names)) if network.logit_bias is None else network.logit_bias.expand(len(names))
        return weight.float().cpu().numpy(), bias.float().cpu().numpy().copy()


def _load_text(config: Mapping[str, Any], state: bytes) -> nn.Module:
    """The whole network, with an image tower that is as small as possible. InputError if the tensors do not fit."""
    from open_clip import CLIP as Plain
    from open_clip import CoCa, CustomTextCLIP, load_checkpoint

    given = {**config, "vision_cfg": _NO_IMAGE, "text_cfg": {**config["text_cfg"], "hf_model_pretrained": False}}
    custom = given.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    kind: Any = CoCa if "multimodal_cfg" in given else CustomTextCLIP if custom else Plain
    network = kind(**given)
    # open_clip renames what older networks named otherwise, and takes a path.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "text.safetensors")
        path.write_bytes(state)
        try:
            missing, more = load_checkpoint(network, str(path), strict=False)
        except RuntimeError as error:
            missing, more = [one_line(error)], []
    if lacking := [name for name in missing if not name.startswith(("visual.", "text_decoder."))] + list(more):
        raise InputError(
            f"the text tower of the teacher's weights does not fit its network: {', '.join(lacking[:3])}; give the "
            "arch that they are for, or teacher.head.kind 'logistic'"
        )
    return network
