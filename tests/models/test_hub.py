"""Weights of the Hugging Face hub: the real client against a hub on loopback, and folders in its layout."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from hub import Hub, hub
from safetensors.torch import save_file

from raylabel.errors import InputError
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.hub import hub_config
from raylabel.models.init import Init
from raylabel.models.sources import view_for
from raylabel.models.start import check_start, import_weights, start_network
from raylabel.models.trained import import_model, load_model
from raylabel.recipes import Teacher, digits
from raylabel.store.artifact import Root

NAME = "timm/test_resnet.r160_in1k"
MODEL = Model(arch=NAME)
BIRDS = {
    "architecture": "test_resnet",
    "num_classes": 7,
    "pretrained_cfg": {
        **{"input_size": [3, 96, 96], "interpolation": "bilinear", "crop_pct": 0.8, "crop_mode": "center"},
        **{"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "classifier": "fc", "first_conv": "conv1.0"},
        **{"license": "cc-by-4.0", "num_classes": 7},
    },
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Hub]:
    hub_config.cache_clear()
    with hub(tmp_path / "hub", tmp_path / "cache") as found:
        yield found


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root.open(str(tmp_path / "root"))


def network(classes: int) -> torch.nn.Module:
    torch.manual_seed(classes)
    return timm.create_model("test_resnet", num_classes=classes)


def same(module: torch.nn.Module, expected: torch.nn.Module, without: str = " ") -> bool:
    state = expected.state_dict()
    return all(torch.equal(x, state[n]) for n, x in module.state_dict().items() if not n.startswith(without))


def test_a_name_of_timm_is_a_teacher_and_a_start(server: Hub, root: Root):
    theirs = network(1000)
    save_file(theirs.state_dict(), server.file(NAME, "model.safetensors"))
    teacher = import_model(root, "teacher", MODEL, 1000, checkpoint="", weights=NAME)
    assert same(load_model(teacher), theirs)
    assert teacher.info["source"] == NAME and teacher.info["licence"] == "apache-2.0"
    weights = import_weights(root, NAME, MODEL)
    assert check_start("teacher.train", MODEL, 7, Init(weights=NAME), weights)  # without its head
    assert same(start_network(MODEL, 7, Init(weights=NAME), weights), theirs, without="fc.")
    assert server.counts["GET", "model.safetensors"] == 1  # then it is in the cache
    with pytest.raises(InputError, match=f"^weights '{NAME}' do not fit {NAME} with 9 classes: 'fc.weight' is "):
        import_model(root, "teacher", MODEL, 9, checkpoint="", weights=NAME)


def test_other_weights_are_another_artifact(server: Hub, root: Root):
    file, found = server.file(NAME, "model.safetensors"), []
    for content in network(1000), timm.create_model("test_resnet"):
        save_file(content.state_dict(), file)
        found.append(import_weights(root, NAME, MODEL).uri)
    assert len(set(found)) == 2


@pytest.mark.parametrize("place", ["hub", "revision", "folder"])
def test_a_repository_and_a_folder_have_a_configuration(place: str, server: Hub, root: Root, tmp_path: Path):
    theirs, name = network(7), {"hub": "hf-hub:me/birds", "revision": "hf-hub:me/birds@v1"}.get(place)
    folder = server.file("me/birds", "config.json").parent
    (folder / "config.json").write_text(json.dumps(BIRDS))
    save_file(theirs.state_dict(), folder / "model.safetensors")
    given = {"weights": name, "checkpoint": ""} if name else {"weights": "", "checkpoint": str(folder)}
    teacher = import_model(root, "teacher", MODEL, 7, **given)
    assert same(load_model(teacher), theirs) and teacher.info["licence"] == "cc-by-4.0"
    source = name or str(folder)
    view = view_for(MODEL, source, View(flip=False))
    assert view == View(size=96, resize=120, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), flip=False)
    assert view_for(Model(arch="resnet18"), source, View()) == View()
    assert view_for(MODEL, "", View()) == View()
    with pytest.raises(InputError, match="are for timm/test_resnet, not for timm/test_vit: give others"):
        import_weights(root, source, Model(arch="timm/test_vit"))


def test_the_cache_is_enough_without_a_network(server: Hub, root: Root, tmp_path: Path):
    save_file(network(1000).state_dict(), server.file(NAME, "model.safetensors"))
    first = import_weights(root, NAME, MODEL)
    server.stop()
    assert import_weights(Root.open(str(tmp_path / "other")), NAME, MODEL).digest == first.digest
    with pytest.raises(
        InputError, match="^cannot get config.json of weights 'hf-hub:me/other' from the Hugging Face hub"
    ):
        import_weights(root, "hf-hub:me/other", MODEL)


def test_a_pickle_is_refused(server: Hub, root: Root):
    torch.save(network(1000).state_dict(), server.file(NAME, "pytorch_model.bin"))
    with pytest.raises(InputError, match=f"^weights '{NAME}': {NAME} has no model.safetensors: .* could run code$"):
        import_weights(root, NAME, MODEL)
    assert not server.counts["GET", "pytorch_model.bin"]


def test_what_is_not_public_or_does_not_exist_is_an_error(server: Hub, root: Root):
    for name in "hf-hub:me/none", "hf-hub:me/birds@v9", "hf-hub:a b/c", "hf-hub:me/gated":
        server.file("me/birds", "model.safetensors").touch()
        server.file("me/gated", "config.json").touch()
        server.gated.add("me/gated")
        with pytest.raises(
            InputError, match=f"^cannot get config.json of weights '{name}' from .*set HF_TOKEN"
        ) as caught:
            import_weights(root, name, MODEL)
        assert "\n" not in str(caught.value)
    with pytest.raises(
        InputError, match=r"give a name with the tag of its weights, .*timm.list_pretrained\('test_resnet"
    ):
        import_weights(root, "timm/test_resnet", MODEL)
    with pytest.raises(
        InputError, match="^weights.arch is 'timm/test_resnett', which timm does not have: did you mean"
    ):
        import_weights(root, "timm/test_resnett", MODEL)


@pytest.mark.long
def test_a_file_that_was_cut_off_is_an_error(server: Hub, root: Root):
    save_file(network(1000).state_dict(), server.file(NAME, "model.safetensors"))
    server.cut.add("model.safetensors")
    with pytest.raises(InputError, match=f"^cannot get model.safetensors of weights '{NAME}'"):
        import_weights(root, NAME, MODEL)
    server.cut.clear()
    path = next(iter([import_weights(root, NAME, MODEL)])) and next((server.cache / "").rglob("model.safetensors"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        InputError, match=r"model.safetensors' is not a complete safetensors file: .*delete it, and downl"
    ):
        import_weights(root, NAME, MODEL)


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"pretrained_cfg": {}}', '{"pretrained_cfg": 3, "architecture": 1}']
)
def test_a_folder_with_another_configuration_is_an_error(content: str, root: Root, tmp_path: Path):
    (tmp_path / "config.json").write_text(content)
    save_file(network(7).state_dict(), tmp_path / "model.safetensors")
    hub_config.cache_clear()
    with pytest.raises(InputError, match="config.json' is not a config.json of timm: .*; give another folder$"):
        import_weights(root, str(tmp_path), MODEL)


def test_arguments_that_are_not_passed_are_an_error(root: Root, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(BIRDS | {"model_args": {"base_width": 48}}))
    save_file(network(7).state_dict(), tmp_path / "model.safetensors")
    hub_config.cache_clear()
    with pytest.raises(InputError, match=f"are for {NAME} with base_width: give others"):
        import_weights(root, str(tmp_path), MODEL)


def test_the_view_for_the_weights_is_the_teachers_in_the_results_too(root: Root, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(BIRDS))
    save_file(network(7).state_dict(), tmp_path / "model.safetensors")
    hub_config.cache_clear()
    recipe = digits()
    expected = replace(recipe.view, size=96, resize=120, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    for given in (
        Teacher(model=MODEL, checkpoint=str(tmp_path)),
        Teacher(model=MODEL, train=replace(recipe.pretrain, init=Init(weights=str(tmp_path)))),
    ):
        found = replace(recipe, teacher=given)
        assert found.teacher_view == expected and found.complete.teacher.view == expected
        assert found.complete.complete == found.complete
    file = Teacher(model=MODEL, checkpoint=str(tmp_path / "model.safetensors"))
    assert replace(recipe, teacher=file).teacher_view == recipe.view
    assert recipe.complete == recipe
    own = replace(recipe, teacher=Teacher(model=MODEL, checkpoint=str(tmp_path), view=View(size=32)))
    assert own.teacher_view == View(size=32)


def test_rows_of_a_background_class_are_left_out(root: Root, tmp_path: Path):
    """Of weights with another class before the first one, as some published for TensorFlow have."""
    theirs = network(8)
    config = BIRDS["pretrained_cfg"] | {"label_offset": 1}
    (tmp_path / "config.json").write_text(json.dumps(BIRDS | {"pretrained_cfg": config}))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    hub_config.cache_clear()
    found = load_model(import_model(root, "teacher", MODEL, 7, checkpoint=str(tmp_path), weights=""))
    assert torch.equal(found.get_parameter("fc.weight"), theirs.get_parameter("fc.weight")[1:])
    assert torch.equal(found.get_parameter("fc.bias"), theirs.get_parameter("fc.bias")[1:])
