import random
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import on_meta, parameters
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from raylabel.errors import InputError
from raylabel.media.image_views import normalise
from raylabel.media.view import Clip, View
from raylabel.models import Model, check, takes_clips
from raylabel.models.build import build, input_dtype, memory_format
from raylabel.models.head import Float32, float32_head

TORCHVISION = torchvision.models.list_models(module=torchvision.models)
RESNETS = {n for n in TORCHVISION if torchvision.models.get_model_builder(n).__module__ == "torchvision.models.resnet"}


def one_of_each_family(names: list[str]) -> list[Any]:
    """The others are slow."""
    families = [torchvision.models.get_model_builder(name).__module__ for name in names]
    firsts = {names[families.index(family)] for family in families}
    return [name if name in firsts else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.long
@pytest.mark.parametrize(
    "arch", one_of_each_family([n for n in TORCHVISION if not n.startswith("regnet")] + ["regnet_y_400mf"])
)
def test_every_torchvision_classifier_gives_logits(arch: str):
    network = on_meta(Model(arch=arch), 7)
    images = torch.empty(2, 3, 224, 224, device="meta")
    for training in (True, False):  # with auxiliary classifiers, inception and googlenet return tuples in training
        logits = network.train(training)(images)
        assert isinstance(logits, Tensor)
        assert logits.shape == (2, 7)
    assert starts_with_a_convolution(network, images) == (input_dtype(network, True) == torch.bfloat16)
    assert last_layer(network, images) is layer_in_float32(network)


class Uses(TorchFunctionMode):
    """Records the names of the functions that are called with the tensor and return a tensor."""

    def __init__(self, tensor: Tensor):
        super().__init__()
        self.tensor, self.names = tensor, set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and any(argument is self.tensor for argument in args):
            self.names.add(func.__name__)
        return found


def starts_with_a_convolution(network: nn.Module, inputs: Tensor) -> bool:
    """Whether the network uses its input only as that of convolutions, all of which autocast computes in bf16."""
    with Uses(inputs) as uses:
        network(inputs)
    assert uses.names
    return uses.names <= {"conv2d", "conv3d"}


def test_only_inputs_that_a_network_changes_itself_are_float32():
    networks = {arch: on_meta(Model(arch=arch), 7) for arch in ("googlenet", "inception_v3", "resnet18", "c3d")}
    assert {arch: input_dtype(network, True) for arch, network in networks.items()} == {
        "googlenet": torch.float32,
        "inception_v3": torch.float32,
        "resnet18": torch.bfloat16,
        "c3d": torch.bfloat16,
    }
    assert {input_dtype(network, False) for network in networks.values()} == {torch.float32}
    pooling = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(3, 7, 1))
    assert input_dtype(pooling, True) == torch.float32


@pytest.mark.long
@pytest.mark.parametrize("arch", ["resnet8x1", "r2plus1d8x1", "squeezenet1_1"])
def test_a_rounded_input_gives_the_bits_of_autocast(arch: str):
    """Forward, and of images backward. Of clips oneDNN's gradient of one (3, 1, 1) convolution varies from call to call
    in bf16 (torch 2.14.1, AVX512-BF16); on a CPU clips are trained in fp32."""
    view = View(size=64, clip=Clip(frames=4) if takes_clips(Model(arch=arch)) else None)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, *view.train_shape), dtype=np.uint8))
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        network = build(Model(arch=arch), 7)
        assert input_dtype(network, True) == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16):
            logits = network.to(memory_format=memory_format(network))(normalise(pixels, view, dtype))  # pyright: ignore
        logits.float().pow(2).sum().backward()
        gradients = [] if view.clip else [parameter.grad for parameter in network.parameters()]
        found.append([logits.detach(), *gradients])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def last_layer(network: nn.Module, inputs: Tensor) -> nn.Module:
    """The last layer with weights that the network calls, other than batch and layer norms."""
    called = []
    layers = (nn.Linear, nn.Conv2d, nn.Conv3d)
    hooks = [
        m.register_forward_hook(lambda m, *_: called.append(m)) for m in network.modules() if isinstance(m, layers)
    ]
    network(inputs)
    for hook in hooks:
        hook.remove()
    return called[-1]


def layer_in_float32(network: nn.Module) -> nn.Module:
    """The only layer that `float32_head` replaces."""
    (found,) = (m.layer for m in float32_head(network).modules() if isinstance(m, Float32))
    return found


@pytest.mark.parametrize(
    "arch", ["resnet8x1", "r2plus1d8x1", "r2plus1d_18", "r2plus1d_34", "r3d_18", "mc3_18", "c3d", "c3dx1"]
)
def test_the_head_of_each_network_is_its_last_layer(arch: str):
    """Those of torchvision for images are in `test_every_torchvision_classifier_gives_logits`."""
    network = on_meta(Model(arch=arch), 7).eval()
    inputs = (
        torch.empty(2, 3, 16, 112, 112, device="meta")
        if takes_clips(Model(arch=arch))
        else torch.empty(2, 3, 32, 32, device="meta")
    )
    assert starts_with_a_convolution(network, inputs) and input_dtype(network, True) == torch.bfloat16
    last = last_layer(network, inputs)
    assert layer_in_float32(network) is last and isinstance(last, nn.Linear) and last.out_features == 7


@pytest.mark.parametrize(
    ("arch", "compiled"), [("resnet8x1", False), ("resnet8x1", True), ("r2plus1d8x1", False), ("squeezenet1_1", False)]
)
def test_the_head_computes_in_float32_under_autocast(arch: str, compiled: bool):
    """Its logits are those of its input, in float32. `fullgraph`: torch.compile traces it as one graph."""
    torch.manual_seed(0)
    network, features = float32_head(build(Model(arch=arch), 7).eval()), []
    (head,) = (m for m in network.modules() if isinstance(m, Float32))
    head.register_forward_hook(lambda _, inputs, logits: features.append((inputs[0], logits.clone())))
    inputs = torch.rand(4, 3, 2, 32, 32) if takes_clips(Model(arch=arch)) else torch.rand(4, 3, 32, 32)
    run = torch.compile(network, backend="aot_eager", fullgraph=True) if compiled else network
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        logits = run(inputs)
        ((x, found),) = features
    assert found.dtype == logits.dtype == torch.float32
    with torch.inference_mode():
        torch.testing.assert_close(found, head.layer(x.float()), rtol=1e-6, atol=1e-6)
    assert not torch.equal(found, found.bfloat16().float())


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnext101_32x8d", "vit_b_16", "densenet121", "googlenet"])
def test_parameter_counts_equal_torchvision(arch: str):
    """The enum of weights states the number of parameters at 1,000 classes, without auxiliary classifiers."""
    (weight, *_) = torchvision.models.get_model_weights(arch)
    assert parameters(on_meta(Model(arch=arch), 1000)) == weight.meta["num_params"]


@pytest.mark.parametrize(
    ("arch", "millions"),
    [
        ("resnet18", 11.69),
        ("resnet50", 25.56),
        ("resnext50_32x4d", 25.03),
        ("resnext101_32x4d", 44.18),
        ("resnext101_32x8d", 88.79),
        ("resnext101_32x16d", 194.03),
        ("resnext101_32x32d", 468.53),
        ("resnext101_32x48d", 828.41),
    ],
)
def test_parameter_counts_equal_the_paper(arch: str, millions: float):
    """Yalniz et al. 2019, Table 3, and the WSL release, to two decimals."""
    assert round(parameters(on_meta(Model(arch=arch), 1000)) / 1e6, 2) == millions


def test_resnext_differs_from_torchvision_only_in_width():
    """The same names, and at d = 8 the same shapes, so released weights load."""
    ours = on_meta(Model(arch="resnext101_32x16d"), 1000).state_dict()
    theirs = on_meta(Model(arch="resnext101_32x8d"), 1000).state_dict()
    assert list(ours) == list(theirs)
    assert ours["layer1.0.conv2.weight"].shape == (512, 16, 3, 3)
    assert theirs["layer1.0.conv2.weight"].shape == (256, 8, 3, 3)


def small_parameters(n: int, w: int, classes: int) -> int:
    """Weights of conv1, of the 2n convolutions of a stage, of two projections and of fc; two per channel of a norm."""
    a, b, c = 16 * w, 32 * w, 64 * w
    convolutions = 27 * a + 9 * (2 * n * a * a + a * b + (2 * n - 1) * b * b + b * c + (2 * n - 1) * c * c)
    projections = a * b + b * c
    norms = 2 * (a + 2 * n * (a + b + c) + b + c)
    return convolutions + projections + norms + c * classes + classes


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 200))
@settings(max_examples=20)
def test_small_networks_have_the_parameters_of_the_formula(n: int, w: int, classes: int):
    network = on_meta(Model(arch=f"resnet{6 * n + 2}x{w}"), classes)
    assert parameters(network) == small_parameters(n, w, classes)
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    projections = [m for m in layers if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert len(layers) - len(projections) == 6 * n + 2  # the layers that the depth in the name counts
    assert len(projections) == 2
    assert network(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, classes)


def test_parameters_of_small_networks_with_ten_classes():
    """He et al. 2016, Table 6, has 0.27M for 20 layers; projections add 2,752."""
    assert parameters(build(Model(arch="resnet8x1"), 10)) == 78_042
    assert parameters(build(Model(arch="resnet20x1"), 10)) == 272_474


def test_small_network_equals_a_functional_implementation():
    """With batch norm in evaluation mode and random statistics."""
    torch.manual_seed(0)
    network = build(Model(arch="resnet14x1"), 5).eval()
    s = {name: torch.rand_like(t) + 0.5 if "running" in name else t for name, t in network.state_dict().items()}
    network.load_state_dict(s)

    def norm(x: Tensor, at: str) -> Tensor:
        shape = (1, -1, 1, 1)
        names = ("running_mean", "running_var", "weight", "bias")
        mean, var, scale, shift = (s[f"{at}.{name}"].view(shape) for name in names)
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    images = torch.randn(3, 3, 20, 24)
    x = F.relu(norm(F.conv2d(images, s["conv1.weight"], padding=1), "bn1"))
    for stage in (1, 2, 3):
        for block in (0, 1):
            at = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = F.relu(norm(F.conv2d(x, s[f"{at}.conv1.weight"], stride=stride, padding=1), f"{at}.bn1"))
            y = norm(F.conv2d(y, s[f"{at}.conv2.weight"], padding=1), f"{at}.bn2")
            if stride == 2:
                x = norm(F.conv2d(x, s[f"{at}.downsample.0.weight"], stride=2), f"{at}.downsample.1")
            x = F.relu(x + y)
    expected = x.mean((2, 3)) @ s["fc.weight"].T + s["fc.bias"]
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4)


def test_small_networks_use_he_initialisation():
    torch.manual_seed(0)
    for name, weight in build(Model(arch="resnet14x4"), 10).named_parameters():
        if weight.ndim == 4 and weight.shape[2] == 3:
            fan_out = weight.shape[0] * 9
            assert weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05), name


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnext50_32x4d", "resnext101_32x4d", "wide_resnet50_2"])
def test_small_stem_keeps_the_resolution(arch: str):
    """As in SimCLR for CIFAR: 3x3 instead of 7x7 with stride 2, and no pooling. The rest of the network is the same."""
    plain, small = on_meta(Model(arch=arch), 10), on_meta(Model(arch=arch, stem="small"), 10)
    a, b = plain.state_dict(), small.state_dict()
    assert list(a) == list(b)
    assert [n for n in a if a[n].shape != b[n].shape] == ["conv1.weight"]
    assert parameters(plain) - parameters(small) == 64 * 3 * (49 - 9)
    sizes = []
    small.get_submodule("layer1").register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[2:]))
    assert small(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)
    assert sizes == [(32, 32)]


def test_small_stem_is_only_for_residual_networks():
    for arch in TORCHVISION:
        if arch in RESNETS:
            check(Model(arch=arch, stem="small"))
            continue
        with pytest.raises(InputError, match=f"^model.stem is 'small'.*'{arch}'"):
            check(Model(arch=arch, stem="small"))
    with pytest.raises(InputError, match="^model.stem is"):
        build(Model(arch="resnet8x1", stem="small"), 10)


def test_small_stem_is_initialised_as_in_torchvision():
    torch.manual_seed(0)
    weight = build(Model(arch="resnet18", stem="small"), 10).get_parameter("conv1.weight")
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    "model",
    [
        Model(arch="resnet8x1"),
        Model(arch="resnet18", stem="small"),
        Model(arch="mobilenet_v3_small"),
        Model(arch="regnet_y_400mf"),
    ],
    ids=lambda m: m.arch,
)
def test_weights_depend_only_on_the_torch_seed(model: Model):
    states = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        states.append(build(model, 10).state_dict())
        random.random()  # the state of other generators must not matter
        np.random.rand()
    same, again, other = states
    assert all(torch.equal(same[name], again[name]) for name in same)
    assert not all(torch.equal(same[name], other[name]) for name in same)
    following = build(model, 10).state_dict()  # `build` does not set the seed
    assert not all(torch.equal(other[name], following[name]) for name in other)


def test_googlenet_takes_images_with_the_usual_normalisation():
    """torchvision's weights of googlenet and inception_v3 were trained on [-1, 1], not on ImageNet's mean and std."""
    torch.manual_seed(0)
    with torch.device("meta"):  # GoogLeNet's own initialisation takes seconds
        ours = build(Model(arch="googlenet"), 10)
        theirs = torchvision.models.GoogLeNet(10, aux_logits=False, transform_input=False, init_weights=False)
    state = {name: torch.rand(t.shape) * (0.5 if t.ndim == 1 else 0.02) for name, t in ours.state_dict().items()}
    for net in (ours, theirs):
        net.load_state_dict(state, assign=True)
        net.eval()
    pixels = torch.rand(2, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(ours(normalised), theirs(pixels * 2 - 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arch", "close"),
    [
        ("resnet51", "resnet50"),
        ("ResNet50", "resnet50"),
        ("resnext101_32x9d", "resnext101_32x8d"),
        ("resnext101_32x49d", "resnext101_32x48d"),
        ("vit_b16", "vit_b_16"),
        ("resnet9x1", "resnet8x1 and resnet14x1"),
        ("resnet19x4", "resnet14x4 and resnet20x4"),
        ("resnet2x1", "resnet8x1"),
        ("resnet20", "resnet20x1"),
        ("zzz", "list_models"),
    ],
)
def test_error_for_an_unknown_network_names_the_closest(arch: str, close: str):
    with pytest.raises(InputError, match=f"^model.arch is '{re.escape(arch)}'.*{re.escape(close)}") as caught:
        build(Model(arch=arch), 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("depth", range(0, 40))
def test_the_depth_must_be_6n_plus_2(depth: int):
    if depth in (8, 14, 20, 26, 32, 38):
        check(Model(arch=f"resnet{depth}x2"))
    else:
        with pytest.raises(InputError, match="6n"):
            check(Model(arch=f"resnet{depth}x2"))


def test_errors_name_the_bad_field():
    with pytest.raises(InputError, match="^student.arch is ''"):
        check(Model(arch=""), "student")
    with pytest.raises(InputError, match="^teacher.model.stem is 'tiny': give 'imagenet' or 'small'"):
        check(Model(stem="tiny"), "teacher.model")  # type: ignore[arg-type]  (invalid on purpose)
    with pytest.raises(InputError, match="^classes is 0"):
        build(Model(arch="resnet8x1"), 0)
