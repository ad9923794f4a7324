"""Sections of the model card: how the networks were trained, from what, and under which licences their weights are."""

from collections.abc import Mapping
from typing import Any

from raylabel.models.start import WEIGHTS
from raylabel.models.weights import torchvision_meta
from raylabel.pipelines.control import TRIED
from raylabel.report.summary import MODELS
from raylabel.ship.lineage import Step
from raylabel.ship.markdown import code, codes
from raylabel.store.artifact import Artifact


def training_section(steps: list[Step]) -> str:
    """How each network of the lineage was trained."""
    told = {"train": training, "head": _fitting, "zero-shot": _naming, "layerwise": _learning}
    found = [
        f"- {code(one.folder)}: {tell(one.artifact)}"
        for one in steps
        for name, tell in told.items()
        if name in one.artifact.identity
    ]
    return "\n".join(found) or "Not known: raylabel was given these weights. State it here."


def training(network: Artifact) -> str:
    """How a network was trained, from its identity."""
    identity, info = network.identity, network.info
    config = dict(identity["train"])
    schedule, images, batch = config.pop("schedule"), config.pop("images"), config.pop("batch")
    view = {name: value for name, value in identity["view"].items() if name not in ("mean", "std")}
    start = "random weights" if identity.get("init") is None else f"the weights of {code(str(identity['init']))}"
    return (
        f"{code(identity['model']['arch'])} from {start}; {images:,} samples, each pass counted, in batches of "
        f"{batch:,}; {_words(schedule)}; {_words(config)}; seed {identity['seed']}. Training views: {_words(view)}. "
        f"Trained on {info.get('hardware', 'hardware that is not recorded')}."
    )


def _fitting(network: Artifact) -> str:
    """How the head of a frozen network was fitted."""
    identity, info = network.identity, network.info
    chosen = [one for one in info["validation"] if one["strength"] == info["strength"]]
    how = "".join(f", chosen by cross-validation, with an accuracy of {one['accuracy']:.1%} there" for one in chosen)
    return (
        f"the last layer of {code(identity['model']['arch'])}, by logistic regression on the features of unit length "
        f"of {info['samples']:,} labeled samples, with C = {info['strength']:g}{how}. The other layers are as given."
    )


def _naming(network: Artifact) -> str:
    """How a zero-shot head was computed."""
    identity, info = network.identity, network.info
    templates = ", ".join(map(code, info["templates"]))
    return (
        f"the last layer of {code(identity['model']['arch'])}, zero-shot: from the embeddings of the names "
        f"{codes(info['names'])} in {templates} by the text tower of these weights, without labels. The other layers "
        "are as given."
    )


def _learning(network: Artifact) -> str:
    """How a network was learned layer by layer."""
    identity = network.identity["layerwise"]
    return (
        f"the convolutions of {code(identity['model']['arch'])}, one after another, without labels, by "
        f"{code(identity['method'])} from patches of samples of {code(identity['media'])}; seed {identity['seed']}. "
        "The linear layers are random."
    )


def _words(settings: Mapping[str, Any]) -> str:
    """The fields of a config and their values; those without a value are left out."""
    found = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found.append(f"{name} ({_words(value)})")
        elif value is not None:
            found.append(f"{name.replace('_', ' ')} {value}")
    return ", ".join(found)


_MADE = {
    WEIGHTS: "weights that a training started from",
    "shards-labeled": "index of the labeled set",
    "shards-validation": "index of the validation set",
    "shards-unlabeled": "index of the unlabeled corpus",
    "truth": "labels of the labeled set, by people",
    "random": "labels drawn at random",
    "shuffled": "labels of a labeled set, permuted",
    "tags": "classes of the samples of the corpus by their tags",
    "media-labeled": "encoded bytes of the labeled set",
    "media-validation": "encoded bytes of the validation set",
    "media-picked": "encoded bytes of the picks",
    "examples-validation": "the validation set with its labels",
    "examples-labeled": "training examples: the labeled set with its labels",
    "examples-picked": "training examples: the picks with their pseudo-labels",
    TRIED: "network: a control that was tried on a part of the labeled set",
    "features": "features of the labeled set by a frozen network",
    "scores": "scores of the unlabeled corpus by a network",
    "duplicates": "exact duplicates in the corpus",
    "copies": "near-duplicates in the corpus",
    "picks": "the best-ranked samples of each class",
    **{name: f"network: {text}" for name, text in MODELS.items()},
    "soup": "network: mean of weights",
}


def lineage_section(steps: list[Step]) -> str:
    lines = ["From labels to weights; each item is a folder of the root, named by a digest of all that it depends on:"]
    for number, step in enumerate(steps, 1):
        made = f", from {', '.join(map(code, step.inputs))}" if step.inputs else ""
        lines.append(f"{number}. {code(step.folder)}: {_MADE.get(step.artifact.name, 'other')}{made}")
    return lines[0] + "\n\n" + "\n".join(lines[1:])


def licence_section(settings: Mapping[str, Any], steps: list[Step]) -> str:
    """What is known about the licences of networks in the lineage that raylabel did not train. `settings` are the
    recipe's."""
    lines = []
    for step in steps:
        if step.given:
            part = "these are its weights" if step is steps[-1] else "this network depends on it"
            lines.append(f"- {code(step.folder)} ({part}): {_licence(step, settings)}.")
        if step.foreign:
            digest = code(step.foreign)
            lines.append(f"- {code(step.folder)} started from weights of another root, {digest}: state their licence.")
    return "\n".join(lines) or "None: every network in the lineage was trained by raylabel from random weights."


def _licence(step: Step, settings: Mapping[str, Any]) -> str:
    given = step.given
    if meta := torchvision_meta(given):
        if stated := meta.get("license"):
            return f"torchvision's {code(given)}, under {stated}"
        return (
            f"torchvision's {code(given)}; torchvision states no licence for it. How it was trained: {meta['recipe']}"
        )
    info = step.artifact.info
    if stated := info.get("licence"):
        return f"{code(info['source'])}, under {stated}"
    teacher = settings["teacher"]
    of_teacher = teacher.get("checkpoint") or teacher.get("weights")
    checkpoint = info["source"] if step.artifact.name == WEIGHTS else of_teacher
    named = f"the checkpoint {code(checkpoint)}" if checkpoint else "a checkpoint"
    return f"{named} with sha256 {code(given)}; its licence is not known: state it here"
