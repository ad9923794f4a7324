import argparse
import hashlib
import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn
from torchvision.models.inception import InceptionAux

from raylabel.errors import InputError
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.sources import find_source, load_source
from raylabel.models.weights import (
    _torchvision_table,
    checkpoint_digest,
    load_weights,
    read_checkpoint,
    save_weights,
    torchvision_weights,
)

SMALL = Model(arch="resnet8x1")


def network(seed: int, model: Model = SMALL, classes: int = 10) -> nn.Module:
    torch.manual_seed(seed)
    return build(model, classes)


def same(a: nn.Module, b: nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return list(x) == list(y) and all(torch.equal(x[name], y[name]) for name in x)


def saved(path: Path, content: Any) -> str:
    torch.save(content, path)
    return str(path)


def test_saved_weights_load():
    ours, theirs = network(1), network(2)
    ours.get_buffer("bn1.running_mean").fill_(3)
    ours.get_buffer("bn1.num_batches_tracked").fill_(1 << 40)
    assert not same(ours, theirs)
    load_weights(theirs, save_weights(ours), "here")
    assert same(ours, theirs)


def test_equal_weights_give_equal_bytes():
    data = save_weights(network(1))
    assert data == save_weights(network(1))
    assert data != save_weights(network(2))
    # The bytes do not depend on the memory format, the order of registration, or other tensors in the same storage.
    other = network(1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert not other.get_parameter("layer1.0.conv1.weight").is_contiguous()
    assert save_weights(other) == data
    a, b = nn.Module(), nn.Module()
    for module, names in ((a, "xy"), (b, "yx")):
        for name in names:
            module.register_buffer(name, torch.arange(10.0)[3:6] * (2 if name == "x" else 1))
    assert save_weights(a) == save_weights(b)


@pytest.mark.slow
def test_another_process_writes_the_same_bytes():
    code = (
        "import hashlib, torch; from raylabel.models import Model; from raylabel.models.build import build;"
        "from raylabel.models.weights import save_weights; torch.manual_seed(7);"
        "print(hashlib.sha256(save_weights(build(Model(arch='resnet8x1'), 10))).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "123", "OMP_NUM_THREADS": "1"}
    child = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert child.stdout.strip() == hashlib.sha256(save_weights(network(7))).hexdigest()


def test_weights_that_do_not_fit_are_refused():
    module = network(1)
    with pytest.raises(InputError, match=r"^weights 'root/model-0a1b' do not fit the network: 'fc.weight' is \[9,"):
        load_weights(module, save_weights(network(1, classes=9)), "root/model-0a1b")
    with pytest.raises(InputError, match="^weights 'root/model-0a1b' are not a complete safetensors file"):
        load_weights(module, save_weights(module)[:-1], "root/model-0a1b")


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.safetensors"])
def test_files_of_torch_and_safetensors_load(tmp_path: Path, name: str):
    ours, theirs = network(1), network(2)
    path = tmp_path / name
    if path.suffix == ".safetensors":
        safetensors.torch.save_model(ours, str(path))
    else:
        torch.save(ours.state_dict(), path)
    load_source(theirs, find_source(str(path), SMALL), SMALL, 10)
    assert same(ours, theirs)


@pytest.mark.parametrize("legacy", [False, True])
def test_nested_state_dicts_and_prefixes_of_ddp_and_compile_load(tmp_path: Path, legacy: bool):
    ours = network(1)
    state = ours.state_dict()
    for i, content in enumerate(
        [
            state,
            dict(state),
            {"state_dict": state, "epoch": 3, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
            {"model": state, "args": None},
            {"model_state_dict": state},
            {"model": {"state_dict": state}},
            {"state_dict": {f"module.{k}": v for k, v in state.items()}, "arch": "resnet8x1"},
            OrderedDict((f"_orig_mod.{k}", v) for k, v in state.items()),
            {f"module._orig_mod.{k}": v for k, v in state.items()},
            {f"_orig_mod.module.{k}": v for k, v in state.items()},
            {name: nn.Parameter(v) if v.is_floating_point() else v for name, v in state.items()},
        ]
    ):
        path = tmp_path / f"{i}.pt"
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        theirs = network(2)
        load_source(theirs, find_source(str(path), SMALL), SMALL, 10)
        assert same(ours, theirs), i
        assert not any(tensor.requires_grad for tensor in read_checkpoint(str(path)).values())


def test_a_prefix_that_not_all_names_have_is_kept(tmp_path: Path):
    path = saved(tmp_path / "a.pt", {"module.a": torch.zeros(1), "b": torch.zeros(1)})
    assert list(read_checkpoint(path)) == ["module.a", "b"]


def test_batch_norms_without_num_batches_tracked_load(tmp_path: Path):
    """torch before 0.4.1 had no num_batches_tracked; many published weights are that old."""
    ours, theirs = network(1), network(2)
    state = {k: v for k, v in ours.state_dict().items() if not k.endswith("num_batches_tracked")}
    load_source(theirs, find_source(saved(tmp_path / "a.pt", state), SMALL), SMALL, 10)
    assert same(ours, theirs)


class Canary:
    """Pickles as a call that creates a folder."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, legacy: bool):
    canary, path = tmp_path / "canary", tmp_path / "evil.pt"
    content = {**network(1).state_dict(), "extra": Canary(canary)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError, match="^checkpoint '.*evil.pt' is refused.*; convert it to .safetensors") as caught:
        read_checkpoint(str(path))
    assert "\n" not in str(caught.value)
    assert not canary.exists()
    torch.load(path, weights_only=False)  # the file does contain code
    assert canary.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("module.pt", nn.Linear(2, 2), "; convert it to .safetensors"),
        ("args.pt", {"state_dict": {}, "args": argparse.Namespace(lr=1)}, "; convert it to .safetensors"),
        ("list.pt", [torch.zeros(1)], "contains no tensors: it is a list"),
        ("tensor.pt", torch.zeros(1), "contains no tensors: it is a Tensor"),
        ("empty.pt", {}, "contains no tensors"),
        ("nothing.pt", {"state_dict": {}}, "contains no tensors"),
        ("mixed.pt", {"a": torch.zeros(1), "lr": 0.1}, "'lr' is a float, expected a tensor"),
        ("numbers.pt", {0: torch.zeros(1)}, "is not a state dict: 0 is a Tensor"),
        ("none.pt", b"", "is not a complete state dict of torch.save"),
        ("text.pt", b"hello" * 100, "is not a complete state dict of torch.save"),
        ("zip.pt", b"PK\x03\x04" + b"hello" * 100, "is not a complete state dict of torch.save"),
        ("text.safetensors", b"hello" * 100, "is not a complete safetensors file"),
        ("none.safetensors", b"", "is not a complete safetensors file"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, name: str, content: Any, message: str):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(InputError) as caught:
        read_checkpoint(str(path))
    assert message in str(caught.value) and str(caught.value).startswith(f"checkpoint '{path}' ")
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_refused_at_every_length(tmp_path: Path):
    for suffix in (".pt", ".safetensors"):
        path = tmp_path / f"a{suffix}"
        state = {"a": torch.arange(4.0)}
        torch.save(state, path) if suffix == ".pt" else safetensors.torch.save_file(state, path)
        whole = path.read_bytes()
        for size in range(0, len(whole), 37):
            path.write_bytes(whole[:size])
            with pytest.raises(InputError, match="is not a complete|refused"):
                read_checkpoint(str(path))


def test_the_error_says_which_tensors_do_not_fit(tmp_path: Path):
    path = saved(tmp_path / "imagenet.pt", network(1, classes=1000).state_dict())
    module, before = network(2), network(2)
    with pytest.raises(InputError) as caught:
        load_source(module, find_source(path, SMALL), SMALL, 10)
    assert str(caught.value) == (
        f"checkpoint '{path}' does not fit resnet8x1 with 10 classes: 'fc.weight' is [1000, 64], expected [10, 64]; "
        "'fc.bias' is [1000], expected [10]; give the arch, stem and classes of the training, or other weights"
    )
    assert same(module, before)


def test_the_error_for_weights_of_another_network_is_one_line(tmp_path: Path):
    path = saved(tmp_path / "deep.pt", network(1, Model(arch="resnet14x1")).state_dict())
    module, before = network(2), network(2)
    found = r"'layer1.1.conv1.weight' is not in the network; .*; and \d+ more; "
    with pytest.raises(InputError, match=found) as caught:
        load_source(module, find_source(path, SMALL), SMALL, 10)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count("not in the network") == 3
    assert same(module, before)

    both = {"old": torch.zeros(1), **network(1, classes=9).state_dict()}
    with pytest.raises(
        InputError, match=r"'fc.weight' is \[9, 64\].*'fc.bias' is \[9\].*'old' is not in the network; give"
    ):
        load_source(module, find_source(saved(tmp_path / "both.pt", both), SMALL), SMALL, 10)

    path, deeper = saved(tmp_path / "shallow.pt", network(1).state_dict()), Model(arch="resnet14x1")
    with pytest.raises(InputError, match="'layer1.1.conv1.weight' is missing; "):
        load_source(network(1, deeper), find_source(path, deeper), deeper, 10)


def test_the_error_names_the_stem(tmp_path: Path):
    model = Model(arch="resnet18", stem="small")
    path = saved(tmp_path / "a.pt", network(1, Model(arch="resnet18")).state_dict())
    with pytest.raises(InputError, match=r"does not fit resnet18 \(stem 'small'\) with 10 classes: 'conv1.weight' is"):
        load_source(network(1, model), find_source(path, model), model, 10)


def test_the_error_names_a_missing_file(tmp_path: Path):
    for read in (read_checkpoint, checkpoint_digest):
        for path in (tmp_path / "none.pt", tmp_path):
            with pytest.raises(InputError, match=f"^cannot read checkpoint '{path}'") as caught:
                read(str(path))
            assert "\n" not in str(caught.value)


def test_the_digest_is_the_sha256_of_the_file(tmp_path: Path):
    path = tmp_path / "a.pt.gz"  # because of the name, some readers would decompress it
    path.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert checkpoint_digest(str(path)) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def cached(name: str, content: Any) -> None:
    """Puts a file into torch's cache of downloaded weights."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(content, folder / Path(torchvision.models.get_weight(name).url).name)


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache and no network."""

    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise URLError("[Errno -3] Temporary failure\nin name resolution")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)


def test_torchvision_weights_load():
    ours = network(1, Model(arch="mobilenet_v3_small"), 1000)
    cached("MobileNet_V3_Small_Weights.IMAGENET1K_V1", ours.state_dict())
    model, classes, state = torchvision_weights("MobileNet_V3_Small_Weights.IMAGENET1K_V1")
    assert model == Model(arch="mobilenet_v3_small") and classes == 1000
    theirs = build(model, 1000)
    theirs.load_state_dict(state)
    assert same(ours, theirs)


def test_old_torchvision_names_are_converted(tmp_path: Path):
    """densenet121-a639ec97.pth has 'norm.1', and googlenet-1378be20.pth the two classifiers that `build` leaves out."""
    with torch.device("meta"):
        densenet = build(Model(arch="densenet121"), 1000).state_dict()
        googlenet = torchvision.models.googlenet(weights=None, num_classes=1000, aux_logits=True, init_weights=True)
    names = list(densenet)
    old = {}
    for name in names:
        head, found, tail = name.partition("denselayer")
        for kind in ("norm", "conv") if found else ():
            tail = tail.replace(f".{kind}1", f".{kind}.1").replace(f".{kind}2", f".{kind}.2")
        old[head + found + tail] = torch.zeros(1)
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    assert "features.denseblock1.denselayer1.norm1.weight" not in old
    old = {k: v for k, v in old.items() if not k.endswith("num_batches_tracked")}
    cached("DenseNet121_Weights.IMAGENET1K_V1", old)
    _, _, state = torchvision_weights("DenseNet121_Weights.IMAGENET1K_V1")
    assert list(state) == [name for name in names if not name.endswith("num_batches_tracked")]

    cached("GoogLeNet_Weights.IMAGENET1K_V1", {name: torch.zeros(1) for name in googlenet.state_dict()})
    model, _, state = torchvision_weights("GoogLeNet_Weights.IMAGENET1K_V1")
    with torch.device("meta"):
        assert list(state) == list(build(model, 1000).state_dict())


def test_code_in_a_torchvision_file_is_not_run(tmp_path: Path):
    """Others may write to the cache; torch.hub would unpickle any file in it."""
    cached("ResNet18_Weights.IMAGENET1K_V1", {"a": Canary(tmp_path / "canary")})
    with pytest.raises(InputError, match="^cannot get torchvision weights") as caught:
        torchvision_weights("ResNet18_Weights.IMAGENET1K_V1")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "canary").exists()


def test_the_error_without_a_network_names_the_weight_and_the_fix():
    with pytest.raises(InputError) as caught:
        torchvision_weights("ResNet50_Weights.IMAGENET1K_V2")
    assert str(caught.value) == (
        "cannot get torchvision weights 'ResNet50_Weights.IMAGENET1K_V2' from "
        "https://download.pytorch.org/models/resnet50-11ad3fa6.pth: "
        "<urlopen error [Errno -3] Temporary failure in name resolution>; give a checkpoint file instead"
    )


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("ResNet50_Weights.IMAGENET1K_V3", "ResNet50_Weights.IMAGENET1K_V2"),
        ("ResNet50_Weights.DEFAULT", "ResNet50_Weights.IMAGENET1K_V1"),  # may be another weight in each release
        ("ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1", "ViT_B_16_Weights.IMAGENET1K_SWAG_LINEAR_V1"),  # 384 pixels
        ("R3D_18_Weights.KINETICS400_V2", "R3D_18_Weights.KINETICS400_V1"),
        ("MViT_V2_S_Weights.KINETICS400_V1", "did you mean"),  # a network that `build` does not know
        ("VGG16_Weights.IMAGENET1K_FEATURES", "did you mean"),  # its classifier is NaN
        ("", "give one like 'ResNet50_Weights.IMAGENET1K_V2'"),
        ("Any.thing", "give one like 'ResNet50_Weights.IMAGENET1K_V2'"),
        ("a.b.c", "give one like 'ResNet50_Weights.IMAGENET1K_V2'"),
    ],
)
def test_error_for_an_unknown_weight_names_the_closest(name: str, close: str):
    with pytest.raises(InputError, match=f"^'{name}' is not a torchvision weight of a known network; .*{close}"):
        torchvision_weights(name)


@pytest.mark.slow
def test_every_torchvision_weight_fits_its_network():
    """Checks the number of parameters, which the enum states. For inception_v3 it includes the auxiliary classifier."""
    table = _torchvision_table()
    assert len(table) > 100
    for name, (arch, weight) in table.items():
        assert torchvision.models.get_weight(name) is weight
        if arch.startswith("regnet"):  # cannot be built on the meta device, and one of them takes 2.6 GB
            continue
        classes = len(weight.meta["categories"])
        with torch.device("meta"):
            parameters = sum(p.numel() for p in build(Model(arch=arch), classes).parameters())
        aux = sum(p.numel() for p in InceptionAux(768, 1000).parameters()) if arch == "inception_v3" else 0
        assert parameters + aux == weight.meta["num_params"], name


def test_video_weights_have_their_own_number_of_classes():
    ours = network(1, Model(arch="mc3_18"), 400)
    cached("MC3_18_Weights.KINETICS400_V1", ours.state_dict())
    model, classes, state = torchvision_weights("MC3_18_Weights.KINETICS400_V1")
    assert model == Model(arch="mc3_18") and classes == 400
    theirs = build(model, classes)
    theirs.load_state_dict(state)
    assert same(ours, theirs)
