"""Features of layers: of the layer itself, whatever follows it; averaged over positions, or over areas of them."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from raylabel.errors import InputError
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.trunk import trunk, width_of


def outputs(network: nn.Module, layer: str, x: Tensor) -> Tensor:
    """What a layer computes, before others change it."""
    found: list[Tensor] = []
    hook = network.get_submodule(layer).register_forward_hook(lambda *args: found.append(args[2].clone()))
    with torch.no_grad():
        network(x)
    hook.remove()
    return found[0]


@pytest.mark.parametrize("arch, layer", [("resnet8x1", "layer2"), ("resnet8x1", "bn1"), ("alexnetx1", "conv3.1")])
def test_a_feature_is_that_of_its_layer_also_before_a_relu_in_place(arch: str, layer: str):
    torch.manual_seed(0)
    network, x = build(Model(arch=arch), 5).eval(), torch.randn(3, 3, 32, 32)
    wanted = outputs(network, layer, x)
    assert wanted.min() < 0 or layer == "layer2"
    with torch.no_grad():
        torch.testing.assert_close(trunk(network, layer)(x), wanted.mean((2, 3)))


def test_areas_are_averaged_apart():
    network, x = build(Model(arch="resnet8x1"), 5).eval(), torch.randn(3, 3, 32, 32)
    wanted = outputs(network, "layer2", x)  # 32 channels of 16 x 16
    with torch.no_grad():
        found = trunk(network, "layer2:4")(x)
    by_hand = wanted.unflatten(3, (4, 4)).unflatten(2, (4, 4)).mean((3, 5)).flatten(1)
    torch.testing.assert_close(found, by_hand)
    assert width_of(Model(arch="resnet8x1"), "layer2:4", (3, 32, 32)) == found.shape[1] == 32 * 16


def test_several_layers_in_any_order_follow_each_other_in_one_pass():
    model, x = Model(arch="resnet8x1"), torch.randn(3, 3, 32, 32)
    network, runs = build(model, 5).eval(), list[str]()
    network.get_submodule("conv1").register_forward_hook(lambda *_: runs.append("conv1"))
    wanted = [outputs(network, name, x) for name in ("layer2", "conv1")]
    runs.clear()
    network.get_submodule("layer3").register_forward_hook(lambda *_: pytest.fail("layer3 was computed"))
    module = trunk(network, "layer2:2+conv1+layer2")
    with torch.no_grad():
        module(x)
        found = module(x)
    areas = functional.adaptive_avg_pool2d(wanted[0], 2).flatten(1)
    torch.testing.assert_close(found, torch.cat([areas, *(one.mean((2, 3)) for one in reversed(wanted))], 1))
    assert runs == ["conv1"] * 2
    assert width_of(model, "layer2:2+conv1+layer2", (3, 32, 32)) == found.shape[1]
    with pytest.raises(InputError, match="no layer 'conv7'"):
        trunk(network, "conv1+conv7")


def test_areas_that_do_not_divide_a_layer_overlap_as_in_the_protocol():
    """The paper's pool behind conv1 of AlexNet has 6 x 6 positions, stride 6 and a border of 3: 9,600 numbers."""
    assert width_of(Model(arch="alexnet_bn"), "conv1:10", (3, 224, 224)) == 9_600
    assert width_of(Model(arch="alexnet_bn"), "conv2:6", (3, 224, 224)) == 9_216
    assert width_of(Model(arch="alexnet_bn"), "conv3:5", (3, 224, 224)) == 9_600
    assert width_of(Model(arch="alexnet_bn"), "conv5:6", (3, 224, 224)) == 9_216


def test_areas_of_clips_are_averaged_over_time():
    network, x = build(Model(arch="r2plus1d8x1"), 5).eval(), torch.randn(2, 3, 8, 16, 16)
    wanted = outputs(network, "layer1", x)
    with torch.no_grad():
        found = trunk(network, "layer1:2")(x)
    torch.testing.assert_close(found, functional.adaptive_avg_pool2d(wanted.mean(2), 2).flatten(1))


def test_layers_behind_are_not_computed():
    network = build(Model(arch="resnet8x1"), 5).eval()
    network.get_submodule("layer3").register_forward_hook(lambda *_: pytest.fail("layer3 was computed"))
    with torch.no_grad():
        assert trunk(network, "layer2")(torch.randn(2, 3, 32, 32)).shape == (2, 32)


def test_a_head_is_taken_off_and_bad_layers_are_named():
    network = build(Model(arch="resnet8x1"), 5)
    with pytest.raises(InputError, match="no layer 'layer4'.*layer"):
        trunk(network, "layer4")
    for bad in ("layer2:0", "layer2:x", ":2", "layer2:", "layer2+", "+layer2", "layer2:2+x:"):
        with pytest.raises(InputError, match="NAME:G"):
            trunk(network, bad)
    with pytest.raises(InputError, match="not 99 x 99 positions"):
        trunk(build(Model(arch="resnet8x1"), 5), "layer2:99")(torch.randn(2, 3, 32, 32))
    assert trunk(network)(torch.randn(2, 3, 32, 32)).shape == (2, 64)


def test_a_layer_that_never_runs_is_an_error():
    network = build(Model(arch="resnet8x1"), 5)
    network.add_module("unused", nn.Linear(2, 2))
    with pytest.raises(InputError, match="does not run it"):
        trunk(network, "unused")(torch.randn(2, 3, 32, 32))
