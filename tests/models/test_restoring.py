"""Networks with a decoder: which map it decodes, which parameters are trained, and what is left of it."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from raylabel.errors import InputError
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.restoring import Restoring, _last_map, _spread, without_decoder
from raylabel.models.weights import load_weights, save_weights


@pytest.mark.parametrize(
    "model, shape, layer, map_shape, idle",
    [
        (Model(arch="resnet8x1"), (3, 8, 8), "layer3", (64, 2, 2), {"fc"}),
        (Model(arch="resnet18"), (3, 32, 32), "layer3", (256, 2, 2), {"layer4", "fc"}),
        (Model(arch="alexnetx1", input="sobel"), (3, 32, 32), "conv5", (32, 7, 7), {"fc6", "fc7", "fc8"}),
        (Model(arch="r2plus1d8x1"), (3, 8, 8, 8), "layer3", (64, 2, 2, 2), {"fc"}),
    ],
)
def test_the_last_map_is_decoded(
    model: Model, shape: tuple[int, ...], layer: str, map_shape: tuple[int, ...], idle: set[str]
):
    network = build(model, 2)
    name, found, _ = _last_map(network, torch.zeros(2, *shape))
    assert (name, found) == (layer, map_shape) and network.training
    x = torch.randn(2, *shape)
    with torch.no_grad():
        wanted = network.eval().get_submodule(layer)
        seen: list[Any] = []
        hook = wanted.register_forward_hook(lambda *given: seen.append(given[2].clone()))
        network(x)
        hook.remove()
    restoring = Restoring(network, shape)
    restoring.eval()
    with torch.no_grad():
        sides = [-(-whole // part) for whole, part in zip(shape[1:], map_shape[1:], strict=True)]
        pixels = _spread(restoring.decoder(seen[0]), sides)
        if pixels.shape != x.shape:
            pixels = functional.interpolate(pixels, shape[1:], mode="bilinear", align_corners=False)
        torch.testing.assert_close(restoring(x), pixels)
    restoring.train()(x).square().sum().backward()
    without = {n.split(".")[1] for n, p in restoring.named_parameters() if p.grad is None}
    assert without == idle
    assert all(p.requires_grad == (p.grad is not None) for p in restoring.parameters())
    assert all(p.grad.abs().sum() > 0 for p in restoring.decoder.parameters() if p.ndim > 1 and p.grad is not None)


def test_spread_is_pixel_shuffle_also_for_clips():
    x = torch.arange(2.0 * 3 * 4 * 5 * 6).reshape(2, 12, 5, 6)
    assert torch.equal(_spread(x, [2, 2]), functional.pixel_shuffle(x, 2))
    clip = torch.arange(3.0 * 8 * 2 * 1 * 1).reshape(1, 24, 2, 1, 1)
    found = _spread(clip, [2, 2, 2])
    assert found.shape == (1, 3, 4, 2, 2)
    assert found[0, 1, 3, 0, 1] == clip[0, 8 + 4 * 1 + 2 * 0 + 1, 1, 0, 0]


def test_the_network_is_left_without_its_decoder():
    network = build(Model(arch="resnet8x1"), 2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    again = build(Model(arch="resnet8x1"), 2)
    load_weights(again, without_decoder(save_weights(Restoring(network, (3, 8, 8)))), "here")
    assert all(torch.equal(tensor, before[name]) for name, tensor in again.state_dict().items())


def test_networks_of_attention_are_an_error():
    with pytest.raises(InputError, match="attention"):
        Restoring(build(Model(arch="vit_b_32"), 2), (3, 224, 224))
