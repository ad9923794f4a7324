"""The network that a training starts from: random weights, or those that the user gives; and its frozen layers."""

import difflib
from collections.abc import Iterable, Mapping

import safetensors.torch
from torch import Tensor, nn

from raylabel.errors import InputError
from raylabel.models.build import build
from raylabel.models.config import Model
from raylabel.models.head import head_of
from raylabel.models.init import CONVOLUTIONS, TRUNK, Init
from raylabel.models.sources import find_source, is_name
from raylabel.models.to_layer import without_left_out
from raylabel.models.trained import WEIGHTS as FILE
from raylabel.models.trained import open_network
from raylabel.models.weights import describe_misfits, misfits_of, save_tensors
from raylabel.store.artifact import Artifact, Built, Draft, Root, write_bytes

CONVOLUTION = nn.Conv1d | nn.Conv2d | nn.Conv3d

WEIGHTS = "weights"
"""The name of artifacts with weights that the user gives to start from."""


def import_weights(root: Root, weights: str, model: Model) -> Artifact:
    """The artifact with the weights that `Init.weights` names: a trained network as it is, or else `weights`, a copy of
    the file. InputError if they cannot be read."""
    if not is_name(weights) and (network := open_network(weights)):
        return network

    source = find_source(weights, model)

    def build_copy(draft: Draft) -> Built:
        return Built([write_bytes(draft.uri, FILE, save_tensors(source.read()))], source.info)

    identity = {"source": source.identity, "arch": model.arch} | ({"size": model.size} if model.size else {})
    return root.make(WEIGHTS, identity, build_copy)


def start_network(model: Model, classes: int, init: Init, weights: Artifact | None) -> nn.Module:
    """The network that a training starts from, on the CPU. What is not taken from the weights is random, by torch's
    generator. InputError if the weights do not fit."""
    network = build(model, classes)
    if weights:
        state = taken(network, read_weights(weights), init, weights.uri)
        if init.what == "norms":
            state = _scaled(network, state)
        network.load_state_dict(state, strict=False)
    return network


def _scaled(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of the network that are in `state` and not zero, each with the norm that it has there."""
    own = {name: one.detach() for name, one in network.named_parameters() if name in state}
    return {name: one * (state[name].float().norm() / one.norm()) for name, one in own.items() if one.any()}


def read_weights(weights: Artifact) -> dict[str, Tensor]:
    """The tensors of an artifact with weights, by name."""
    return safetensors.torch.load(weights.read(FILE))


def taken(network: nn.Module, state: Mapping[str, Tensor], init: Init, where: str) -> dict[str, Tensor]:
    """The tensors of `state` that the network takes. Without the head if it is to be new, or if `init` does not name
    its layers and the head has another number of classes. InputError, which names `where`, if a layer does not fit."""
    wanted, head, state = network.state_dict(), head_of(network), without_left_out(network, state)
    if init.take:
        names = set(covered(network, init.take, wanted))
        state = {name: tensor for name, tensor in state.items() if name in names}
    else:
        names = set(wanted)
        of_head = [name for name in wanted if _is_in(name, head)]
        if any(name not in state or state[name].shape != wanted[name].shape for name in of_head):
            names -= set(of_head)
    if init.head == "new":
        names = {name for name in names if not _is_in(name, head)}
    state = {name: tensor for name, tensor in state.items() if name in names or not _is_in(name, head)}
    if misfits := misfits_of({name: tensor for name, tensor in wanted.items() if name in names}, state):
        raise InputError(
            f"weights '{where}' do not fit the network: {describe_misfits(misfits)}; give the network that they are "
            "for, or the layers to take (init.take)"
        )
    return dict(state)


def freeze(network: nn.Module, layers: Iterable[str], frozen: bool) -> None:
    """Freezes or thaws layers: their parameters, and the training mode of their modules."""
    for name in covered(network, layers, dict(network.named_parameters())):
        network.get_parameter(name).requires_grad_(not frozen)
    # Not of a module with a layer that is not covered, such as the one that contains the head.
    modules = dict(network.named_modules())
    for name in covered(network, layers, [name for name in modules if name]):
        if not _is_in(head_of(network), name):
            modules[name].training = not frozen


def covered(network: nn.Module, layers: Iterable[str], names: Iterable[str]) -> list[str]:
    """Those of the names, of parameters or modules, that are in the layers. InputError if the network has no such
    layer."""
    names, head, found = list(names), head_of(network), set()
    for layer in layers:
        known = [name for name, _ in network.named_modules()]
        if layer == TRUNK:
            found.update(name for name in names if not _is_in(name, head))
        elif layer == CONVOLUTIONS:
            convolutions = [name for name, module in network.named_modules() if isinstance(module, CONVOLUTION)]
            found.update(name for name in names if any(_is_in(name, one) for one in convolutions))
        elif layer not in known:
            close = difflib.get_close_matches(layer, known, n=3, cutoff=0.5) or [n for n, _ in network.named_children()]
            raise InputError(
                f"the network has no layer '{layer}': give '{TRUNK}', '{CONVOLUTIONS}' or, for example, "
                f"{', '.join(close)}"
            )
        else:
            found.update(name for name in names if _is_in(name, layer))
    return [name for name in names if name in found]


def of_head(network: nn.Module) -> list[str]:
    """The parameters of the head."""
    head = head_of(network)
    return [name for name, _ in network.named_parameters() if _is_in(name, head)]


def lr_scales(network: nn.Module, first: float) -> dict[str, float]:
    """Parameter → its learning rate relative to that of the last layer; that of the first layer is `first`.

    Layers are in the order in which the network registers their parameters. A parameter with more than one dimension
    begins a layer; the others, of normalisation and the biases, belong to the layer before them.
    """
    depth, at = {}, -1
    for name, parameter in network.named_parameters():
        at += parameter.ndim > 1
        depth[name] = max(at, 0)
    last = max(at, 1)
    return {name: first ** ((last - number) / last) for name, number in depth.items()}


def check_start(name: str, model: Model, classes: int, init: Init, weights: Artifact | None) -> bool:
    """Whether the weights are taken without their head. InputError if they or the names of layers do not fit; `name` is
    that of the training in the recipe."""
    import torch

    with torch.device("meta"):  # shapes only, no memory
        network = build(model, classes)
    try:
        head = [name for name in network.state_dict() if _is_in(name, head_of(network))]
        found = taken(network, read_weights(weights), init, weights.uri) if weights else {}
        parameters = [name for name, _ in network.named_parameters()]
        frozen = covered(network, init.frozen, parameters)
    except InputError as error:
        raise InputError(f"{name}.init: {error}") from error
    if len(frozen) == len(parameters) and init.thaws_at(100) == 100:
        raise InputError(f"{name}.init.frozen covers all layers for the whole training: leave one out")
    return bool(weights) and not set(head) & found.keys()


def check_trunk(weights: Artifact, model: Model, given: str) -> None:
    """InputError, which names the weights as they were `given`, if they do not fit the network without its head."""
    import torch

    with torch.device("meta"):  # shapes only, no memory
        network = build(model, 2)
    head = head_of(network)
    both = network.state_dict(), read_weights(weights)
    wanted, state = ({name: x for name, x in one.items() if not _is_in(name, head)} for one in both)
    if misfits := misfits_of(wanted, state):
        raise InputError(
            f"weights '{given}' do not fit {model.arch}: {describe_misfits(misfits)}; give the arch, stem and size "
            "that they are for"
        )


def _is_in(name: str, layer: str) -> bool:
    """Whether a parameter or a module is in a layer, or is that layer."""
    return name == layer or name.startswith(f"{layer}.")
