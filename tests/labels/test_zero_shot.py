"""Teachers with a zero-shot head, against the whole network of open_clip."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from clip_models import SMALLEST, network, save, without_warnings
from helpers import contents, digit_images, write_parquet
from scoring import scored_in_this_process

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus, index_corpus
from raylabel.errors import InputError
from raylabel.inference import scores as stage
from raylabel.inference.log_odds import top_classes
from raylabel.labels import zero_shot
from raylabel.labels.features import Frozen
from raylabel.labels.teacher import Label, TrainedNetwork
from raylabel.labels.zero_shot import make_zero_shot, text_warnings, texts_of
from raylabel.media.image_views import eval_pixels, normalise
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.clip_networks import clip_view
from raylabel.models.start import import_weights
from raylabel.models.trained import load_model
from raylabel.recipes import Head, Teacher, digits
from raylabel.schema import SCORES
from raylabel.store.artifact import Artifact, Root, identity_of

MODEL = Model(arch=f"clip/{SMALLEST}")
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven")
TEMPLATES = ("a photo of the number {}.", "{}")
LABEL = Label(batch=40, p=3, precision="fp32", reject_limit=0.5)


@pytest.fixture(scope="module")
def theirs() -> Iterator[Any]:
    with without_warnings():
        yield network(SMALLEST)


@pytest.fixture
def file(theirs: Any, tmp_path: Path) -> str:
    return save(theirs, tmp_path / "clip.safetensors")


def frozen(root: Root, file: str) -> Frozen:
    return Frozen(
        model=MODEL,
        weights=import_weights(root, file, MODEL),
        view=clip_view(MODEL.arch, {}, View()),
        config=LABEL,
        resources=Resources(teachers=1),
    )


def rows(table: Any, name: str) -> np.ndarray:
    return table.column(name).combine_chunks().flatten().to_numpy().reshape(len(table), -1).copy()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_scores_are_those_of_open_clip_and_the_same_bytes_from_stored_features(
    ray_local, theirs, file, tmp_path, monkeypatch
):
    root, images = Root.open(str(tmp_path / "root")), digit_images()[0][:50]
    corpus = Corpus(uri=(str(write_parquet(tmp_path / "a.parquet", [*images, b"no picture"])),))
    shards, trunk = index_corpus(root, "unlabeled", corpus), frozen(root, file)
    monkeypatch.setattr(zero_shot, "CHUNK", 10)  # two tasks: their rows must be those of one call of open_clip
    teacher = make_zero_shot(root, trunk, file, NAMES, TEMPLATES)
    assert teacher.name == "teacher" and teacher.info["templates"] == list(TEMPLATES)
    assert teacher.info["names"] == list(NAMES) and teacher.info["classes"] == 12

    def scores(to: Root, features: Artifact | None) -> Artifact:
        source = TrainedNetwork(
            network=teacher, view=trunk.view, config=LABEL, resources=trunk.resources, features=features
        )
        return source.label(to, corpus, shards)

    with scored_in_this_process(tmp_path):
        plain = scores(Root.open(str(tmp_path / "plain")), None)
        stored = trunk.features(root, corpus, shards)
    monkeypatch.setattr(stage, "score", None)  # nothing is read
    ranked = scores(root, stored)
    assert ranked.digest == plain.digest and contents(ranked) == contents(plain)
    assert ranked.info["reasons"] == {"unrecognized": 1}

    pixels = normalise(torch.from_numpy(np.stack([eval_pixels(one, trunk.view) for one in images])), trunk.view)
    with torch.inference_mode():
        tokenizer = open_clip.get_tokenizer(SMALLEST)
        classifier = open_clip.build_zero_shot_classifier(theirs, tokenizer, NAMES, TEMPLATES)
        unit = torch.cat([theirs.encode_image(some, normalize=True) for some in pixels.split(30)])
        logits = theirs.logit_scale.exp() * unit @ classifier
        head: Any = load_model(teacher).get_submodule("head")
        assert torch.equal(head.weight, theirs.logit_scale.exp() * classifier.T) and not head.bias.any()
    found = ranked.table("scores-", SCORES)
    classes = torch.from_numpy(rows(found, "classes").astype(np.int64))
    of_mine = torch.from_numpy(rows(found, "logits"))
    assert (of_mine - logits.gather(1, classes)).abs().max() < 0.02  # features are rounded to float16
    best, _, values = top_classes(logits, 3)
    clear = values[:, 0] - values[:, 1] > 0.04
    assert clear.sum() > 20 and torch.equal(classes[clear, 0], best[clear, 0].long())


@pytest.mark.long
def test_other_names_and_templates_are_another_head(ray_local, file, tmp_path, monkeypatch):
    monkeypatch.setattr(zero_shot, "_embed_all", lambda *_: (np.zeros((12, 256)), np.zeros(12)))
    root = Root.open(str(tmp_path / "root"))
    trunk = frozen(root, file)
    made = [
        make_zero_shot(root, trunk, file, names, templates)
        for names, templates in [(NAMES, TEMPLATES), (NAMES, TEMPLATES), (NAMES[::-1], TEMPLATES), (NAMES, ("a {}.",))]
    ]
    assert made[0].uri == made[1].uri and len({one.digest for one in made}) == 3


def test_names_are_those_of_the_classes_or_of_a_file(tmp_path: Path):
    head, file = Head(kind="zero-shot"), tmp_path / "names.txt"
    assert texts_of(head, ("golden_retriever", "cat")) == ("golden retriever", "cat")
    file.write_text("tench\n great white shark \n")
    given = replace(head, names=str(file))
    assert texts_of(given, ("n01440764", "n01484850")) == ("tench", "great white shark")
    with pytest.raises(
        InputError, match="names.txt', which has 2 names, but there are 3 classes: give one name per line"
    ):
        texts_of(given, ("a", "b", "c"))
    file.write_text("tench\n\nshark\n")
    with pytest.raises(InputError, match="names.txt', which has an empty line, but there are 3 classes"):
        texts_of(given, ("a", "b", "c"))
    with pytest.raises(InputError, match="cannot read '.*none.txt' as a UTF-8 text file"):
        texts_of(replace(head, names=str(tmp_path / "none.txt")), ("a",))


def test_names_that_are_no_words_or_are_equal_are_a_warning():
    assert text_warnings(["cat", "crane 2", "7-Eleven", "Ōtsu", "猫"]) == []
    (text,) = text_warnings(["n01440764", "0", "12.5", "cat"])
    assert text.startswith("3 of 4 names of classes are no words ('n01440764', '0', '12.5')")
    (text,) = text_warnings(["crane", "maillot", "crane"])
    assert text.startswith("several classes have the name 'crane', which a zero-shot head cannot tell apart")


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"templates": ()}, "^teacher.head.templates is empty: give one or more, such as 'a photo of a {}.'"),
        ({"templates": ("a photo",)}, "^teacher.head.templates has 'a photo': give {} once in each"),
        ({"templates": ("{} or {}",)}, "has '{} or {}': give {} once"),
        ({"templates": ("a {name} {}",)}, "give {} once in each, and no other brace"),
        ({"kind": "logistic", "names": "a.txt"}, "^teacher.head.names is 'a.txt', which only a zero-shot head has"),
        ({"kind": "logistic", "templates": ("a {}",)}, "which only a zero-shot head has: leave it out"),
        ({"kind": "words"}, "^teacher.head.kind is 'words': give 'none' or 'logistic' or 'zero-shot'"),
    ],
)
def test_what_a_head_cannot_have_is_an_error(fields: dict, error: str):
    with pytest.raises(InputError, match=error):
        Head(**{"kind": "zero-shot", **fields}).check("teacher.head")


def test_only_networks_of_open_clip_have_a_zero_shot_head():
    head = Head(kind="zero-shot")
    with pytest.raises(
        InputError, match="^teacher.head.kind is 'zero-shot', but teacher.model.arch is 'resnet18', whic"
    ):
        Teacher(model=Model(arch="resnet18"), checkpoint="a.pt", head=head)
    with pytest.raises(InputError, match="^teacher.head.kind is 'zero-shot', but there are no weights of a network"):
        Teacher(model=MODEL, train=digits().teacher.train, head=head)
    assert Teacher(model=MODEL, checkpoint="a.pt", head=head).checked
    assert not Teacher(model=MODEL, checkpoint="a.pt", head=Head(kind="logistic")).checked


def test_the_identity_of_other_heads_has_no_field_of_a_zero_shot_head():
    assert identity_of(Head()).keys() == {"kind", "strengths", "folds"}
