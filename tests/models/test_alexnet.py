"""AlexNet of DeepCluster, its narrow form, and the Sobel input."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import sobel
from torch import nn

from raylabel.errors import InputError
from raylabel.models import Model, check, check_input
from raylabel.models.build import build, input_dtype
from raylabel.models.sobel import SobelConv2d, SobelConv3d


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_alexnet_has_the_sizes_of_the_official_network():
    with torch.device("meta"):
        network = build(Model(arch="alexnet_bn"), 10_000)
        convolutions = [getattr(network, f"conv{n}") for n in range(1, 6)]
        positions, x = [], torch.empty(1, 3, 224, 224)
        for n, one in enumerate(convolutions, 1):
            x = one(x)
            positions.append(x.shape[2])
            if n in (1, 2, 5):
                x = getattr(network, f"pool{n}")(x)
        assert positions == [55, 27, 13, 13, 13] and x.shape == (1, 256, 6, 6)
        assert network(torch.empty(2, 3, 224, 224)).shape == (2, 10_000)
    # The weights of convolutions and linear layers, in millions; BatchNorm has few more.
    assert sum(map(parameters, convolutions)) == pytest.approx(3.75e6, abs=0.01e6)
    assert parameters(network.get_submodule("fc6")) + parameters(network.get_submodule("fc7")) == 54_534_144
    assert parameters(network.get_submodule("fc8")) == 40_970_000


@pytest.mark.parametrize("size", [15, 32, 48])
def test_the_narrow_network_takes_small_pictures(size: int):
    check_input(Model(arch="alexnetx1"), None, size)
    network = build(Model(arch="alexnetx1"), 7).eval()
    assert network(torch.randn(2, 3, size, size)).shape == (2, 7)
    assert [layer.out_channels for layer in network.modules() if isinstance(layer, nn.Conv2d)] == [12, 32, 48, 48, 32]


def test_sizes_that_do_not_fit_are_errors():
    with pytest.raises(InputError, match="223 to 254 pixels, but the view gives 32 x 32"):
        check_input(Model(arch="alexnet_bn"), None, 32)
    with pytest.raises(InputError, match="at least 15 pixels"):
        check_input(Model(arch="alexnetx2"), None, 14)
    for size in (223, 254):
        check_input(Model(arch="alexnet_bn"), None, size)
        with torch.device("meta"):
            build(Model(arch="alexnet_bn"), 2)(torch.empty(2, 3, size, size))
    for size in (222, 255):
        with torch.device("meta"), pytest.raises(RuntimeError):
            build(Model(arch="alexnet_bn"), 2)(torch.empty(2, 3, size, size))


@pytest.mark.parametrize("arch, first", [("resnet8x1", "conv1"), ("alexnetx1", "conv1.0"), ("vgg16_bn", "features.0")])
def test_the_first_convolution_sees_gradients_of_the_grey_picture(arch: str, first: str):
    torch.manual_seed(3)
    plain = build(Model(arch=arch), 3)
    torch.manual_seed(3)
    network = build(Model(arch=arch, input="sobel"), 3)
    layer = network.get_submodule(first)
    assert isinstance(layer, SobelConv2d) and layer.in_channels == 2
    # All other weights are those that the network has without it.
    for name, tensor in plain.state_dict().items():
        other = network.state_dict()[name]
        torch.testing.assert_close(other, tensor[:, :2] if name == f"{first}.weight" else tensor, rtol=0, atol=0)
    assert input_dtype(network, bf16=True) is torch.bfloat16

    x = torch.randn(1, 3, 9, 9)
    grey = x[0].mean(0).numpy()
    seen: list[torch.Tensor] = []
    plain_forward = nn.Conv2d.forward
    with torch.no_grad():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nn.Conv2d, "forward", lambda self, y: seen.append(y) or plain_forward(self, y))
            layer(x)
    # scipy's filter is a convolution, which turns it over; the border of zeros is its mode 'constant'.
    for channel, axis in ((0, 1), (1, 0)):
        wanted = -sobel(grey, axis=axis, mode="constant")
        np.testing.assert_allclose(seen[0][0, channel].numpy(), wanted, atol=1e-5)


def test_clips_have_gradients_of_each_frame():
    torch.manual_seed(0)
    network = build(Model(arch="r2plus1d8x1", input="sobel"), 3)
    layer: Any = next(one for one in network.modules() if isinstance(one, SobelConv3d))
    x = torch.randn(1, 3, 4, 8, 8)
    frames = SobelConv2d(2, layer.out_channels, layer.kernel_size[1:], layer.stride[1:], layer.padding[1:], bias=False)
    frames.weight = nn.Parameter(layer.weight[:, :, 0])
    assert layer.kernel_size[0] == 1
    wanted = torch.stack([frames(x[:, :, t]) for t in range(4)], 2)
    torch.testing.assert_close(layer(x), wanted)


def test_a_picture_of_one_colour_gives_no_gradients_inside():
    layer = SobelConv2d(2, 4, 1, bias=False)
    found = layer(torch.ones(1, 3, 6, 6) * torch.tensor([0.5, -1, 2])[:, None, None])
    assert found[:, :, 1:-1, 1:-1].abs().max() < 1e-6 < found.abs().max()


def test_networks_without_such_a_convolution_are_errors():
    with pytest.raises(InputError, match="model.input is 'hsv'"):
        check(Model(input="hsv"))  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="linear2 may be no convolution"):
        check(Model(arch="linear2", size=8, input="sobel"))
