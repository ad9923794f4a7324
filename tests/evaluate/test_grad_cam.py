"""Grad-CAM against CAM in closed form, against gradients by differences, and on a network that looks at one corner."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raylabel.evaluate.grad_cam import class_maps
from raylabel.models import Model
from raylabel.models.build import build


def resized(maps: Tensor, side: int) -> Tensor:
    """Maps [B, h, w] as pictures, with 1 as their maximum."""
    found = F.interpolate(maps[:, None].relu(), (side, side), mode="bilinear", align_corners=False)[:, 0]
    return found / found.amax((1, 2), keepdim=True)


def test_for_one_linear_layer_behind_a_mean_it_is_cam():
    torch.manual_seed(0)
    network: Any = build(Model(arch="resnet8x1"), 5).eval()
    images, classes = torch.randn(4, 3, 32, 32), torch.tensor([0, 4, 2, 2])
    with torch.no_grad():
        x = network.relu(network.bn1(network.conv1(images)))
        channels = network.layer3(network.layer2(network.layer1(x)))  # [B, K, 8, 8]
        expected = torch.einsum("bk,bkhw->bhw", network.fc.weight[classes], channels)
    found = class_maps(network, images.clone(), classes)
    torch.testing.assert_close(found, resized(expected, 32), rtol=1e-4, atol=1e-4)
    assert found.min() >= 0 and torch.equal(found.amax((1, 2)), torch.ones(4))


def test_the_weights_are_mean_gradients_behind_a_flattening():
    torch.manual_seed(0)
    network: Any = build(Model(arch="conv2_norm", size=8), 3).double().eval()
    images, classes = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.tensor([2, 0])
    with torch.no_grad():
        x = network.bn1(F.relu(network.conv1(network.bn0(images))))
        channels = network.bn2(F.relu(network.conv2(x)))

        def logit(at: Tensor) -> Tensor:
            hidden = network.bn3(F.relu(network.fc1(torch.flatten(at, 1))))
            return network.fc2(hidden).gather(1, classes[:, None])[:, 0]

        step, weights = 1e-6, torch.empty(2, 64, dtype=torch.float64)
        for k in range(64):  # the sum of a channel's gradients is the derivative by a number added to all of it
            moved = channels.clone()
            moved[:, k] += step
            weights[:, k] = (logit(moved) - logit(channels)) / step / 16
        expected = torch.einsum("bk,bkhw->bhw", weights, channels)
    found = class_maps(network, images.clone(), classes)
    torch.testing.assert_close(found.double(), resized(expected, 8), rtol=1e-3, atol=1e-3)


class Corner(nn.Module):
    """The logit of class 1 is the brightness of the upper left quarter; that of class 0 is its negative."""

    def __init__(self):
        super().__init__()
        self.look = nn.Conv2d(3, 1, 1, bias=False)
        nn.init.ones_(self.look.weight)

    def forward(self, images: Tensor) -> Tensor:
        seen = self.look(images)
        corner = seen[:, :, :4, :4].mean((1, 2, 3))
        return torch.stack([-corner, corner], 1)


def test_it_shows_where_the_class_is_and_nothing_where_nothing_speaks_for_it():
    images = torch.zeros(2, 3, 8, 8)
    images[:, :, 1, 2] = 1
    found = class_maps(Corner(), images, torch.tensor([1, 0]))
    expected = torch.zeros(8, 8)
    expected[1, 2] = 1
    assert torch.equal(found[0], expected) and not found[1].any()


class Permuted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class Mean(nn.Module):
    def __init__(self, *positions: int):
        super().__init__()
        self.positions = positions

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.positions)


def test_channels_may_be_the_last_dimension():
    torch.manual_seed(0)
    convolution, head = nn.Conv2d(3, 5, 3, stride=2), nn.Linear(5, 3)
    first = nn.Sequential(convolution, nn.ReLU(), Mean(2, 3), head)
    last = nn.Sequential(convolution, nn.ReLU(), Permuted(), Mean(1, 2), head)
    images, classes = torch.randn(4, 3, 15, 15), torch.tensor([0, 1, 2, 1])
    expected = class_maps(first, images.clone(), classes)
    assert expected.any()
    torch.testing.assert_close(class_maps(last, images.clone(), classes), expected)


def test_a_network_without_positions_is_an_error():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(ValueError, match="no layer of the network has an output with several positions"):
        class_maps(network, torch.zeros(1, 3, 2, 2), torch.tensor([0]))
