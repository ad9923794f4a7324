import pytest
import torch
import torch.nn.functional as F
from networks import giga_multiply_adds, on_meta, parameters
from torch import Tensor, nn

from raylabel.errors import InputError
from raylabel.models import Model, check_input
from raylabel.models.build import build
from raylabel.models.c3d import C3D


@pytest.mark.parametrize(
    ("classes", "count"), [(487, 79_991_015), (400, 79_634_576), (101, 78_409_573), (51, 78_204_723)]
)
def test_parameters_and_multiply_adds_equal_published_values(classes: int, count: int):
    """Tran et al. 2015: 27.66 million parameters in the convolutions. VMZ: 38.5 giga multiply-adds."""
    network = on_meta(Model(arch="c3d"), classes)
    assert parameters(network) == count
    convolutions = sum(parameters(m) for m in network.modules() if isinstance(m, nn.Conv3d))
    assert round(convolutions / 1e6, 2) == 27.66
    assert round(giga_multiply_adds(network, 16, 112), 1) == 38.5


def test_layers_have_the_shapes_of_the_paper():
    network, shapes = on_meta(Model(arch="c3d"), 487), {}

    def record(name: str):
        return lambda _, inputs, output: shapes.update({name: tuple(output.shape[1:])})

    for name, module in network.named_children():
        module.register_forward_hook(record(name))
    network(torch.empty(1, 3, 16, 112, 112, device="meta"))
    expected = {
        "conv1": (64, 16, 112, 112),
        "pool1": (64, 16, 56, 56),
        "conv2": (128, 16, 56, 56),
        "pool2": (128, 8, 28, 28),
        "conv3a": (256, 8, 28, 28),
        "conv3b": (256, 8, 28, 28),
        "pool3": (256, 4, 14, 14),
        "conv4a": (512, 4, 14, 14),
        "conv4b": (512, 4, 14, 14),
        "pool4": (512, 2, 7, 7),
        "conv5a": (512, 2, 7, 7),
        "conv5b": (512, 2, 7, 7),
        "pool5": (512, 1, 4, 4),
        "fc6": (4096,),
        "fc7": (4096,),
        "fc8": (487,),
    }
    assert {name: shapes[name] for name in expected} == expected
    assert set(shapes) - set(expected) == {"dropout"}


def test_c3d_equals_a_functional_implementation():
    """Dropout, which is applied twice, is off in evaluation mode and 0.5 in training."""
    with torch.device("meta"):
        network = build(Model(arch="c3d"), 7)
    torch.manual_seed(0)

    def random(t: Tensor) -> Tensor:
        return torch.randn(t.shape) * ((2 / t[0].numel()) ** 0.5 if t.ndim > 1 else 1)

    s: dict[str, Tensor] = {name: random(t) for name, t in network.state_dict().items()}
    network.load_state_dict(s, assign=True)
    clips = torch.randn(1, 3, 16, 112, 112)

    def conv(x: Tensor, name: str) -> Tensor:
        return F.relu(F.conv3d(x, s[f"{name}.weight"], s[f"{name}.bias"], padding=1))

    x = F.max_pool3d(conv(clips, "conv1"), (1, 2, 2), (1, 2, 2))
    x = F.max_pool3d(conv(x, "conv2"), 2, 2)
    for stage in (3, 4, 5):
        x = conv(conv(x, f"conv{stage}a"), f"conv{stage}b")
        x = F.max_pool3d(x, 2, 2, padding=(0, 1, 1) if stage == 5 else 0)
    x = x.flatten(1)
    for layer in ("fc6", "fc7"):
        x = F.relu(x @ s[f"{layer}.weight"].T + s[f"{layer}.bias"])
    expected = x @ s["fc8.weight"].T + s["fc8.bias"]
    with torch.inference_mode():
        logits = network.eval()(clips)
        torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(logits.sum(), torch.ones(())) and logits.min() < 0
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.5]


@pytest.mark.parametrize(("frames", "size"), [(8, 112), (32, 112), (17, 112), (16, 128), (16, 111)])
def test_other_clip_shapes_are_refused_with_the_shape_that_is_needed(frames: int, size: int):
    with pytest.raises(
        InputError, match=f"^model.arch is 'c3d'.* 16 frames of 112 x 112 .* {frames} of {size} x {size}"
    ) as e:
        check_input(Model(arch="c3d"), frames, size)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(("width", "frames", "size"), [(1, 8, 16), (2, 16, 32), (1, 9, 19)])
def test_the_narrow_network_has_the_layers_of_c3d(width: int, frames: int, size: int):
    whole, narrow = on_meta(Model(arch="c3d"), 7), on_meta(Model(arch=f"c3dx{width}"), 7)
    assert isinstance(narrow, C3D) and list(narrow.state_dict()) == list(whole.state_dict())
    for (name, one), other in zip(narrow.named_parameters(), whole.parameters(), strict=True):
        places = 4 if name == "fc6.weight" else 1  # 1 x 2 x 2 of them, not 1 x 4 x 4
        ends = [n in (3, 7) for n in other.shape[:2]]  # colours and classes
        expected = [n if end else n * width // 8 for n, end in zip(other.shape[:2], ends, strict=True)]
        assert one.shape[0] == expected[0] and (one.ndim == 1 or one.shape[1] * places == expected[1]), name
        assert one.shape[2:] == other.shape[2:]
    assert not any(isinstance(module, nn.BatchNorm3d) for module in narrow.modules())
    torch.manual_seed(0)
    network, clips = build(Model(arch=f"c3dx{width}"), 7), torch.randn(64, 3, frames, size, size)
    logits = network.eval()(clips)
    assert logits.shape == (64, 7)
    assert 1e-3 < logits.std(0).min()  # the signal of the clip reaches the last layer


@pytest.mark.parametrize(("frames", "size"), [(7, 16), (8, 7), (4, 32)])
def test_the_narrow_network_refuses_clips_of_which_nothing_would_be_left(frames: int, size: int):
    with pytest.raises(InputError, match=f"at least 8 frames of 8 x 8 pixels, but the view gives {frames} of {size}"):
        check_input(Model(arch="c3dx1"), frames, size)
    with pytest.raises((RuntimeError, ValueError)):
        on_meta(Model(arch="c3dx1"), 7)(torch.empty(1, 3, frames, size, size, device="meta"))
