"""Names of classes → the teacher that is a zero-shot head on the image tower of a network of open_clip.

Letters: C classes, D numbers of a feature.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import ray

from raylabel.compute.gpu import use_full_float32
from raylabel.compute.progress import say
from raylabel.compute.resources import Cluster
from raylabel.compute.tasks import fetch
from raylabel.compute.watchdog import heartbeat
from raylabel.corpus.config import read_lines
from raylabel.errors import InputError
from raylabel.labels.features import Frozen, network_with_head
from raylabel.models import Model
from raylabel.models.trained import WEIGHTS, describe
from raylabel.store.artifact import Artifact, Built, Draft, Root, identity_of, write_bytes
from raylabel.text import listed
from raylabel.training.head import Head

CHUNK = 100  # classes of one task, a multiple of the 10 that open_clip embeds at a time: the bits do not depend on it
COPIES = 4  # of the text tower in the memory of a task: as bytes, as tensors, in the network, and activations

_NO_WORD = re.compile(r"n\d{8}|[\d\W_]+")


def texts_of(head: Head, classes: Sequence[str]) -> tuple[str, ...]:
    """The name of each class in the templates. InputError if the file of names does not have one per class."""
    if not head.names:
        return tuple(name.replace("_", " ") for name in classes)
    found = tuple(line.strip() for line in read_lines(head.names))
    if len(found) != len(classes) or not all(found):
        what = "has an empty line" if len(found) == len(classes) else f"has {len(found):,} names"
        raise InputError(
            f"teacher.head.names is '{head.names}', which {what}, but there are {len(classes):,} classes: give one "
            "name per line, in the order of the classes"
        )
    return found


def text_warnings(names: Sequence[str]) -> list[str]:
    """What the user should check in the names that a zero-shot head is computed from."""
    found = []
    if wordless := [name for name in names if _NO_WORD.fullmatch(name)]:
        found.append(
            f"{len(wordless):,} of {len(names):,} names of classes are no words ({listed(wordless)}), from which a "
            "zero-shot head cannot know what they are: give teacher.head.names"
        )
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        found.append(
            f"several classes have the name {listed(twice)}, which a zero-shot head cannot tell apart: give "
            "teacher.head.names"
        )
    return found


def check_text(given: str, model: Model) -> None:
    """InputError if these weights have no text tower, as far as that can be known without reading them, or if their
    tokenizer cannot be had."""
    from raylabel.models.clip_text import find_text

    find_text(given, model)


def make_zero_shot(root: Root, frozen: Frozen, given: str, names: Sequence[str], templates: Sequence[str]) -> Artifact:
    """The teacher, the artifact `teacher`: the frozen image tower with a head that is computed from the names of the
    classes. `given`: the weights of the whole network, as the user names them. Info: also names and templates."""
    from raylabel.models.clip_text import find_text

    model, text = replace(frozen.model, features="unit"), find_text(given, frozen.model)

    def build(draft: Draft) -> Built:
        weight, bias = _embed_all(text.config, text.read(), text.tokenizer, names, templates)
        say(f"head: zero-shot, of {len(names):,} names and {len(templates):,} templates")
        state = network_with_head(model, frozen.weights, weight, bias)
        return Built([write_bytes(draft.uri, WEIGHTS, state)], describe(model, len(names)) | shown)

    shown = {"names": list(names), "templates": list(templates)}
    identity = {"weights": frozen.weights.digest, "zero-shot": shown, "text": text.digest(names, templates)}
    return root.make("teacher", {**identity, "model": identity_of(model)}, build)


def _embed_all(
    config: Mapping[str, Any],
    tensors: Mapping[str, Any],
    tokenizer: Any,
    names: Sequence[str],
    templates: Sequence[str],
) -> tuple[np.ndarray, np.ndarray]:
    """Weight float32 [C, D] and bias float32 [C] of the head."""
    from raylabel.models.weights import save_tensors

    state = save_tensors(tensors)
    needs = {"memory": COPIES * len(state)} | ({"num_gpus": 1} if Cluster.now().gpus else {})
    shared = ray.put(state)
    tasks = [
        _embed.options(**needs).remote(config, shared, tokenizer, list(names[first : first + CHUNK]), list(templates))
        for first in range(0, len(names), CHUNK)
    ]
    found = [fetch(*tasks[number:]) for number in range(len(tasks))]
    weights, biases = zip(*found, strict=True)
    return np.concatenate(weights), np.concatenate(biases)


@ray.remote(num_cpus=1, max_retries=3)
def _embed(
    config: Mapping[str, Any], state: bytes, tokenizer: Any, names: list[str], templates: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of some classes."""
    from raylabel.models.clip_text import class_weights

    def tokens(texts: list[str]) -> Any:
        heartbeat()
        return tokenizer(texts)

    device = "cuda" if ray.get_gpu_ids() else "cpu"
    use_full_float32()
    return class_weights(config, state, tokens, names, templates, device)
