"""The networks of a transfer, by what the user gives."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from finished_runs import digits_network
from helpers import DIGITS_VIEW
from PIL import Image

from raylabel.errors import InputError
from raylabel.labels.teacher import Label
from raylabel.media.image_views import eval_pixels, normalise
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.hub import hub_config
from raylabel.models.weights import torchvision_view
from raylabel.store.artifact import Root
from raylabel.transfer.networks import candidates_of

VIEW = View(size=40, resize=44, augment="trivial", min_scale=0.5, flip=False)


def test_a_trained_network_has_its_own_architecture_and_evaluation(tmp_path: Path):
    network = digits_network(Root.open(str(tmp_path)), Label(batch=16), [str(n) for n in range(10)])
    (one,) = candidates_of([network.uri], VIEW)
    assert one.model == Model(arch="resnet8x1") and one.weights == network.uri
    assert one.name == f"{network.name}-{network.digest}"
    assert one.view.evaluation_identity == DIGITS_VIEW.evaluation_identity
    assert (one.view.augment, one.view.min_scale, one.view.flip) == ("trivial", 0.5, False)


def test_names_of_weights_tell_architecture_and_view():
    names = ["timm/resnet10t.c3_in1k", "ResNet50_Weights.IMAGENET1K_V2", "clip/ViT-B-32.laion2b_s34b_b79k"]
    timm, of_torchvision, clip = candidates_of(names, VIEW)
    assert clip.model.arch == names[2] and (clip.view.size, clip.view.interpolation) == (224, "bicubic")
    assert timm.model.arch == "timm/resnet10t.c3_in1k" and (timm.view.size, timm.view.resize) == (176, 201)
    assert of_torchvision.model == Model(arch="resnet50")
    assert (of_torchvision.view.size, of_torchvision.view.resize) == (224, 232)
    assert of_torchvision.view.augment == "trivial"


def test_an_architecture_and_a_file():
    (one,) = candidates_of(["resnet8x1=some=file.pt"], VIEW)
    assert (one.model.arch, one.weights, one.view) == ("resnet8x1", "some=file.pt", VIEW)


def test_anything_else_is_an_error():
    with pytest.raises(InputError, match="networks has 'some.pt', which is neither .* give ARCH=WEIGHTS"):
        candidates_of(["some.pt"], VIEW)


def test_equal_names_in_two_roots_are_told_apart(tmp_path: Path):
    roots = [Root.open(str(tmp_path / name)) for name in ("a", "b")]
    uris = [digits_network(root, Label(batch=16), [str(n) for n in range(10)]).uri for root in roots]
    assert [one.name for one in candidates_of(uris, VIEW)] == uris


@pytest.mark.parametrize(
    "weights",
    ["ResNet50_Weights.IMAGENET1K_V1", "ResNet50_Weights.IMAGENET1K_V2", "EfficientNet_B0_Weights.IMAGENET1K_V1"],
)
def test_the_view_of_torchvision_weights_gives_torchvisions_pixels(weights: str, tmp_path: Path):
    rng = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(
        torch.rand(1, 3, 9, 12, generator=rng) * 255, size=(300, 411), mode="bicubic"
    )
    picture = Image.fromarray(smooth.clamp(0, 255).byte()[0].permute(1, 2, 0).numpy())
    picture.save(tmp_path / "picture.png")
    view = torchvision_view(weights, View())
    pixels = torch.from_numpy(eval_pixels((tmp_path / "picture.png").read_bytes(), view).copy())[None]
    off = (normalise(pixels, view)[0] - torchvision.models.get_weight(weights).transforms()(picture)).abs()
    # Of some values torch's filter, which is Pillow's in integers, rounds otherwise: see eval_pixels.
    assert off.max() < 2.01 / 255 / 0.224 and (off > 1e-5).float().mean() < 0.01


@pytest.mark.parametrize(
    ("weights", "module", "extra"),
    [("timm/resnet10t.c3_in1k", "timm", "timm"), ("clip/RN50.openai", "open_clip", "clip")],
)
def test_a_missing_extra_is_one_sentence(weights: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch):
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == module else known(name, *more))
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(InputError, match=rf"^networks '{weights}'\.arch is .*: pip install 'raylabel\[{extra}\]'$"):
        candidates_of([weights], VIEW)
    with pytest.raises(InputError, match=rf"\.arch is .*: pip install 'raylabel\[{extra}\]'$"):
        hub_config.__wrapped__(weights)  # its answers are kept
