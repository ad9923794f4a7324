"""FEATURES and heads on them, against a plain forward pass and scikit-learn."""

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import actors_among, descendants
from helpers import DIGITS_VIEW, contents, digit_images, random_model, write_parquet
from scoring import scored_in_this_process
from sklearn.linear_model import LogisticRegression
from torch import nn

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus, index_corpus, units
from raylabel.inference import scores as stage
from raylabel.inference.features import features_of
from raylabel.labels.features import Frozen, make_head
from raylabel.labels.teacher import Label, TrainedNetwork
from raylabel.labels.truth import GivenLabels
from raylabel.media.image_views import eval_pixels, normalise
from raylabel.media.view import Clip, View
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.init import PENULTIMATE
from raylabel.models.trained import load_model
from raylabel.models.trunk import trunk, width_of
from raylabel.schema import SCORES, check, features_schema
from raylabel.store.artifact import Artifact, Root
from raylabel.store.reject_limit import RejectTally
from raylabel.training.head import Head

MODEL = Model(arch="resnet8x1")
CONFIG = Label(batch=32, p=10, precision="fp32", reject_limit=0.5)


def frozen(root: Root, layer: str = "penultimate") -> Frozen:
    return Frozen(
        model=MODEL,
        weights=random_model(root),
        view=DIGITS_VIEW,
        config=CONFIG,
        resources=Resources(teachers=1),
        layer=layer,
    )


def plain(root: Root, media: list[bytes], layer: str) -> np.ndarray:
    """The output of a layer before the head, averaged over positions; float32 [N, D]."""
    module, seen = load_model(random_model(root)).eval(), []
    module.get_submodule(layer).register_forward_hook(lambda _, __, output: seen.append(output.flatten(2).mean(2)))
    pixels = np.stack([eval_pixels(one, DIGITS_VIEW) for one in media])
    with torch.inference_mode():
        module(normalise(torch.from_numpy(pixels), DIGITS_VIEW))
    return seen[0].numpy()


def matrix(features: Artifact) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(keys int64 [N], features float16 [N, D], norms float32 [N])"""
    schema = features_schema(features.info["p"])
    table = check(features.table("features-", schema), schema, features.uri)
    rows = table.column("feature").combine_chunks().flatten().to_numpy()
    return table.column("key").to_numpy(), rows.reshape(len(table), -1), table.column("norm").to_numpy()


@pytest.mark.timeout(200)
def test_features_are_those_of_a_plain_pass_and_a_head_on_them_gives_the_same_scores(ray_local, tmp_path, monkeypatch):
    monkeypatch.setattr(units, "UNIT", 100)
    monkeypatch.setattr(stage, "PART", 2)
    images, labels = digit_images()
    media: list[bytes | None] = list(images[:500])
    media[3], media[499] = b"no picture", None
    good = [row for row in range(500) if row not in (3, 499)]
    corpus = Corpus(uri=(str(write_parquet(tmp_path / "a.parquet", media, labels[:500])),))
    root = Root.open(str(tmp_path / "root"))
    shards = index_corpus(root, "labeled", corpus)
    network = frozen(root)
    with scored_in_this_process(tmp_path):
        features = network.features(root, corpus, shards)
    assert features.name == "features" and len(features.files("features-")) == 3
    assert (features.info["samples"], features.info["scored"], features.info["rejected"]) == (500, 498, 2)
    key, rows, norm = matrix(features)
    expected = plain(root, [images[row] for row in good], "layer3")
    assert key.tolist() == good and rows.shape == (498, 64)
    np.testing.assert_allclose(norm, np.linalg.norm(expected, axis=1), rtol=1e-5)
    np.testing.assert_allclose(rows * norm[:, None].astype(np.float64), expected, atol=2e-3 * norm.max())
    np.testing.assert_allclose(np.linalg.norm(rows.astype(np.float64), axis=1), 1, atol=1e-3)
    scores = TrainedNetwork(
        network=random_model(root), view=DIGITS_VIEW, config=CONFIG, resources=Resources(teachers=1)
    )
    with scored_in_this_process(tmp_path):
        ranked = scores.label(root, corpus, shards).table("scores-", SCORES)
    table = features.table("features-", features_schema(64))
    assert table.select(["key", "digest", "group"]).equals(ranked.select(["key", "digest", "group"]))

    given, config = GivenLabels().label(root, corpus, shards), Head(kind="logistic", strengths=(1.0, 100.0), folds=3)
    teacher = make_head(root, network, features, given, config, seed=1)
    info = teacher.info
    assert (info["samples"], info["without"], info["classes"]) == (498, 2, 10)
    assert [one["strength"] for one in info["validation"]] == [1.0, 100.0] and info["strength"] in (1.0, 100.0)
    x, y = rows.astype(np.float64), labels[:500][good]
    model = LogisticRegression(C=info["strength"], tol=1e-6, max_iter=5000).fit(x, y)
    head = load_model(teacher).get_submodule("fc")
    assert isinstance(head, nn.Linear)
    weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
    np.testing.assert_allclose(x @ weight.T + bias, model.decision_function(x), atol=1e-3)
    source = TrainedNetwork(network=teacher, view=DIGITS_VIEW, config=CONFIG, resources=Resources(teachers=1))
    with scored_in_this_process(tmp_path):
        made = source.label(root, corpus, shards).table("scores-", SCORES)
    stored = torch.from_numpy(rows.copy()).float() @ head.weight.T + head.bias
    found = torch.tensor(made.column("logits").to_pylist())
    order = torch.tensor(made.column("classes").to_pylist()).long()
    assert torch.allclose(stored.gather(1, order), found, atol=1e-5)
    assert (model.predict(x) == order[:, 0].numpy()).all()
    assert make_head(root, network, features, given, config, seed=1).uri == teacher.uri
    assert make_head(root, network, features, given, replace(config, folds=4), seed=1).uri != teacher.uri


def test_the_feature_of_a_video_is_that_of_the_mean_of_its_clips():
    view = View(size=8, resize=8, clip=Clip(frames=4, count=3))
    pixels = np.random.default_rng(0).integers(0, 256, (2, *view.eval_shape), np.uint8)
    torch.manual_seed(0)
    module = trunk(build(Model(arch="r2plus1d8x1"), 5)).eval()
    rows, norm = features_of(module, torch.from_numpy(pixels), view, "fp32")
    with torch.inference_mode():
        clips = [[module(normalise(torch.from_numpy(clip[None]), view))[0] for clip in video] for video in pixels]
    mean = torch.stack([torch.stack(one).mean(0) for one in clips])
    assert torch.allclose(rows.float() * norm[:, None], mean, atol=2e-3 * norm.max().item())
    assert width_of(Model(arch="r2plus1d8x1"), PENULTIMATE, (3, 4, 8, 8)) == rows.shape[1]


@pytest.mark.slow
def test_features_of_a_layer_and_of_a_grown_corpus(ray_local, tmp_path, monkeypatch):
    monkeypatch.setattr(units, "UNIT", 64)
    monkeypatch.setattr(stage, "PART", 3)
    images, _ = digit_images()
    folder = tmp_path / "corpus"
    folder.mkdir()
    write_parquet(folder / "b.parquet", [*images[:200], b"no picture"])
    root, made = Root.open(str(tmp_path / "root")), []
    corpus = Corpus(uri=(str(folder),))
    for name in "b", "a":
        if name == "a":
            write_parquet(folder / "a.parquet", list(images[200:300]))
        made.append(frozen(root, "layer2").features(root, corpus, index_corpus(root, "unlabeled", corpus)))
    key, rows, norm = matrix(made[1])
    expected = plain(root, images[:300], "layer2")
    at = [200 + (k & 0xFFFFFFFF) if k >> 32 == 0 else k & 0xFFFFFFFF for k in key.tolist()]
    np.testing.assert_allclose(rows * norm[:, None].astype(np.float64), expected[at], atol=2e-3 * norm.max())
    assert (made[1].info["images"], made[1].info["earlier"], made[1].info["rejected"]) == (100, 201, 1)
    assert rows.shape[1] == 32
    other = Root.open(str(Path(tmp_path / "other")))
    again = frozen(other, "layer2").features(other, corpus, index_corpus(other, "unlabeled", corpus))
    assert again.digest == made[1].digest and contents(again) == contents(made[1])


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_features_are_the_same_bytes_after_a_stop_and_killed_actors(ray_local, tmp_path, monkeypatch):
    monkeypatch.setattr(units, "UNIT", 64)
    monkeypatch.setattr(stage, "PART", 2)
    images, _ = digit_images()
    media = [b"no picture" if row % 200 == 7 else one for row, one in enumerate(images)]
    corpus, made = Corpus(uri=(str(write_parquet(tmp_path / "a.parquet", media)),)), []

    class StoppedError(Exception):
        pass

    def features(name: str) -> Artifact:
        root = Root.open(str(tmp_path / name))
        network = replace(frozen(root), resources=Resources(teachers=1 if name == "quiet" else 2))
        return network.features(root, corpus, index_corpus(root, "unlabeled", corpus))

    made.append(features("quiet"))
    parts = tmp_path / "faulty" / f"features-{made[0].digest}" / "parts"

    def stop(self: RejectTally) -> None:
        if len(list(parts.iterdir())) >= 3:
            raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(RejectTally, "check", stop)
        with pytest.raises(StoppedError):
            features("faulty")
    before = {path.name for path in parts.iterdir()}
    killed = []

    def kill() -> None:
        while not killed:
            if {path.name for path in parts.iterdir()} - before and (actors := actors_among(descendants(os.getpid()))):
                killed.append(actors[0])
                os.kill(actors[0], signal.SIGKILL)
            time.sleep(0.05)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    made.append(features("faulty"))
    assert killed and 3 <= len(before) < 15
    assert contents(made[0]) == contents(made[1]) and made[0].info["rejected"] == made[1].info["rejected"] == 9
    assert 0 < made[1].info["images"] <= 1797 - 128 * len(before)  # tasks may have committed more after the stop
