"""Networks that end at a layer, against the features of the whole network and a linear layer."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from raylabel.errors import InputError
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.init import Init
from raylabel.models.start import freeze, taken
from raylabel.models.trunk import trunk

IMAGES = [
    (Model(arch="resnet8x1"), "layer2:4", (3, 32, 32)),
    (Model(arch="alexnetx1", input="sobel"), "conv2:3", (3, 32, 32)),
    (Model(arch="vgg11_bn"), "features.2", (3, 32, 32)),
    (Model(arch="vit_b_16"), "encoder.layers.encoder_layer_0", (3, 224, 224)),
    (Model(arch="timm/vit_tiny_patch16_224"), "blocks.1", (3, 224, 224)),
    (Model(arch="r2plus1d8x1"), "layer1:2", (3, 8, 16, 16)),
]


def ended(model: Model, layer: str, classes: int = 5) -> nn.Module:
    return build(Model(arch=model.arch, input=model.input, layer=layer), classes)


@pytest.mark.parametrize("model, layer, shape", IMAGES)
def test_logits_are_a_linear_layer_on_the_features_of_the_whole_network(model, layer, shape):
    if model.arch.startswith("timm/"):
        pytest.importorskip("timm")
    whole, network = build(model, 7), ended(model, layer)
    network.load_state_dict(taken(network, whole.state_dict(), Init(take=("trunk",)), "here"), strict=False)
    network.eval()
    whole.eval()
    x = torch.randn(2, *shape)
    with torch.no_grad():
        wanted = functional.linear(
            trunk(whole, layer)(x), *(network.get_parameter(f"probe.{one}") for one in ("weight", "bias"))
        )
        assert torch.equal(network(x), wanted)
    kept = network.state_dict()
    assert len(kept) < len(whole.state_dict()) and set(kept) - set(whole.state_dict()) == {"probe.weight", "probe.bias"}
    freeze(network, ("trunk",), True)
    network(x).sum().backward()
    assert {n for n, one in network.named_parameters() if one.grad is not None} == {"probe.weight", "probe.bias"}
    for one in network.parameters():
        one.requires_grad_(True)
    network(x).sum().backward()
    assert all(one.grad is not None for one in network.parameters())  # nothing is kept that does not run


def test_layers_behind_may_be_in_the_weights_and_those_before_it_must_be():
    network, state = ended(Model(arch="resnet8x1"), "layer2"), build(Model(arch="resnet8x1"), 7).state_dict()
    assert not any(name.startswith(("layer3", "fc")) for name in network.state_dict())
    assert set(taken(network, state, Init(head="new"), "here")) == set(network.state_dict()) - {
        "probe.weight",
        "probe.bias",
    }
    with pytest.raises(InputError, match="'conv1.weight' is missing"):
        taken(network, {n: x for n, x in state.items() if n != "conv1.weight"}, Init(), "here")
    with pytest.raises(InputError, match="'other.weight' is not in the network"):
        taken(network, state | {"other.weight": torch.zeros(2)}, Init(), "here")


def test_a_layer_that_is_not_there_is_named():
    with pytest.raises(InputError, match="no layer 'layer9'.*layer1"):
        ended(Model(arch="resnet8x1"), "layer9")
    with pytest.raises(InputError, match="NAME:G"):
        ended(Model(arch="resnet8x1"), "layer2:0")
