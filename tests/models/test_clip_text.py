"""Heads from names of classes, against the whole network of open_clip."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from clip_models import TINY, add_tiny, network, save, save_folder, without_warnings
from hub import Hub, hub
from open_clip.factory import _MODEL_CONFIGS  # pyright: ignore[reportPrivateUsage]

from raylabel.errors import InputError
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.clip_text import class_weights, find_text
from raylabel.models.hub import hub_config
from raylabel.models.start import import_weights
from raylabel.models.weights import save_tensors, save_weights
from raylabel.store.artifact import Root

CLASSES = ["cat", "golden retriever", "aeroplane {", *(f"thing {i}" for i in range(20))]
TEMPLATES = ["a photo of a {}.", "a drawing of the {}."]
NAMES = ["tiny", "tiny-quickgelu", "tiny-sigmoid", "tiny-timm", "tiny-coca"]


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


def trained(name: str) -> Any:
    """With a scale and a bias that are not the initial ones."""
    found = network(name)
    with torch.no_grad():
        found.logit_scale.add_(0.5)
        if found.logit_bias is not None:
            found.logit_bias.add_(0.25)
    return found


def head_of(given: str, arch: str) -> tuple[torch.Tensor, torch.Tensor]:
    text = find_text(given, Model(arch=arch))
    found = class_weights(text.config, save_tensors(text.read()), text.tokenizer, CLASSES, TEMPLATES)
    return torch.from_numpy(found[0]), torch.from_numpy(found[1])


@pytest.mark.parametrize("name", NAMES)
def test_the_head_gives_the_logits_of_open_clip(name: str, tmp_path: Path):
    theirs = trained(name)
    weight, bias = head_of(save(theirs, tmp_path / "clip.safetensors"), f"clip/{name}")
    tokenizer = open_clip.get_tokenizer(name)
    side = theirs.visual.image_size if isinstance(theirs.visual.image_size, int) else theirs.visual.image_size[0]
    images = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = open_clip.build_zero_shot_classifier(theirs, tokenizer, CLASSES, TEMPLATES)
        assert torch.equal(weight, theirs.logit_scale.exp() * expected.T) and weight.dtype is torch.float32
        unit = theirs.encode_image(images, normalize=True)
        logits = theirs.logit_scale.exp() * unit @ expected
        logits = logits if theirs.logit_bias is None else logits + theirs.logit_bias
        assert torch.allclose(torch.nn.functional.linear(unit, weight, bias), logits, atol=1e-4)
    assert (bias != 0).all() == (name == "tiny-sigmoid") and bias.shape == (len(CLASSES),)


def test_the_logits_of_one_template_are_those_of_the_whole_network(tmp_path: Path):
    theirs = trained("tiny-sigmoid")
    text = find_text(save(theirs, tmp_path / "clip.safetensors"), Model(arch="clip/tiny-sigmoid"))
    found = class_weights(text.config, save_tensors(text.read()), text.tokenizer, CLASSES, TEMPLATES[:1])
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = open_clip.get_tokenizer("tiny-sigmoid")([TEMPLATES[0].format(name) for name in CLASSES])
    with torch.inference_mode():
        expected, _ = theirs.get_logits(images, tokens)
        unit = theirs.encode_image(images, normalize=True)
        mine = torch.nn.functional.linear(unit, torch.from_numpy(found[0]), torch.from_numpy(found[1]))
    assert torch.allclose(mine, expected, atol=1e-4)


@pytest.mark.parametrize("place", ["hub", "revision", "folder", "torch"])
def test_the_text_tower_is_that_of_the_weights_wherever_they_are(place: str, server: Hub, tmp_path: Path):
    theirs, folder = trained("tiny"), server.file("me/birds", "open_clip_config.json").parent
    save_folder(folder, "tiny", theirs)
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "clip.pt")
    named = {"hub": "hf-hub:me/birds", "revision": "hf-hub:me/birds@v1", "folder": str(folder)}
    weight, _ = head_of(named.get(place, str(tmp_path / "clip.pt")), "clip/tiny")
    expected = open_clip.build_zero_shot_classifier(theirs, open_clip.get_tokenizer("tiny"), CLASSES, TEMPLATES)
    assert torch.equal(weight, theirs.logit_scale.exp().detach() * expected.T)


def test_the_text_tower_has_the_activation_that_the_tag_needs(server: Hub):
    repository = open_clip.get_pretrained_cfg("ViT-B-32", "openai")["hf_hub"].strip("/")
    save(network("tiny"), server.file(repository, "open_clip_model.safetensors"))
    text = find_text("clip/ViT-B-32.openai", Model(arch="clip/ViT-B-32.openai"))
    assert text.config["quick_gelu"] and text.tokenizer(["a"]).shape == (1, 77)


def test_the_digest_is_that_of_all_texts_and_of_the_network(tmp_path: Path):
    file = save(network("tiny"), tmp_path / "clip.safetensors")
    text, other = (find_text(file, Model(arch=f"clip/{name}")) for name in ("tiny", "tiny-quickgelu"))
    found = {
        text.digest(CLASSES, TEMPLATES),
        text.digest(CLASSES[::-1], TEMPLATES),
        text.digest(CLASSES, TEMPLATES[:1]),
    }
    assert len(found | {other.digest(CLASSES, TEMPLATES)}) == 4
    assert text.digest(CLASSES, TEMPLATES) == find_text(file, Model(arch="clip/tiny")).digest(CLASSES, TEMPLATES)


def test_weights_without_a_text_tower_are_an_error(tmp_path: Path):
    root, theirs = Root.open(str(tmp_path / "root")), network("tiny")
    trunk = import_weights(root, save(theirs, tmp_path / "clip.safetensors"), Model(arch="clip/tiny"))
    error = "have no text tower, which a zero-shot head is computed with: give the weights of the whole network"
    with pytest.raises(InputError, match=error):
        find_text(trunk.uri, Model(arch="clip/tiny"))
    file = tmp_path / "mine.safetensors"
    file.write_bytes(save_weights(build(Model(arch="clip/tiny"), 3)))
    with pytest.raises(InputError, match=error):
        find_text(str(file), Model(arch="clip/tiny")).read()
    with pytest.raises(
        InputError, match="the text tower of the teacher's weights does not fit its network: text.cls_emb; give the"
    ):
        head_of(save(network("tiny"), tmp_path / "a.safetensors"), "clip/tiny-coca")
    state = {name: x for name, x in theirs.state_dict().items() if name != "ln_final.weight"}
    torch.save(state, tmp_path / "b.pt")
    with pytest.raises(InputError, match="does not fit its network: ln_final.weight; give the arch that they are for"):
        head_of(str(tmp_path / "b.pt"), "clip/tiny")


def test_a_folder_may_have_a_tokenizer_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As the folders of SigLIP do: a text tower of open_clip with words of its own."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = ["<pad>", "</s>", "<unk>", *sorted({word for name in CLASSES for word in name.split()}), "a", "photo", "of"]
    plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=plain, **special).save_pretrained(tmp_path)
    text = TINY["tiny-sigmoid"]["text_cfg"] | {"context_length": 16, "vocab_size": len(words), "pool_type": "last"}
    text |= {"hf_tokenizer_name": "someone/words", "tokenizer_kwargs": {"clean": "canonicalize"}}
    monkeypatch.setitem(_MODEL_CONFIGS, "tiny-words", TINY["tiny-sigmoid"] | {"text_cfg": text})
    theirs = network("tiny-words")
    save_folder(tmp_path, "tiny-words", theirs)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    assert tokenizer(["a photo"]).tolist() == [[words.index("a"), words.index("photo"), 1, *[0] * 13]]
    weight, bias = head_of(str(tmp_path), "clip/tiny-words")
    expected = open_clip.build_zero_shot_classifier(theirs, tokenizer, CLASSES, TEMPLATES)
    assert torch.equal(weight, theirs.logit_scale.exp().detach() * expected.T)
    assert bias.tolist() == [-10.0] * len(CLASSES)


def test_a_tokenizer_of_transformers_needs_that_package(server: Hub, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    file = save(network("tiny"), tmp_path / "clip.safetensors")
    error = r"have a tokenizer of transformers: pip install 'transformers\[sentencepiece\]'$"
    with pytest.raises(InputError, match=error):
        find_text(file, Model(arch="clip/ViT-B-16-SigLIP"))
    folder = Path(save_folder(server.file("me/birds", "a").parent, "tiny", network("tiny")))
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "someone/words"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    for given in str(folder), "hf-hub:me/birds":
        with pytest.raises(InputError, match=error):
            find_text(given, Model(arch="clip/tiny"))
    with pytest.raises(
        InputError, match="reads from a local folder, or from a repository without a revision: give such"
    ):
        find_text("hf-hub:me/birds@v1", Model(arch="clip/tiny"))
