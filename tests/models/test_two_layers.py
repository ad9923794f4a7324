"""The networks of the post on arbitrary labels: layers, shapes, and how their weights begin."""

import pytest
import torch
import torch.nn.functional as F
from networks import on_meta, parameters
from torch import Tensor

from raylabel.errors import InputError
from raylabel.models import Model, check, check_input
from raylabel.models.build import build
from raylabel.models.head import head_of

ARCHS = ["conv2", "conv2_norm", "conv2_pool", "conv2_pool_norm"]


def random_network(model: Model, classes: int):
    torch.manual_seed(0)
    network = build(model, classes).eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif tensor.ndim == 1 and "num_batches" not in name:
                tensor.normal_()
    return network


@pytest.mark.parametrize("arch", ARCHS)
def test_it_equals_a_functional_implementation(arch: str):
    network = random_network(Model(arch=arch, size=32), 7)
    s, images = network.state_dict(), torch.randn(3, 3, 32, 32)

    def norm(x: Tensor, name: str) -> Tensor:
        if name != "bn0" and not arch.endswith("_norm"):
            assert f"{name}.weight" not in s
            return x
        named = (s[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *named)

    x = norm(images, "bn0")
    for number in (1, 2):
        x = norm(F.relu(F.conv2d(x, s[f"conv{number}.weight"], s[f"conv{number}.bias"])), f"bn{number}")
        x = F.max_pool2d(x, 3) if "_pool" in arch else x
    x = norm(F.relu(x.flatten(1) @ s["fc1.weight"].T + s["fc1.bias"]), "bn3")
    expected = x @ s["fc2.weight"].T + s["fc2.bias"]
    assert expected.std() > 0.1
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4)
    assert head_of(network) == "fc2"


def test_the_linear_layers_alone():
    network = random_network(Model(arch="linear2", size=8), 7)
    s, images = network.state_dict(), torch.randn(3, 3, 8, 8)
    named = (s[f"bn0.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    x = F.batch_norm(images, *named).flatten(1)
    expected = F.relu(x @ s["fc1.weight"].T + s["fc1.bias"]) @ s["fc2.weight"].T + s["fc2.bias"]
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4)


def test_without_pools_224_pixels_need_620_million_weights():
    whole = parameters(on_meta(Model(arch="conv2", size=224), 10))
    assert round(whole / 1e6) == 620
    assert parameters(on_meta(Model(arch="conv2_pool_norm", size=224), 10)) < 8e6


def test_weights_begin_as_those_of_keras():
    network = build(Model(arch="conv2_norm", size=16), 10)
    for name, weight in network.named_parameters():
        if weight.ndim > 1:
            fan = (weight.shape[0] + weight.shape[1]) * weight[0, 0].numel()
            assert weight.abs().max() <= (6 / fan) ** 0.5 and weight.std() > 0.9 * (2 / fan) ** 0.5, name
        elif name.endswith("bias"):
            assert not weight.any(), name


@pytest.mark.parametrize(
    "model, message",
    [
        (Model(arch="conv2"), "model.size is 0, but conv2 is built for one size: .* at least 5"),
        (Model(arch="conv2_pool", size=19), "model.size is 19, but conv2_pool .* at least 20"),
        (Model(arch="linear2"), "model.size is 0, but linear2 is built for one size"),
        (Model(arch="linear2_norm", size=8), "linear2 has no convolutions: give linear2"),
        (Model(arch="resnet18", size=8), "which only conv2 and networks of timm have"),
    ],
)
def test_what_cannot_be_built_is_an_error(model: Model, message: str):
    with pytest.raises(InputError, match=message):
        check(model)


def test_the_view_has_to_have_its_size():
    check(Model(arch="conv2_pool", size=20))
    build(Model(arch="conv2", size=5), 2)(torch.zeros(1, 3, 5, 5))
    build(Model(arch="conv2_pool", size=20), 2)(torch.zeros(1, 3, 20, 20))
    check_input(Model(arch="conv2", size=8), None, 8)
    with pytest.raises(InputError, match="built for 8 x 8 pixels, but the view gives 16 x 16: set model.size to 16"):
        check_input(Model(arch="conv2", size=8), None, 16)
    with pytest.raises(InputError, match="takes images, but the view gives clips"):
        check_input(Model(arch="conv2", size=8), 8, 8)
