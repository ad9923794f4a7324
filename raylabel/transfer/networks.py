"""The networks that a transfer compares, by what the user gives: their architecture, weights and view."""

from collections.abc import Sequence
from dataclasses import replace

from raylabel.errors import InputError
from raylabel.media.view import View
from raylabel.models import Model, check
from raylabel.models.clip_networks import CLIP
from raylabel.models.hub import hub_config, is_hub_folder, is_hub_name
from raylabel.models.sources import RANDOM, is_name, view_for
from raylabel.models.timm_networks import TIMM
from raylabel.models.trained import open_network
from raylabel.models.weights import torchvision_arch
from raylabel.pipelines.transfer_inputs import Candidate
from raylabel.ship.shipped import find_view

EVALUATED = ("size", "eval_size", "resize", "interpolation", "squash", "dct_scale", "mean", "std", "clip")
"""The fields of a View that a trained network determines; the others are the augmentation of trainings."""


def candidates_of(networks: Sequence[str], view: View, seed: int = 0) -> tuple[Candidate, ...]:
    """The networks that `Transfer.networks` name, in this order. `view`: that of the transfer; `seed`: of random
    weights. InputError if one is no network, or what its use needs is not known."""
    found = [_candidate(given, view, seed) for given in networks]
    names = [one.name for one in found]
    return tuple(
        replace(one, name=given) if names.count(one.name) > 1 else one
        for one, given in zip(found, networks, strict=True)
    )


def evaluated_as(own: View, view: View) -> View:
    """`view` with all that evaluation in a network's own view depends on."""
    return replace(view, **{name: getattr(own, name) for name in EVALUATED})


def _candidate(given: str, view: View, seed: int) -> Candidate:
    if given.startswith(f"{RANDOM}="):
        like = given.partition("=")[2]
        if network := open_network(like):
            model = replace(Model(**network.info["model"]), features="raw")
            own = evaluated_as(find_view(like), view)
        else:
            model, own = Model(arch=like), view
            check(model, f"networks '{given}'")
        return Candidate(name=f"random {model.arch}", model=model, weights=f"{RANDOM}:{seed}", view=own)
    if network := open_network(given):
        model = replace(Model(**network.info["model"]), features="raw")
        own = evaluated_as(find_view(given), view)
        return Candidate(name=f"{network.name}-{network.digest}", model=model, weights=given, view=own)
    arch, equals, weights = given.partition("=")
    if not equals:
        arch, weights = _arch_of(given), given
    model = Model(arch=arch)
    check(model, f"networks '{given}'")
    return Candidate(name=given, model=model, weights=weights, view=view_for(model, weights, view))


def _arch_of(weights: str) -> str:
    """The architecture that a name of weights, or a repository or folder in timm's layout, tells."""
    if weights.startswith((TIMM, CLIP)):
        return weights
    if is_hub_name(weights) or is_hub_folder(weights, TIMM):
        return TIMM + hub_config(weights)["architecture"]
    if is_name(weights):
        return torchvision_arch(weights)
    raise InputError(
        f"networks has '{weights}', which is neither the folder of a trained network nor the name of weights: give "
        "ARCH=WEIGHTS, for example resnet50=weights.safetensors"
    )
