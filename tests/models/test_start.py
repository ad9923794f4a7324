"""What a training starts from: the weights that are taken, the layers that are frozen, the learning rates by depth."""

from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import ResNet18_Weights

from raylabel.errors import InputError
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.head import head_of
from raylabel.models.init import Init
from raylabel.models.start import check_start, freeze, import_weights, lr_scales, start_network, taken
from raylabel.models.trained import WEIGHTS, describe
from raylabel.models.weights import save_weights
from raylabel.store.artifact import Artifact, Built, Root, write_bytes

MODEL = Model(arch="resnet8x1")
ARCHS = ["resnet18", "mobilenet_v3_small", "vit_b_16", "squeezenet1_1", "densenet121", "r2plus1d8x1", "c3d"]


def network(classes: int = 10, seed: int = 1, model: Model = MODEL) -> nn.Module:
    torch.manual_seed(seed)
    return build(model, classes)


def weights_of(root: Root, module: nn.Module, classes: int) -> Artifact:
    def make(draft) -> Built:
        return Built([write_bytes(draft.uri, WEIGHTS, save_weights(module))], describe(MODEL, classes))

    return root.make("teacher", {"seed": torch.initial_seed(), "classes": classes}, make)


def started(init: Init, weights: Artifact | None, classes: int = 10) -> nn.Module:
    torch.manual_seed(2)
    return start_network(MODEL, classes, init, weights)


def changed(a: nn.Module, b: nn.Module) -> set[str]:
    """The layers of ResNet that differ."""
    state = b.state_dict()
    return {name.partition(".")[0] for name, x in a.state_dict().items() if not torch.equal(x, state[name])}


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root.open(str(tmp_path / "root"))


def test_without_weights_it_is_random(root: Root):
    assert not changed(started(Init(), None), network(seed=2))


def test_all_layers_are_taken_and_the_head_if_it_fits(root: Root):
    given = network()
    assert not changed(started(Init(), weights_of(root, given, 10)), given)
    other = network(classes=7)
    found = started(Init(), weights_of(root, other, 7))
    trunk = {name: x for name, x in other.state_dict().items() if not name.startswith("fc.")}
    assert all(torch.equal(found.state_dict()[name], x) for name, x in trunk.items())
    assert "fc" not in changed(found, network(seed=2))  # random, as without weights


def test_the_layers_that_are_named_are_taken(root: Root):
    weights = weights_of(root, network(), 10)
    random = network(seed=2)
    assert changed(started(Init(head="new"), weights), network()) == {"fc"}
    assert changed(started(Init(take=("trunk",)), weights), network()) == {"fc"}
    assert changed(started(Init(take=("conv1", "layer2.0.conv1")), weights), random) == {"conv1", "layer2"}
    assert changed(started(Init(take=("fc",)), weights), random) == {"fc"}


@pytest.mark.parametrize("case", ["wide", "missing", "more", "head"])
def test_weights_that_do_not_fit_are_an_error(case: str):
    module, init = network(), Init()
    state = dict(module.state_dict())
    if case == "wide":
        state["layer1.0.conv1.weight"] = torch.zeros(32, 16, 3, 3)
    elif case == "missing":
        del state["layer1.0.conv1.weight"]
    elif case == "more":
        state["layer9.weight"] = torch.zeros(1)
    else:
        state["fc.weight"], init = torch.zeros(7, 64), Init(take=("fc", "conv1"))
    name = {"more": "layer9.weight", "head": "fc.weight"}.get(case, "layer1.0.conv1.weight")
    with pytest.raises(InputError, match=f"'here' do not fit the network: '{name}'"):
        taken(module, state, init, "here")


def test_a_layer_that_does_not_exist_is_an_error(root: Root):
    for init in Init(take=("layr1",)), Init(frozen=("layr1",)):
        with pytest.raises(InputError, match="pretrain.init: the network has no layer 'layr1'.*layer1"):
            check_start("pretrain", MODEL, 10, init, weights_of(root, network(), 10))


def test_the_check_says_whether_the_head_is_new(root: Root):
    weights = weights_of(root, network(), 10)
    assert not check_start("pretrain", MODEL, 10, Init(), weights)
    assert not check_start("pretrain", MODEL, 10, Init(), None)
    assert check_start("pretrain", MODEL, 7, Init(), weights)
    assert check_start("pretrain", MODEL, 10, Init(head="new"), weights)


def test_something_must_be_trained():
    every = Init(frozen=("trunk", "fc"))
    with pytest.raises(InputError, match="finetune.init.frozen covers all layers"):
        check_start("finetune", MODEL, 10, every, None)
    check_start("finetune", MODEL, 10, Init(frozen=("trunk", "fc"), frozen_until=0.5), None)


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("frozen_until", {"frozen_until": 0.0}),
        ("frozen_until", {"frozen_until": 1.1}),
        ("first_lr", {"first_lr": 0.0}),
        ("first_lr", {"first_lr": 2.0}),
        ("head", {"head": "old"}),
        ("what", {"what": "signs"}),
        ("take", {"take": ("",)}),
        ("frozen", {"frozen": ("",)}),
    ],
)
def test_a_bad_field_is_an_error_that_names_it(field: str, fields: dict):
    with pytest.raises(InputError, match=rf"^pretrain\.init\.{field} "):
        Init(**fields).check("pretrain.init")


def test_frozen_layers_thaw_at_a_whole_step():
    assert Init(frozen_until=0.5).thaws_at(7) == 0
    assert [Init(frozen=("fc",), frozen_until=until).thaws_at(7) for until in (0.01, 0.5, 1.0)] == [1, 4, 7]


@pytest.mark.parametrize("arch", ARCHS)
def test_the_trunk_is_all_but_the_head(arch: str):
    with torch.device("meta"):
        module = build(Model(arch=arch), 11)
    head = module.get_submodule(head_of(module))
    assert next(iter(head.parameters())).shape[0] == 11
    freeze(module.train(), ["trunk"], True)
    own = {id(p) for p in head.parameters()}
    assert {id(p) for p in module.parameters() if p.requires_grad} == own
    still = [m for m in module.modules() if m.training and not list(m.children())]
    assert still == [head]
    freeze(module, ["trunk"], False)
    assert all(p.requires_grad for p in module.parameters()) and all(m.training for m in module.modules())


def test_a_frozen_layer_keeps_its_statistics():
    module = network().train()
    freeze(module, ["layer1"], True)
    before = {name: x.clone() for name, x in module.state_dict().items()}
    module(torch.randn(4, 3, 8, 8)).sum().backward()
    moved = {name for name, x in module.state_dict().items() if not torch.equal(x, before[name])}
    assert {name.partition(".")[0] for name in moved} == {"bn1", "layer2", "layer3"}
    assert all(p.grad is None for p in module.get_submodule("layer1").parameters())


@pytest.mark.parametrize("arch", ARCHS)
def test_learning_rates_rise_by_the_same_factor_from_layer_to_layer(arch: str):
    with torch.device("meta"):
        module = build(Model(arch=arch), 11)
    scales, names = lr_scales(module, 0.01), [name for name, _ in module.named_parameters()]
    assert list(scales) == names
    values = list(dict.fromkeys(scales.values()))  # one for each layer, in order
    assert values[0] == pytest.approx(0.01) and values[-1] == 1
    ratios = [b / a for a, b in zip(values, values[1:], strict=False)]
    assert ratios == pytest.approx([ratios[0]] * len(ratios)) and ratios[0] > 1
    assert len(values) == sum(p.ndim > 1 for p in module.parameters())
    assert scales[f"{head_of(module)}.weight"] == scales[f"{head_of(module)}.bias"] == 1
    assert set(lr_scales(module, 1.0).values()) == {1.0}


def test_weights_are_a_file_a_network_or_a_name(root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given = network()
    save_file(given.state_dict(), tmp_path / "w.safetensors")
    torch.save({"state_dict": given.state_dict()}, tmp_path / "w.pt")
    made = [import_weights(root, str(tmp_path / name), MODEL) for name in ("w.safetensors", "w.pt")]
    for weights in made:
        assert not changed(started(Init(), weights), given)
    trained = weights_of(root, given, 10)
    assert import_weights(root, trained.uri, MODEL) == trained
    assert import_weights(root, f"{trained.uri}/", MODEL) == trained
    with pytest.raises(InputError, match=r"cannot read checkpoint '.*/nothing'"):
        import_weights(root, str(tmp_path / "nothing"), MODEL)
    with pytest.raises(InputError, match="are for resnet18, not for resnet8x1"):
        state = network(1000, model=Model(arch="resnet18")).state_dict()
        monkeypatch.setattr(ResNet18_Weights, "get_state_dict", lambda *_, **__: state)
        import_weights(root, "ResNet18_Weights.IMAGENET1K_V1", MODEL)
    made = import_weights(root, "ResNet18_Weights.IMAGENET1K_V1", Model(arch="resnet18"))
    assert not check_start("pretrain", Model(arch="resnet18"), 1000, Init(), made)


def test_the_convolutions_alone_are_taken(root: Root):
    given, random = network(), network(seed=2)
    found = started(Init(take=("convolutions",)), weights_of(root, given, 10)).state_dict()
    convolutions = {name for name, x in given.state_dict().items() if x.ndim == 4}
    assert len(convolutions) == 9
    for name, x in found.items():
        assert torch.equal(x, (given if name in convolutions else random).state_dict()[name]), name


@pytest.mark.parametrize("head", ["same", "new"])
def test_norms_are_taken_without_directions(root: Root, head: Literal["same", "new"]):
    given, random = network(), network(seed=2).state_dict()
    with torch.no_grad():
        for module in given.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 2)
                module.bias.uniform_(0.5, 2)
                module.running_mean = torch.rand(module.num_features)
    norms = {name: float(x.detach().norm()) for name, x in given.named_parameters()}
    found = started(Init(what="norms", head=head), weights_of(root, given, 10))
    scaled = 0
    for name, x in found.state_dict().items():
        if head == "new" and name.startswith("fc.") or name not in norms or not random[name].any():
            assert torch.equal(x, random[name]), name  # also statistics, and biases that start at zero
        else:
            assert x.norm() == pytest.approx(norms[name], rel=1e-5), name
            cosine = torch.cosine_similarity(x.flatten(), random[name].flatten(), 0)
            assert cosine == pytest.approx(1, abs=1e-5), name
            scaled += 1
    assert scaled == 9 + 9 + 2 * (head == "same")  # convolutions, BatchNorm's weights, the head
