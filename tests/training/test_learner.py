"""The optimizer, the average of the weights, and their files in a checkpoint, against those of torch."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.distributed
from timm.optim.lamb import Lamb
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.ops._utils import split_normalization_params

from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.init import Init
from raylabel.models.trained import WEIGHTS
from raylabel.models.weights import save_tensors
from raylabel.store.artifact import Built, Draft, Root, write_bytes
from raylabel.training.config import Train
from raylabel.training.learner import AVERAGE, MOMENTUM, VARIANCE, Learner, make_optimizer, tensor_files
from raylabel.training.schedule import Schedule

CONFIG = Train(images=1, schedule=Schedule(lr=0.1), weight_decay=0.05)
MODEL = Model(arch="resnet8x1")
TORCH = {
    "sgd": lambda groups: torch.optim.SGD(groups, 0.1, momentum=0.9, weight_decay=0.05),
    "adam": lambda groups: torch.optim.Adam(groups, 0.1, betas=(0.9, 0.99), weight_decay=0.05),
    "adamw": lambda groups: torch.optim.AdamW(groups, 0.1, betas=(0.9, 0.99), weight_decay=0.05),
    "lamb": lambda groups: Lamb(groups, 0.1, betas=(0.9, 0.99), weight_decay=0.05),
}


@pytest.fixture(autouse=True)
def group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/group", world_size=1, rank=0)
    yield
    torch.distributed.destroy_process_group()


def network() -> nn.Module:
    torch.manual_seed(5)
    return build(MODEL, 10).train()


def compute_gradients(module: nn.Module, step: int) -> None:
    pixels = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(step))
    nn.functional.cross_entropy(module(pixels), torch.arange(8)).backward()


def taught(module: nn.Module, config: Train, first: int, last: int, learner: Learner | None = None) -> Learner:
    learner = learner or Learner(module, config, rank=0)
    for step in range(first, last):
        compute_gradients(module, step)
        learner.step(0.1 / (1 + step), seed=step)
    return learner


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


@pytest.mark.parametrize("optimizer", TORCH)
@pytest.mark.parametrize("each", [1, 3])
def test_steps_are_those_of_torch(optimizer: str, each: int):
    config = replace(CONFIG, optimizer=optimizer, beta2=0.99, ema=0.8, steps_per_gradient=each)
    learner = taught(network(), config, 0, 5)
    expected = network()
    torchs = TORCH[optimizer](expected.parameters())
    average = AveragedModel(expected, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)
    for step in range(5):
        torchs.zero_grad()
        compute_gradients(expected, step)
        torchs.param_groups[0]["lr"] = 0.1 / (1 + step)
        for _ in range(each):
            torchs.step()
            average.update_parameters(expected)
    assert equal(learner.module, expected)
    kept = learner.tensors()[AVERAGE]
    assert all(torch.equal(kept[name], x) for name, x in average.module.state_dict().items())


@pytest.mark.parametrize("each", [2, 4, 8])
def test_stale_steps_without_momentum_are_one_step_of_so_many_times_the_rate(each: int):
    """All numbers are multiples of 2^-12 below 2^7, so that no sum is rounded. With momentum it is not so."""
    found = []
    for momentum, steps, lr in [(0.0, each, 1 / 64), (0.0, 1, each / 64), (0.9, each, 1 / 64)]:
        torch.manual_seed(0)
        module = nn.Linear(20, 5)
        for parameter in module.parameters():
            parameter.data = torch.randint(-64, 64, parameter.shape) / 64
            parameter.grad = torch.randint(-64, 64, parameter.shape) / 64
        config = replace(CONFIG, momentum=momentum, weight_decay=0.0, steps_per_gradient=steps)
        Learner(module, config, rank=0).step(lr)
        found.append(module)
    stale, one, with_momentum = found
    assert equal(stale, one) and not equal(with_momentum, one)


@pytest.mark.parametrize("head", ["same", "new"])
def test_momentum_goes_on_in_the_layers_that_are_taken(tmp_path: Path, head: Any):
    root, first = Root.open(str(tmp_path / "root")), taught(network(), CONFIG, 0, 4)
    state = copy.deepcopy(first.module)

    def build_start(draft: Draft) -> Built:
        files = first.tensors()
        return Built([write_bytes(draft.uri, name, save_tensors(files[name])) for name in (WEIGHTS, MOMENTUM)], {})

    start = root.make("student", {}, build_start)
    config = replace(CONFIG, init=Init(head=head))
    module, expected = copy.deepcopy(state), cast(Any, network())
    taught(module, config, 4, 7, Learner(module, config, 0, start))
    torchs = TORCH["sgd"](expected.parameters())
    for step in range(7):
        torchs.zero_grad()
        compute_gradients(expected, step)
        torchs.param_groups[0]["lr"] = 0.1 / (1 + step)
        if step == 4 and head == "new":
            for parameter in (expected.fc.weight, expected.fc.bias):
                del torchs.state[parameter]["momentum_buffer"]
        torchs.step()
    assert equal(module, expected)
    without = taught(copy.deepcopy(state), CONFIG, 4, 7)
    assert not equal(without.module, expected)


def test_the_head_may_have_its_own_momentum():
    learner = taught(network(), replace(CONFIG, head_momentum=0.0), 0, 4)
    expected: Any = network()
    head = list(expected.fc.parameters())
    trunk = [parameter for name, parameter in expected.named_parameters() if not name.startswith("fc.")]
    torchs = TORCH["sgd"]([{"params": trunk}, {"params": head, "momentum": 0.0}])
    for step in range(4):
        torchs.zero_grad()
        compute_gradients(expected, step)
        for group in torchs.param_groups:
            group["lr"] = 0.1 / (1 + step)
        torchs.step()
    assert equal(learner.module, expected)
    assert not any(name.startswith("fc.") for name in learner.tensors()[MOMENTUM])


def test_a_random_direction_has_the_norm_of_the_gradient():
    def turned(seed: int, scale: float = 1.0) -> torch.Tensor:
        module = network()
        module.get_submodule("layer1").requires_grad_(False)
        before = torch.nn.utils.parameters_to_vector(module.parameters()).detach().clone()
        compute_gradients(module, 0)
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter.grad *= scale
        gradients.append(torch.cat([(p.grad if p.grad is not None else 0 * p).flatten() for p in module.parameters()]))
        config = replace(CONFIG, momentum=0.0, weight_decay=0.0, direction="random")
        Learner(module, config, rank=0).step(1.0, seed)
        return before - torch.nn.utils.parameters_to_vector(module.parameters()).detach()

    gradients: list[torch.Tensor] = []
    one, again, other, none = turned(3), turned(3), turned(4), turned(3, scale=0.0)
    frozen = (gradients[0] == 0) & (one == 0)
    trained = ~frozen
    assert frozen.sum() > 4_000 and torch.equal(one, again) and not none.any()
    for step in (one, other):
        assert step.norm() == pytest.approx(gradients[0].norm().item(), rel=1e-4)
    for a, b in ((one, gradients[0]), (one, other)):
        assert abs(torch.cosine_similarity(a, b, dim=0)) < 5 / trained.sum() ** 0.5
    assert one[trained].std() == pytest.approx((gradients[0].norm() / trained.sum() ** 0.5).item(), rel=0.05)


def test_the_average_is_that_of_its_formula():
    module = network()
    learner = Learner(module, replace(CONFIG, ema=0.9), rank=0)
    expected: dict[str, torch.Tensor] = {}
    for step in range(6):
        compute_gradients(module, step)
        learner.step(0.1)
        for name, x in module.state_dict().items():
            now = x.double().clone()
            expected[name] = 0.9 * expected[name] + 0.1 * now if name in expected else now
    for name, x in learner.tensors()[AVERAGE].items():
        if x.is_floating_point():
            assert torch.allclose(x.double(), expected[name], rtol=1e-5, atol=1e-7), name


@pytest.mark.parametrize("optimizer", TORCH)
@pytest.mark.parametrize("ema, each, direction", [(0.0, 1, "gradient"), (0.9, 1, "gradient"), (0.9, 3, "random")])
def test_a_learner_from_a_checkpoint_goes_on_to_the_same_bits(optimizer: str, ema: float, each: int, direction):
    config = replace(CONFIG, optimizer=optimizer, ema=ema, decay_norms=False)
    config = replace(config, steps_per_gradient=each, direction=direction)
    whole = taught(network(), config, 0, 6)
    half = taught(network(), config, 0, 3)
    files = {file: save_tensors(tensors) for file, tensors in half.tensors().items()}
    moments = {MOMENTUM} if optimizer == "sgd" else {MOMENTUM, VARIANCE}
    assert files.keys() - {"model.safetensors"} == moments | ({AVERAGE} if ema else set())
    assert len(files) == tensor_files(config)
    module = build(MODEL, 10).train()  # other weights
    learner = Learner(module, config, rank=0)
    learner.restore(learner.load(files, "here", 3), 3)
    resumed = taught(module, config, 3, 6, learner)
    for file, tensors in whole.tensors().items():
        found = resumed.tensors()[file]
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], x) for name, x in tensors.items()), file


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v3_small", "convnext_tiny", "vit_b_16", "r2plus1d_18"])
def test_norms_and_biases_are_not_decayed(arch: str):
    with torch.device("meta"):
        module = build(Model(arch=arch), 10)
    decayed, others = make_optimizer(module, replace(CONFIG, decay_norms=False)).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.05, 0)
    # The oracle is torchvision's list of normalisation layers, to which its references add the biases.
    norms = {id(p) for p in split_normalization_params(module)[0]}
    biases = {id(p) for name, p in module.named_parameters() if name.rpartition(".")[2] in ("bias", "in_proj_bias")}
    assert {id(p) for p in others["params"]} == norms | biases
    assert {id(p) for p in decayed["params"]} == {id(p) for p in module.parameters()} - norms - biases
    (all_of_them,) = make_optimizer(module, CONFIG).param_groups
    assert len(all_of_them["params"]) == len(list(module.parameters())) and all_of_them["weight_decay"] == 0.05


def test_only_the_first_rank_keeps_an_average():
    learner = Learner(copy.deepcopy(network()), replace(CONFIG, ema=0.9), rank=1)
    compute_gradients(learner.module, 0)
    learner.step(0.1)
    assert AVERAGE not in learner.tensors()
