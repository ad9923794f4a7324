"""Networks of open_clip, against open_clip itself."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import clip_models
import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
from clip_models import SMALLEST, add_tiny, network, save, save_folder, without_warnings
from hub import Hub, hub
from PIL import Image
from sklearn.datasets import load_sample_images

from raylabel.errors import InputError
from raylabel.inference.features import features_of
from raylabel.media.image_views import eval_pixels, normalise
from raylabel.media.view import View
from raylabel.models import Model, check, check_input
from raylabel.models.build import build, input_dtype, state_bytes
from raylabel.models.clip_networks import clip_side, clip_view, model_config, tagged_config
from raylabel.models.head import head_of
from raylabel.models.hub import hub_config
from raylabel.models.init import PENULTIMATE, Init
from raylabel.models.sources import view_for
from raylabel.models.start import check_start, check_trunk, import_weights, start_network
from raylabel.models.trained import import_model, load_model
from raylabel.models.trunk import trunk, width_of
from raylabel.models.weights import save_weights
from raylabel.recipes import Head, Teacher, digits
from raylabel.store.artifact import Root

NAMES = ["tiny", "tiny-quickgelu", "tiny-sigmoid", "tiny-resnet", "tiny-timm", "tiny-coca", SMALLEST]
OPENAI = "clip/ViT-B-32.openai"
SIDE = View(size=32, resize=32)


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
    add_tiny()
    hub_config.cache_clear()
    with without_warnings():
        yield


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Hub]:
    with hub(tmp_path / "hub", tmp_path / "cache") as found:
        yield found


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root.open(str(tmp_path / "root"))


def pixels(side: int) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def outputs(module: Any, inputs: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return module.eval()(inputs)


def embeddings(theirs: Any, inputs: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return theirs.encode_image(inputs, normalize=True)


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_the_features_are_the_embeddings_of_open_clip(name: str, root: Root, tmp_path: Path):
    model, theirs = Model(arch=f"clip/{name}"), network(name)
    check(model)
    side = clip_side(model.arch)
    weights = import_weights(root, save(theirs, tmp_path / "clip.safetensors"), model)
    assert weights.info["source"] == str(tmp_path / "clip.safetensors") and "licence" not in weights.info
    check_trunk(weights, model, "given")
    assert check_start("teacher.train", model, 7, Init(), weights)  # without a head
    module = start_network(model, 7, Init(take=("trunk",)), weights).eval()
    inputs, state = pixels(side), theirs.state_dict()
    names = {n for n in state if n.startswith("visual.")}
    assert {n for n in module.state_dict() if n.startswith("visual.")} == names  # and no text tower
    assert set(module.state_dict()) - names == {"head.weight", "head.bias"}
    assert all(torch.equal(module.state_dict()[n], state[n]) for n in names)
    assert head_of(module) == "head" and outputs(module, inputs).shape == (2, 7)
    assert input_dtype(module, bf16=True) is input_dtype(trunk(build(model, 3)), bf16=True) is torch.float32
    assert state_bytes(model, 7) == sum(tensor.nbytes for tensor in module.state_dict().values())
    found = torch.nn.functional.normalize(outputs(trunk(module), inputs), dim=-1)
    assert torch.equal(found, embeddings(theirs, inputs)) or name == "tiny-coca"
    assert torch.allclose(found, embeddings(theirs, inputs), atol=1e-6)
    assert width_of(model, PENULTIMATE, (3, side, side)) == found.shape[1]


@pytest.mark.parametrize("name", ["tiny", "tiny-resnet", "tiny-timm"])
def test_random_weights_are_those_of_open_clip_with_the_same_seed(name: str):
    torch.manual_seed(3)
    found = build(Model(arch=f"clip/{name}"), 7).state_dict()
    expected = network(name, seed=3).state_dict()
    assert all(torch.equal(x, expected[n]) for n, x in found.items() if n.startswith("visual."))


@pytest.mark.parametrize(
    ("model", "error"),
    [
        (Model(arch="clip/ViT-B-23"), "'clip/ViT-B-23', which open_clip does not have: did you mean clip/ViT-B-32"),
        (Model(arch="clip/qqqqqqqqqqq"), r"see open_clip.list_models\(\)"),
        (Model(arch="clip/ViT-B-32.laion3b"), "has no such weights of ViT-B-32: give clip/ViT-B-32.openai, clip/ViT-B"),
        (Model(arch="clip/ViT-B-32", size=128), "^model.size is 128, which only conv2 and networks of timm have"),
        (Model(arch="clip/ViT-B-32", stem="small"), "'small', which only ResNet"),
    ],
)
def test_what_cannot_be_built_is_an_error(model: Model, error: str):
    with pytest.raises(InputError, match=error):
        check(model)


def test_without_open_clip_the_error_is_the_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^teacher.model.arch .* needs open_clip: pip install 'raylabel\[clip\]'$"):
        check(Model(arch="clip/ViT-B-32"), "teacher.model")


@pytest.mark.long
@pytest.mark.parametrize("step", [10, pytest.param(1, marks=pytest.mark.slow)])
def test_every_network_of_open_clip_is_built_and_takes_pictures_of_its_size(step: int):
    for name in open_clip.list_models()[::step]:
        check(model := Model(arch=f"clip/{name}"))
        check_input(model, None, clip_side(model.arch))
        assert state_bytes(model, 2) > 10_000
    with pytest.raises(InputError, match="is 'clip/ViT-L-14-336', which is built for 336 x 336 pixels, but the view"):
        check_input(Model(arch="clip/ViT-L-14-336"), None, 224, "teacher.model")
    with pytest.raises(InputError, match="takes images, but the view gives clips"):
        check_input(Model(arch="clip/ViT-B-32"), 8, 224)


def test_the_activation_is_that_of_the_weights():
    def quick(arch: str) -> bool:
        with torch.device("meta"):
            found = build(Model(arch=arch), 2)
        return any(type(module).__name__ == "QuickGELU" for module in found.modules())

    assert quick(OPENAI) and quick("clip/ViT-B-32-quickgelu") and quick("clip/ViT-B-32-quickgelu.openai")
    assert not quick("clip/ViT-B-32") and not quick("clip/ViT-B-32.laion2b_s34b_b79k")
    for name, tag in open_clip.list_pretrained():
        config = open_clip.get_model_config(name) or {}
        needed = open_clip.get_pretrained_cfg(name, tag).get("quick_gelu") or config.get("quick_gelu")
        assert model_config(f"clip/{name}.{tag}")["quick_gelu"] == bool(needed)


def photograph(number: int, size: tuple[int, int]) -> bytes:
    out, image = io.BytesIO(), Image.fromarray(load_sample_images().images[number])
    image.resize(size, Image.Resampling.BICUBIC).save(out, "PNG")
    return out.getvalue()


def transform(view: View, mode: str) -> Any:
    """open_clip's own preprocessing."""
    return open_clip.image_transform(
        view.size,
        is_train=False,
        mean=view.mean,
        std=view.std,
        resize_mode=mode,  # pyright: ignore[reportArgumentType]
        interpolation=view.interpolation,
    )


@pytest.mark.parametrize(
    ("arch", "mode", "interpolation"),
    [
        (OPENAI, "shortest", "bicubic"),
        ("clip/ViT-B-16-SigLIP.webli", "squash", "bicubic"),
        ("clip/ViT-B-16-quickgelu.dfn2b", "shortest", "bicubic"),
        ("clip/PE-Core-T-16-384.meta", "squash", "bilinear"),
    ],
)
@pytest.mark.parametrize("size", [(640, 427), (150, 210)])
def test_the_view_of_weights_gives_the_pixels_of_open_clip(arch: str, mode: str, interpolation: str, size):
    view = clip_view(arch, tagged_config(arch), View(size=8, resize=8, flip=False, augment="trivial"))
    view.check("view")
    assert not view.flip and view.augment == "trivial"  # of training, which no publisher states
    config = open_clip.get_pretrained_cfg(*arch.removeprefix("clip/").split("."))
    assert (config["resize_mode"], config["interpolation"]) == (mode, interpolation)
    assert (view.squash, view.interpolation) == (mode == "squash", interpolation)
    assert (view.mean, view.std) == (tuple(config["mean"]), tuple(config["std"]))
    check_input(Model(arch=arch), None, view.size)
    data = photograph(0, size)
    expected = transform(view, mode)(Image.open(io.BytesIO(data)))
    found = normalise(torch.from_numpy(eval_pixels(data, view)[None].copy()), view)[0]
    steps = (found - expected).abs() * torch.tensor(view.std)[:, None, None] * 255  # of 255
    assert found.shape == expected.shape and steps.max() < 2.01 and (steps > 0.5).float().mean() < 0.01


def test_features_of_pictures_are_those_of_open_clips_preprocessing_and_encoder(root: Root, tmp_path: Path):
    theirs, model = network(SMALLEST), Model(arch=f"clip/{SMALLEST}")
    weights = import_weights(root, save(theirs, tmp_path / "clip.safetensors"), model)
    view = clip_view(model.arch, {}, View())
    media = [photograph(0, (640, 427)), photograph(1, (224, 512)), photograph(1, (300, 300))]
    module = trunk(start_network(model, 1, Init(take=("trunk",)), weights).eval())
    found, _ = features_of(module, torch.from_numpy(np.stack([eval_pixels(x, view) for x in media])), view, "fp32")
    inputs = torch.stack([transform(view, "shortest")(Image.open(io.BytesIO(one))) for one in media])
    expected = embeddings(theirs, inputs)
    assert found.dtype is torch.float16 and (found.float() - expected).abs().max() < 5e-4
    same = normalise(torch.from_numpy(np.stack([eval_pixels(x, view) for x in media])), view)
    assert torch.equal(found, embeddings(theirs, same).half())  # the resizing is the only difference


def test_preprocessing_that_raylabel_does_not_have_is_an_error():
    for preprocess in {"resize_mode": "longest"}, {"interpolation": "lanczos"}:
        with pytest.raises(InputError, match="resize mode '.*' and interpolation '.*', .* give teacher.view$"):
            clip_view("clip/tiny", {"preprocess_cfg": preprocess}, View())
    view = clip_view("clip/tiny", {"preprocess_cfg": {"interpolation": "random", "mean": None}}, View())
    assert view.interpolation == "bicubic" and view.mean == open_clip.transform.PreprocessCfg().mean


def test_a_name_of_open_clip_is_a_start_and_its_text_tower_stays_outside(server: Hub, root: Root):
    theirs, arch = network(SMALLEST), "clip/ViT-S-32-alt.hub"
    with pytest.raises(InputError, match="open_clip has no such weights of ViT-S-32-alt: give clip/ViT-S-32-alt$"):
        check(Model(arch=arch))
    arch = "clip/ViT-B-32.laion2b_s34b_b79k"
    found = tagged_config(arch)
    assert found["repository"] == "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    # The tower of another network, in the repository of this one: its names, shapes and text tower are real.
    save(theirs, server.file(found["repository"], "open_clip_model.safetensors"))
    weights = import_weights(root, arch, Model(arch=arch))
    assert server.counts["GET", "open_clip_model.safetensors"] == 1
    with pytest.raises(InputError, match="do not fit clip/ViT-B-32.laion2b_s34b_b79k: 'visual.class_embedding' is"):
        check_trunk(weights, Model(arch=arch), arch)
    stored = safetensors.torch.load(weights.read("model.safetensors"))
    assert stored.keys() == {n for n in theirs.state_dict() if n.startswith("visual.")}


def test_a_repository_with_a_pickle_is_refused(server: Hub, root: Root):
    arch = "clip/ViTamin-S.datacomp1b"
    torch.save({}, server.file("jienengchen/ViTamin-S", "pytorch_model.bin"))
    with pytest.raises(
        InputError, match=f"^weights '{arch}': jienengchen/ViTamin-S has no open_clip_model.safetensors"
    ):
        import_weights(root, arch, Model(arch=arch))
    assert not server.counts["GET", "pytorch_model.bin"]
    with pytest.raises(
        InputError, match="^weights 'clip/ViT-B-32' lack the tag of the weights: give clip/ViT-B-32.ope"
    ):
        import_weights(root, "clip/ViT-B-32", Model(arch="clip/ViT-B-32"))
    with pytest.raises(InputError, match="give a file, since open_clip has none of it$"):
        import_weights(root, "clip/tiny", Model(arch="clip/tiny"))


@pytest.mark.parametrize("place", ["hub", "revision", "folder"])
def test_a_repository_and_a_folder_have_a_configuration(place: str, server: Hub, root: Root):
    model, theirs = Model(arch="clip/tiny"), network("tiny")
    folder = server.file("me/birds", "open_clip_config.json").parent
    given = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "resize_mode": "squash", "interpolation": "bilinear"}
    save_folder(folder, "tiny", theirs, **given)
    source = {"hub": "hf-hub:me/birds", "revision": "hf-hub:me/birds@v1", "folder": str(folder)}[place]
    started = start_network(model, 7, Init(), import_weights(root, source, model))
    assert torch.equal(started.get_parameter("visual.proj"), theirs.visual.proj)
    stated = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "squash": True, "interpolation": "bilinear"}
    assert view_for(model, source, View()) == replace(SIDE, **stated)
    name, path = ("", source) if place == "folder" else (source, "")
    teacher = Teacher(model=model, head=Head(kind="logistic"), weights=name, checkpoint=path)
    found = replace(digits(), teacher=teacher).complete.teacher.view
    assert found == replace(digits().view, size=32, resize=32, **stated)
    assert view_for(model, "", View()) == view_for(Model(arch="resnet18"), source, View()) == View()
    error = "another image tower than that of clip/tiny-resnet: .*give clip/tiny or clip/tiny-sigmoid as the arch$"
    with pytest.raises(InputError, match=error):
        import_weights(root, source, Model(arch="clip/tiny-resnet"))


def test_weights_for_another_activation_are_an_error_that_names_the_arch(server: Hub, root: Root, tmp_path: Path):
    quick = save_folder(tmp_path / "quick", "tiny-quickgelu", network("tiny-quickgelu"))
    plain = save_folder(tmp_path / "plain", "tiny", network("tiny"))
    import_weights(root, quick, Model(arch="clip/tiny-quickgelu"))
    for source, arch, right in (quick, "tiny", "tiny-quickgelu"), (plain, "tiny-quickgelu", "tiny"):
        with pytest.raises(InputError, match=f"quick_gelu is (True|False), not .*; give clip/{right} "):
            import_weights(root, source, Model(arch=f"clip/{arch}"))
    repository = tagged_config(OPENAI)["repository"]
    save(network("tiny"), server.file(repository, "open_clip_model.safetensors"))
    with pytest.raises(
        InputError, match="^weights 'clip/ViT-B-32.openai' .* quick_gelu is True, not False; give clip/V"
    ):
        import_weights(root, OPENAI, Model(arch="clip/ViT-B-32"))
    import_weights(root, OPENAI, Model(arch=OPENAI))
    import_weights(root, OPENAI, Model(arch="clip/ViT-B-32-quickgelu"))
    # Networks of timm have one activation, whatever their text tower has.
    config = json.loads((tmp_path / "plain" / "open_clip_config.json").read_text())
    config["model_cfg"] = clip_models.TINY["tiny-timm"] | {"quick_gelu": False}
    folder = Path(save_folder(tmp_path / "timm", "tiny-timm", network("tiny-timm")))
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    import_weights(root, str(folder), Model(arch="clip/tiny-timm"))


def test_weights_of_another_library_are_an_error(server: Hub, root: Root, tmp_path: Path):
    name = "timm/test_resnet.r160_in1k"
    save(network("tiny"), server.file(name, "model.safetensors"))
    with pytest.raises(InputError, match=f"^weights '{name}' are of timm, not for clip/tiny: give others$"):
        import_weights(root, name, Model(arch="clip/tiny"))
    assert view_for(Model(arch="clip/tiny"), name, View()) == View()
    save(network("tiny"), server.file(tagged_config(OPENAI)["repository"], "open_clip_model.safetensors"))
    for arch in "timm/test_vit", "resnet18":
        with pytest.raises(InputError, match=f"^weights '{OPENAI}' are of open_clip, not for {arch}: give others$"):
            import_weights(root, OPENAI, Model(arch=arch))
        assert view_for(Model(arch=arch), OPENAI, View()) == View()


def test_a_file_that_was_cut_off_is_an_error(root: Root, tmp_path: Path):
    model, folder = Model(arch="clip/tiny"), Path(save_folder(tmp_path / "clip", "tiny", network("tiny")))
    path = folder / "open_clip_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="open_clip_model.safetensors' is not a complete safetensors file"):
        import_weights(root, str(folder), model)
    with pytest.raises(InputError, match="open_clip_model.safetensors' is not a complete safetensors file"):
        import_weights(root, str(path), model)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_cfg": 3}', '{"model_cfg": {"vision_cfg": {"a": 1}}}'])
def test_a_folder_with_another_configuration_is_an_error(content: str, root: Root, tmp_path: Path):
    folder = Path(save_folder(tmp_path / "clip", "tiny", network("tiny")))
    (folder / "open_clip_config.json").write_text(content)
    error = "is not a open_clip_config.json of open_clip|has no model_cfg of open_clip"
    with pytest.raises(InputError, match=error):
        import_weights(root, str(folder), Model(arch="clip/tiny"))


def test_a_state_dict_of_torch_is_a_start(root: Root, tmp_path: Path):
    """Of the whole network, as the training of open_clip writes it."""
    theirs, model, path = network("tiny"), Model(arch="clip/tiny"), tmp_path / "epoch_1.pt"
    state = {f"module.{name}": x for name, x in theirs.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state}, path)
    started = start_network(model, 7, Init(), import_weights(root, str(path), model))
    assert torch.equal(started.get_parameter("visual.proj"), theirs.visual.proj)


def test_a_trained_network_is_a_teacher_and_published_weights_are_not(root: Root, tmp_path: Path):
    model = Model(arch="clip/tiny")
    torch.manual_seed(1)
    mine = build(model, 7)
    (tmp_path / "mine.safetensors").write_bytes(save_weights(mine))
    teacher = import_model(root, "teacher", model, 7, checkpoint=str(tmp_path / "mine.safetensors"), weights="")
    assert torch.equal(outputs(load_model(teacher), pixels(32)), outputs(mine, pixels(32)))
    theirs = save(network("tiny"), tmp_path / "clip.safetensors")
    with pytest.raises(
        InputError, match="no last layer for classes: give teacher.head.kind 'zero-shot' or 'logistic', "
    ):
        import_model(root, "teacher", model, 7, checkpoint=theirs, weights="")
