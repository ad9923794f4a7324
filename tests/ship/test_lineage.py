"""From labels to weights, licences of given weights, soups, and real samples of videos, in made-up roots."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import videos
from helpers import random_model

from raylabel.corpus import Corpus, index_corpus
from raylabel.errors import InputError
from raylabel.evaluate.results import Metric
from raylabel.labels.teacher import Label
from raylabel.media.image_views import normalise
from raylabel.media.video_views import eval_clips
from raylabel.media.view import Clip, View
from raylabel.report.summary import MODELS
from raylabel.ship.card import measured
from raylabel.ship.card_history import licence_section, lineage_section, training
from raylabel.ship.lineage import lineage
from raylabel.ship.samples import real_samples
from raylabel.ship.shipped import Shipped, find_network
from raylabel.store.artifact import Artifact, Built, Root, identity_of, write_bytes
from raylabel.store.files import write_file
from raylabel.store.names import SUMMARY
from raylabel.sweep.result import Soup, Sweep
from raylabel.sweep.soup import average

VIEW = View(size=8, resize=8)
CLASSES = tuple(map(str, range(10)))


def made(root: Root, name: str, **identity: Any) -> Artifact:
    return root.make(name, identity, lambda draft: Built([write_bytes(draft.uri, "a", b"")], {"content": "0" * 12}))


def shipped(root: Root, network: Artifact, *used: Artifact, view: View = VIEW, **settings: Any) -> Shipped:
    artifacts = {one.uri.rpartition("/")[2]: one.uri.rpartition("/")[2] for one in (network, *used)}
    run = {"settings": settings, "artifacts": artifacts, "classes": list(CLASSES), "metrics": []}
    return Shipped(root=root, network=network, view=view, label=Label(), classes=CLASSES, run=run)


def test_lineage_has_each_input_before_what_is_made_from_it(tmp_path: Path) -> None:
    root = Root.open(str(tmp_path))
    shards = made(root, "shards-labeled", uri="a")
    truth = made(root, "truth", shards="0" * 12)  # the digest of the contents, not that of the artifact
    examples = made(root, "examples-labeled", picks=truth.digest)
    teacher = made(root, "teacher", examples=examples.digest, train={"n": 1})
    scores = made(root, "scores", source={"model": teacher.digest, "view": {}}, corpora=["b", {"c": "d"}])
    pretrained = made(root, "pretrained", examples=[scores.digest], init=None)
    student = made(root, "student", examples=examples.digest, init=pretrained.digest)
    made(root, "control", examples=examples.digest)
    steps = lineage(shipped(root, student, shards))
    order = [one.folder for one in steps]
    assert order[-1] == f"student-{student.digest}"
    assert sorted(order) == sorted(
        one.uri.rpartition("/")[2] for one in (shards, truth, examples, teacher, scores, pretrained, student)
    )
    inputs = {one.folder: set(one.inputs) for one in steps}
    for number, folder in enumerate(order):
        assert inputs[folder] <= set(order[:number])
    assert inputs[order[-1]] == {f"examples-labeled-{examples.digest}", f"pretrained-{pretrained.digest}"}
    assert inputs[f"truth-{truth.digest}"] == {f"shards-labeled-{shards.digest}"}
    text = lineage_section(steps)
    assert f"network: {MODELS['teacher']}, from `examples-labeled-{examples.digest}`" in text
    assert text.count("\n") == len(steps) + 1
    assert licence_section({}, steps).startswith("None: every network")


@pytest.mark.parametrize(
    "source, checkpoint, words",
    [
        ("ResNet50_Weights.IMAGENET1K_V2", "", "torchvision states no licence for it. How it was trained: https://"),
        ("ViT_B_16_Weights.IMAGENET1K_SWAG_LINEAR_V1", "", "under https://github.com/facebookresearch/SWAG/blob/main/"),
        ("f" * 64, "a`b.pt", f"the checkpoint ``a`b.pt`` with sha256 `{'f' * 64}`; its licence is not known"),
    ],
)
def test_licences_of_given_weights(tmp_path: Path, source: str, checkpoint: str, words: str) -> None:
    root = Root.open(str(tmp_path))
    teacher = made(root, "teacher", model={"arch": "resnet50"}, classes=10, source=source)
    student = made(root, "student", examples=teacher.digest)
    settings = {"teacher": {"checkpoint": checkpoint}}
    text = licence_section(settings, lineage(shipped(root, student)))
    assert text.startswith(f"- `teacher-{teacher.digest}` (this network depends on it): ") and words in text
    assert "(these are its weights)" in licence_section(settings, lineage(shipped(root, teacher)))
    assert text.count("\n") == 0


def test_licences_of_weights_that_a_training_started_from(tmp_path: Path) -> None:
    root = Root.open(str(tmp_path))
    file = root.make("weights", {"source": "f" * 64, "arch": "resnet50"}, lambda _: Built([], {"source": "a.pt"}))
    pretrained = made(root, "pretrained", init=file.digest)
    text = licence_section({"teacher": {}}, lineage(shipped(root, made(root, "student", init=pretrained.digest))))
    assert text.startswith(f"- `weights-{file.digest}` (this network depends on it): the checkpoint `a.pt` with sha256")
    assert text.count("\n") == 0
    student = made(root, "student", init="0123456789ab")
    text = licence_section({"teacher": {}}, lineage(shipped(root, student)))
    assert text == (
        f"- `student-{student.digest}` started from weights of another root, `0123456789ab`: state their licence."
    )


def test_a_training_in_words(tmp_path: Path) -> None:
    schedule = {"lr": 0.05, "warmup": 0, "warmup_lr": None, "drops": 3}
    train = {"images": 6400, "schedule": schedule, "batch": 64, "weight_decay": 1e-4}
    view = {"size": 8, "mean": [0.5] * 3, "std": [0.5] * 3, "clip": {"frames": 8, "stride": 2}}
    network = made(Root.open(str(tmp_path)), "x", model={"arch": "a"}, train=train, view=view, init="i", seed=3)
    assert training(network) == (
        "`a` from the weights of `i`; 6,400 samples, each pass counted, in batches of 64; lr 0.05, warmup 0, drops 3; "
        "weight decay 0.0001; seed 3. Training views: size 8, clip (frames 8, stride 2). Trained on hardware that is "
        "not recorded."
    )


def metric(name: str, value: float) -> Metric:
    ends = {"low": value - 0.1, "high": value + 0.1}
    return Metric(model="soup", seed=0, dataset="d", split="test", metric=name, value=value, n=100, **ends)


def test_a_soup_is_found_by_its_sweep(tmp_path: Path) -> None:
    root = Root.open(str(tmp_path / "runs"))
    students = [random_model(root, seed=seed) for seed in range(2)]
    soup = average(root, students)
    settings = {"view": identity_of(VIEW), "teacher": {"view": None}, "label": identity_of(Label())}
    summary = {"settings": settings, "artifacts": {}, "classes": list(CLASSES), "run": "a"}

    def write(name: str) -> Artifact:
        text = json.dumps(summary | {"run": name}).encode()
        return root.make(f"run-{name}", {"run": name}, lambda draft: Built([write_bytes(draft.uri, SUMMARY, text)], {}))

    best = write("best")
    write("other")
    with pytest.raises(InputError, match="no finished run in .* uses"):
        find_network(soup.uri)
    found = Sweep(
        name="a",
        trials=(),
        n=1,
        images=1,
        test=metric("top1", 0.6),
        run=f"/moved/since/{best.uri.rpartition('/')[2]}",
        soup=Soup(
            trials=(0, 1),
            left_out=(),
            artifact=soup.uri.rpartition("/")[2],
            validation=metric("top1", 0.5),
            test=metric("top1", 0.7),
            gain=metric("gain_top1", 0.1),
        ),
    )
    # The computed entries of to_dict are those of a sweep with trials.
    data = {name: getattr(found, name) for name in ("name", "run")} | {"soup": identity_of(found.soup)}
    write_file(f"{root.uri}/sweep-a-0123456789ab/sweep.json", json.dumps(data).encode())
    write_file(f"{root.uri}/sweep-b-0123456789ab/sweep.json", json.dumps({"run": "x", "soup": None}).encode())
    (tmp_path / "runs" / "sweep-c-0123456789ab").mkdir()  # not finished
    one = find_network(soup.uri)
    assert one.run["run"] == "best" and one.view == VIEW and one.sweep and one.sweep["name"] == "a"
    assert [row.value for row in measured(one)] == [0.7]
    steps = lineage(one)
    assert [step.folder for step in steps[-1:]] == [soup.uri.rpartition("/")[2]]
    assert set(steps[-1].inputs) == {student.uri.rpartition("/")[2] for student in students}


def test_samples_of_videos_are_their_middle_clips(ray_local: None, tmp_path: Path) -> None:
    media = [videos.video(videos.scene(20, 24, 16, seed=seed)) for seed in range(3)]
    pq.write_table(pa.table({"video": pa.array([media[0], b"not a video", *media[1:]])}), tmp_path / "a.parquet")
    corpus, root = Corpus(uri=(str(tmp_path / "a.parquet"),), kind="video"), Root.open(str(tmp_path / "runs"))
    view = View(size=12, resize=16, clip=Clip(frames=4, stride=2, count=5))
    network, shards = random_model(root, "r2plus1d8x1"), index_corpus(root, "test", corpus)
    found = real_samples(shipped(root, network, shards, view=view, test=identity_of(corpus)))
    one = View(size=12, resize=16, clip=Clip(frames=4, stride=2, count=1))
    pixels = np.concatenate([eval_clips(data, one) for data in media])
    assert found.shape == (3, 3, 4, 12, 12)  # without the one that cannot be read
    assert torch.equal(found, normalise(torch.from_numpy(pixels), view))


@pytest.mark.long
def test_a_test_set_that_cannot_be_read_is_an_error(ray_local: None, tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": pa.array([b"no picture"])}), tmp_path / "a.parquet")
    corpus, root = Corpus(uri=(str(tmp_path / "a.parquet"),)), Root.open(str(tmp_path / "runs"))
    shards = index_corpus(root, "test", corpus)
    with pytest.raises(InputError, match=r"none of 1 samples of the test set \(.*a.parquet\) can be read"):
        real_samples(shipped(root, random_model(root), shards, test=identity_of(corpus)))
