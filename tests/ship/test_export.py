"""Exported networks in a process without raylabel, the model card, and exports that fail or are interrupted."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import onnxruntime
import pytest
import timm
import timm.data
import torch
from exportable import HOSTILE, as_input, check_formats, shipped
from helpers import DIGITS_VIEW
from markdown_it import MarkdownIt
from PIL import Image
from rich.console import Console

from raylabel.corpus import Corpus, Shards
from raylabel.errors import InputError
from raylabel.media.image_views import eval_pixels
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.trained import WEIGHTS, load_model
from raylabel.ship import export
from raylabel.ship.export import Exported, export_model
from raylabel.ship.samples import evenly_spaced, real_samples, shards_of_test
from raylabel.ship.shipped import Shipped
from raylabel.ship.show_export import print_export
from raylabel.store.artifact import Root
from raylabel.text import printable

DIGITS = Corpus(uri=("embedded://digits/test",))
NAMES = (HOSTILE, *map(str, range(1, 10)))
PHOTO_VIEW = View(size=48, resize=64, interpolation="bicubic")


def made(factory: pytest.TempPathFactory, model: Model, view: View) -> tuple[Shipped, Exported]:
    folder = factory.mktemp("export")
    one = shipped(Root.open(str(folder / "runs")), model, view, DIGITS, NAMES)
    return one, export_model(one, str(folder / "new" / "exported"))


@pytest.fixture(scope="module")
def small(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shipped, Exported]:
    """A network that neither timm nor torchvision has."""
    return made(tmp_path_factory, Model(arch="resnet8x1"), DIGITS_VIEW)


@pytest.fixture(scope="module")
def resnet18(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shipped, Exported]:
    return made(tmp_path_factory, Model(arch="resnet18"), PHOTO_VIEW)


@pytest.fixture(scope="module")
def inputs(small: tuple[Shipped, Exported]) -> torch.Tensor:
    return real_samples(small[0])


def files(exported: Exported) -> set[str]:
    return {path.name for path in Path(exported.folder).iterdir()}


@pytest.mark.slow
def test_formats_give_the_same_logits_in_a_process_without_raylabel(
    small: tuple[Shipped, Exported], resnet18: tuple[Shipped, Exported], tmp_path: Path
) -> None:
    common = {WEIGHTS, "model.pt2", "model.onnx", "preprocess.json", "README.md"}
    assert files(small[1]) == {*common, "model.py"}
    assert files(resnet18[1]) == {*common, "config.json"}
    exported = {Path(one[1].folder): one[0] for one in (small, resnet18)}
    # model.py or torchvision, torch.export, ONNX; and timm
    assert list(check_formats(exported, tmp_path).values()) == [3, 4]


@pytest.mark.long
@pytest.mark.parametrize(
    ("fixture", "more"), [("small", []), pytest.param("resnet18", ["timm"], marks=pytest.mark.slow)]
)
def test_all_formats_are_compared(fixture: str, more: list[str], request: pytest.FixtureRequest) -> None:
    exported = request.getfixturevalue(fixture)[1]
    differences = exported.parity.differences
    assert list(differences) == [WEIGHTS, *more, "model.pt2", "model.onnx"]
    assert exported.parity.samples == 32
    assert {value for name, value in differences.items() if name != "model.onnx"} == {0}
    assert 0 < differences["model.onnx"] < 1e-4


def test_differences_are_measured(small: tuple[Shipped, Exported], inputs: torch.Tensor) -> None:
    session = onnxruntime.InferenceSession(f"{small[1].folder}/model.onnx")
    with torch.inference_mode():
        expected = load_model(small[0].network).eval()(inputs).numpy()
    found = session.run(None, {"images": inputs.numpy()})[0]
    assert np.abs(found - expected).max() == pytest.approx(small[1].parity.differences["model.onnx"], rel=0.9)
    assert small[1].parity.largest == pytest.approx(np.abs(expected).max(), rel=1e-5)


@pytest.mark.slow
def test_timm_prepares_pictures_as_raylabel(resnet18: tuple[Shipped, Exported]) -> None:
    data: Any = timm.data
    network: Any = timm.create_model(f"local-dir:{resnet18[1].folder}", pretrained=True)
    transform = data.create_transform(**data.resolve_model_data_config(network))
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    picture = Image.fromarray(pixels).resize((250, 150), Image.Resampling.BICUBIC)
    folder = Path(resnet18[1].folder).parent
    picture.save(folder / "a.png")
    ours = as_input(eval_pixels((folder / "a.png").read_bytes(), PHOTO_VIEW)[None].copy(), PHOTO_VIEW)[0]
    # Pillow and torch round differently: one of 255, over the smallest standard deviation.
    assert (transform(picture) - ours).abs().max().item() <= 1.01 / 255 / min(PHOTO_VIEW.std)
    assert network.pretrained_cfg["label_names"] == list(NAMES)


@pytest.mark.slow
def test_timm_loads_it_for_other_classes(resnet18: tuple[Shipped, Exported]) -> None:
    network = timm.create_model(f"local-dir:{resnet18[1].folder}", pretrained=True, num_classes=3)
    own = load_model(resnet18[0].network).state_dict()
    found = network.state_dict()
    assert found["fc.weight"].shape == (3, 512)
    assert all(torch.equal(found[name], own[name]) for name in own if not name.startswith("fc."))


def test_the_batch_of_onnx_is_named_and_of_any_size(small: tuple[Shipped, Exported]) -> None:
    session = onnxruntime.InferenceSession(f"{small[1].folder}/model.onnx")
    assert [(one.name, one.shape) for one in session.get_inputs()] == [("images", ["batch", 3, 8, 8])]
    assert [(one.name, one.shape) for one in session.get_outputs()] == [("logits", ["batch", 10])]
    for batch in (1, 5):
        (logits,) = session.run(None, {"images": np.zeros((batch, 3, 8, 8), np.float32)})
        assert np.asarray(logits).shape == (batch, 10)


def test_weights_are_those_of_the_root_and_no_path_of_the_machine_is_in_a_file(small: tuple[Shipped, Exported]) -> None:
    one, exported = small
    folder = Path(exported.folder)
    assert (folder / WEIGHTS).read_bytes() == one.network.read(WEIGHTS)
    for path in folder.iterdir():
        content = path.read_bytes()
        assert b"site-packages" not in content and one.root.uri.encode() not in content, path.name
        assert str(Path(export.__file__).parents[2]).encode() not in content, path.name


def test_the_card_shows_names_and_does_not_interpret_them(small: tuple[Shipped, Exported]) -> None:
    text = (Path(small[1].folder) / "README.md").read_text()
    card: Any = huggingface_hub.ModelCard(text)
    assert card.data.to_dict()["pipeline_tag"] == "image-classification"
    assert [result.metric_value for result in card.data.eval_results or []] == [0.5]
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(card.text)
    inline = [child for token in tokens for child in token.children or []]
    assert not [token.type for token in inline if token.type in ("html_inline", "link_open", "em_open")]
    assert not [token for token in tokens if token.type == "html_block"]
    shown = [token.content for token in inline if token.type == "code_inline"]
    for name in (HOSTILE, f"{HOSTILE}.pt"):  # a code span has single blanks at its ends, which are not shown
        assert printable(name) in shown
    headings = [b.content for a, b in zip(tokens, tokens[1:], strict=False) if a.type == "heading_open"]
    assert headings[0].startswith("teacher-") and headings[-1] == "Files" and len(headings) == 10
    assert "\x1b" not in text


def test_the_card_has_the_files_and_their_checksums(small: tuple[Shipped, Exported]) -> None:
    text = (Path(small[1].folder) / "README.md").read_text()
    for file in small[1].files:
        assert (f"| `{file.name}` |" in text and file.sha256 in text) == (file.name != "README.md")


def test_what_is_printed(small: tuple[Shipped, Exported], capsys: pytest.CaptureFixture[str]) -> None:
    print_export(*small, Console())
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"model\.safetensors +320 kB", next(x for x in lines if x.startswith("model.safetensors")))
    assert "in fp32 on 32 samples of the test set" in " ".join(lines)
    assert lines[-1] == f"exported to {small[1].folder}"
    assert float(lines[-2].split()[1]) == pytest.approx(small[1].parity.differences["model.onnx"], rel=0.1)


def test_samples_are_evenly_spaced(small: tuple[Shipped, Exported]) -> None:
    shards = Shards(shards_of_test(small[0]))
    keys = evenly_spaced(shards, 11)
    assert keys[0] == 0 and keys[-1] == 499 and len(keys) == 11
    assert set(np.diff(keys)) <= {49, 50}
    assert evenly_spaced(shards, 1000) == list(range(500))


@pytest.fixture
def known(small: tuple[Shipped, Exported], inputs: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The samples of the small network are not read again, which takes seconds."""
    monkeypatch.setattr(export, "real_samples", lambda _: inputs)


@pytest.mark.slow
def test_weights_over_the_limit_of_protobuf_are_in_a_second_file(
    small: tuple[Shipped, Exported], known: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "IN_ONE_FILE", 1)
    exported = export_model(small[0], str(tmp_path / "new"))
    assert "model.onnx.data" in files(exported)
    assert exported.parity.differences["model.onnx"] < 1e-4


def check_refused(one: Shipped, to: Path, match: str) -> None:
    before = sorted(to.parent.iterdir())
    with pytest.raises(InputError, match=match):
        export_model(one, str(to))
    assert sorted(to.parent.iterdir()) == before


def test_what_exists_is_not_overwritten(small: tuple[Shipped, Exported], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("a")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("empty", "file", "link"):
        check_refused(small[0], tmp_path / name, f"{name}' exists: give another folder as --to")
    with pytest.raises(InputError, match="give a local folder"):
        export_model(small[0], "s3://bucket/folder")


def test_a_missing_package_is_named(
    small: tuple[Shipped, Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_NEEDED", ("onnx", "a_package_that_is_not_installed"))
    check_refused(small[0], tmp_path / "new", r"a_package_that_is_not_installed must be .* 'raylabel\[export\]'")


def test_a_format_with_other_logits_is_not_exported(
    small: tuple[Shipped, Exported], known: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scaled(*given: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda batch: 1.01 * write(*given)(batch)

    write = export._write_program
    monkeypatch.setattr(export, "_write_program", scaled)
    words = r"^model.pt2 gives other logits than .*: by up to 0.00\d+ on 32 samples .*: nothing is exported"
    check_refused(small[0], tmp_path / "new", words)


def test_logits_that_are_no_numbers_are_not_exported(
    small: tuple[Shipped, Exported], known: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_write_weights", lambda *_: lambda batch: batch.mean((2, 3)).repeat(1, 4)[:, :10] / 0)
    check_refused(small[0], tmp_path / "new", f"^{WEIGHTS} gives other logits than .*: by up to (nan|inf)")


def test_an_interrupted_export_leaves_nothing(
    small: tuple[Shipped, Exported], known: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> str:
        (found,) = tmp_path.iterdir()
        assert found.name.endswith(".tmp") and (found / WEIGHTS).is_file()
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "_write_program", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_model(small[0], str(tmp_path / "new"))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "more"),
    [
        (Model(arch="timm/test_vit.r160_in1k", size=48), {"config.json"}),
        (Model(arch="timm/test_efficientnet"), {"config.json"}),
        (Model(arch="timm/test_resnet", features="unit"), {"unit.py"}),
        (Model(arch="resnet8x1", features="unit"), {"unit.py", "model.py"}),
    ],
)
def test_networks_of_timm_and_heads_have_all_formats(
    ray_local: None, tmp_path_factory: pytest.TempPathFactory, model: Model, more: set[str]
) -> None:
    one, exported = made(tmp_path_factory, model, View(size=48, resize=64, interpolation="bicubic", squash=True))
    common = {WEIGHTS, "model.pt2", "model.onnx", "preprocess.json", "README.md"}
    assert files(exported) == common | more
    differences = exported.parity.differences
    assert ("timm" in differences) == ("config.json" in more)
    assert {value for name, value in differences.items() if name != "model.onnx"} == {0}
    card = (Path(exported.folder) / "README.md").read_text()
    assert "is resized to 64 x 64 pixels, whatever its shape (bicubic" in card


@pytest.mark.slow
def test_a_head_on_a_network_of_open_clip_has_all_formats(
    ray_local: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = Model(arch="clip/ViT-S-32-alt", features="unit")
    _, exported = made(tmp_path_factory, model, View(size=224, resize=224))
    assert files(exported) == {
        WEIGHTS,
        "model.pt2",
        "model.onnx",
        "preprocess.json",
        "README.md",
        "unit.py",
        "model.py",
    }
    differences = exported.parity.differences
    assert differences[WEIGHTS] == 0 and max(differences.values()) < 1e-4  # torch.export splits the attention
    assert "clip_network(" in (Path(exported.folder) / "README.md").read_text()
