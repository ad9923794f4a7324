"""The order of layers, and the patches of a convolution against torch's own unfold and against the convolution."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from raylabel.errors import InputError
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.layers import check_convolutional, input_of, layer_order, patches_of, positions_of
from raylabel.models.sobel import gradients


def all_patches(layer: nn.Module, x: Tensor) -> Tensor:
    """[B, L, G, D]"""
    return patches_of(layer, x, torch.arange(positions_of(layer, x)).expand(len(x), -1))


@pytest.mark.parametrize("stride, padding, dilation", [(1, 1, 1), (2, 0, 1), (2, 3, 2), ((1, 2), (2, 0), (1, 2))])
def test_patches_are_those_of_unfold(stride, padding, dilation):
    layer = nn.Conv2d(3, 4, (3, 2), stride=stride, padding=padding, dilation=dilation)
    x = torch.randn(2, 3, 9, 8)
    unfolded = functional.unfold(x, (3, 2), dilation, padding, stride)
    assert torch.equal(all_patches(layer, x).squeeze(2), unfolded.transpose(1, 2))


@pytest.mark.parametrize(
    "layer, shape",
    [
        (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2, bias=False), (2, 4, 9)),
        (nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False), (2, 4, 5, 6)),
        (nn.Conv3d(4, 6, (3, 1, 2), stride=(2, 1, 1), padding=(1, 0, 1), groups=2, bias=False), (2, 4, 5, 6, 4)),
    ],
)
def test_patches_times_filters_are_the_convolution(layer: Any, shape: tuple[int, ...]):
    x = torch.randn(shape)
    filters = layer.weight.flatten(1).unflatten(0, (2, 3))  # [G, filters of a group, D]
    found = torch.einsum("blgd,gmd->bgml", all_patches(layer, x), filters).flatten(1, 2)
    torch.testing.assert_close(found, layer(x).flatten(2))


def test_patches_are_of_the_positions_that_are_asked_for():
    layer, x = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 6, 6)
    position = torch.tensor([[5, 0], [15, 3]])
    wanted = all_patches(layer, x)
    found = patches_of(layer, x, position)
    assert torch.equal(found, torch.stack([wanted[0, [5, 0]], wanted[1, [15, 3]]]))


def test_layers_are_in_the_order_in_which_they_run():
    """Shortcuts are registered before the convolutions that they lead around, and run before them."""
    network = build(Model(arch="resnet8x1"), 10).eval()
    order = layer_order(network, torch.zeros(2, 3, 8, 8))
    assert order[:6] == ["conv1", "bn1", "layer1.0.conv1", "layer1.0.bn1", "layer1.0.conv2", "layer1.0.bn2"]
    assert order[6:10] == ["layer2.0.downsample.0", "layer2.0.downsample.1", "layer2.0.conv1", "layer2.0.bn1"]
    assert len(order) == 2 * 9 and "fc" not in order
    assert not any(layer._forward_pre_hooks for layer in network.modules())


def test_the_input_of_a_layer_is_what_the_layers_before_it_give():
    network: Any = build(Model(arch="resnet8x1"), 10).eval()
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(input_of(network, "bn1", x), network.conv1(x))
    wanted = network.relu(network.bn1(network.conv1(x)))
    assert torch.equal(input_of(network, "layer1.0.conv1", x), wanted)
    assert not network.bn1._forward_pre_hooks


@pytest.mark.parametrize("arch, shape", [("alexnetx2", (2, 3, 32, 32)), ("c3dx1", (2, 3, 16, 32, 32))])
def test_a_convolution_on_gradients_takes_these(arch: str, shape: tuple[int, ...]):
    network = build(Model(arch=arch, input="sobel"), 10).eval()
    first, x = layer_order(network, torch.zeros(shape))[0], torch.randn(shape)
    layer: Any = network.get_submodule(first)
    found = input_of(network, first, x)
    assert torch.equal(found, gradients(x)) and found.shape[1] == 2
    filters = layer.weight.flatten(1)
    wanted = layer(x) - layer.bias.view(-1, *[1] * (x.ndim - 2))
    torch.testing.assert_close(
        (all_patches(layer, found)[:, :, 0] @ filters.T).transpose(1, 2), wanted.flatten(2), atol=1e-4, rtol=1e-4
    )


def test_other_networks_are_errors():
    with pytest.raises(InputError, match="attention"):
        check_convolutional(build(Model(arch="vit_b_32"), 10))
    with pytest.raises(InputError, match="no convolutions"):
        check_convolutional(build(Model(arch="linear2", size=8), 10))
    check_convolutional(build(Model(arch="resnet8x1"), 10))
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(InputError, match="layer '0' is a Conv2d"):
        layer_order(network.eval(), torch.zeros(1, 3, 4, 4))
    with torch.device("meta"), pytest.raises(InputError, match="has 13,824 numbers"):
        layer_order(build(Model(arch="c3d"), 2).eval(), torch.empty(2, 3, 16, 112, 112))
