"""Networks built by torchvision, by a copied file and by timm: the same weights, the same logits."""

import math
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from exportable import run_without_raylabel
from hypothesis import given
from hypothesis import strategies as st
from networks import on_meta
from torch import nn

from raylabel.models import Model, takes_clips
from raylabel.models.build import build
from raylabel.models.config import RESNEXT101
from raylabel.models.trained import WEIGHTS
from raylabel.ship.other_programs import crop_fraction, source_texts, timm_network, torch_code

# One of each kind of code, and the size of its input.
SOME = {
    Model(arch="resnet14x2"): (8, 8),
    Model(arch="resnet18", stem="small"): (16, 16),
    Model(arch="resnext50_32x4d", stem="small"): (8, 8),
    Model(arch="resnext101_32x4d"): (32, 32),
    Model(arch="mobilenet_v3_small"): (32, 32),
    Model(arch="googlenet"): (32, 32),
    Model(arch="timm/test_vit.r160_in1k", size=96): (96, 96),
    Model(arch="timm/test_efficientnet"): (64, 64),
    Model(arch="timm/test_efficientnet", features="unit"): (64, 64),
    Model(arch="resnet8x1", features="unit"): (8, 8),
    Model(arch="clip/ViT-S-32-alt", features="unit"): (224, 224),
    Model(arch="clip/RN50.openai"): (224, 224),
    Model(arch="r2plus1d8x2"): (4, 8, 8),
    Model(arch="c3dx1"): (8, 8, 8),
    Model(arch="alexnetx1", input="sobel"): (32, 32),
    Model(arch="resnet18", input="sobel"): (32, 32),
    Model(arch="resnet8x1", input="sobel", features="unit"): (8, 8),
    Model(arch="r3d_18"): (2, 16, 16),
}
LARGE = {
    Model(arch="r2plus1d_34"): (4, 32, 32),
    Model(arch="c3d"): (16, 112, 112),
    Model(arch="inception_v3"): (75, 75),
    Model(arch="vit_b_16"): (224, 224),
}
IMAGES = [*torchvision.models.list_models(module=torchvision.models), *RESNEXT101]


def random_network(model: Model, size: tuple[int, ...], classes: int = 7) -> nn.Module:
    """In evaluation mode, with statistics of BatchNorm that are not the initial ones."""
    torch.manual_seed(0)
    module = build(model, classes).train()
    with torch.no_grad():
        module(torch.randn(2, 3, *size))
    return module.eval()


def check_code(some: dict[Model, tuple[int, ...]], tmp_path: Path) -> None:
    tasks, expected = {}, {}
    for model, size in some.items():
        folder = tmp_path / f"{model.arch}-{model.stem}-{model.features}".replace("/", "-")
        folder.mkdir()
        module, inputs = random_network(model, size), torch.randn(2, 3, *size)
        safetensors.torch.save_file(module.state_dict(), folder / WEIGHTS)
        for name, text in source_texts(model).items():
            (folder / name).write_text(text)
        tasks[folder] = [torch_code(model, 7)], inputs
        with torch.inference_mode():
            expected[folder] = module(inputs).numpy()
    for folder, found in run_without_raylabel(tasks, tmp_path).items():
        assert (found[0] == expected[folder]).all(), folder.name


@pytest.mark.long
def test_the_code_gives_the_same_logits_without_raylabel(tmp_path: Path) -> None:
    check_code(SOME, tmp_path)


@pytest.mark.slow
def test_the_code_of_large_networks_gives_the_same_logits_without_raylabel(tmp_path: Path) -> None:
    check_code(LARGE, tmp_path)


@pytest.mark.slow
def test_the_code_builds_every_network_of_torchvision() -> None:
    video = [Model(arch=arch) for arch in ("r2plus1d_18", "r3d_18", "mc3_18")]
    for model in [*(Model(arch=arch) for arch in IMAGES), *video]:
        if model.arch.startswith("regnet"):  # cannot be built without memory
            continue
        imports, _, lines = torch_code(model, 7).partition("\n\n")
        names: dict[str, nn.Module] = {}
        with torch.device("meta"):
            exec(f"{imports}\n{lines.partition('network.load_state_dict')[0]}", names)
        assert shapes(names["network"]) == shapes(on_meta(model, 7)), model.arch


def shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def in_timm(model: Model) -> nn.Module:
    found = timm_network(model)
    assert found
    return timm.create_model(found[0], num_classes=7, **found[1])


@pytest.mark.slow
def test_the_table_has_every_network_whose_weights_have_the_same_names_in_timm() -> None:
    known, seen = set(timm.list_models()), 0
    for model in (Model(arch=arch) for arch in IMAGES):
        if timm_network(model):
            seen += 1
            with torch.device("meta"):
                assert shapes(in_timm(model)) == shapes(on_meta(model, 7)), model.arch
        elif model.arch in known and model.arch != "inception_v3":  # timm's does not transform its input
            with torch.device("meta"):
                other = timm.create_model(model.arch, num_classes=7)
            assert shapes(other) != shapes(on_meta(model, 7)), model.arch
    assert seen == 18 and not any(takes_clips(model) for model in map(lambda arch: Model(arch=arch), IMAGES))
    assert timm_network(Model(arch="resnet18", stem="small")) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "arch", [arch for arch in IMAGES if timm_network(Model(arch=arch)) and "32x32d" not in arch and "48d" not in arch]
)
def test_timm_gives_the_same_logits(arch: str) -> None:
    """Of each network in the table but the two of more than a gigabyte, whose class is that of the others."""
    module, inputs = random_network(Model(arch=arch), (64, 64)), torch.randn(2, 3, 64, 64)
    other = in_timm(Model(arch=arch))
    other.load_state_dict(module.state_dict())
    with torch.inference_mode():
        assert torch.equal(other.eval()(inputs), module(inputs))


@given(size=st.integers(1, 1024), more=st.integers(0, 1024))
def test_timm_computes_the_same_short_side(size: int, more: int) -> None:
    assert math.floor(size / crop_fraction(size, size + more)) == size + more
