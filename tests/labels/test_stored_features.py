"""SCORES that a head computes from stored FEATURES, against those of the whole network: the same bytes, and no sample
is read.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
import torch
from cloud import Cloud
from helpers import DIGITS_VIEW, contents, digit_images, random_model, write_parquet
from ray.exceptions import RayTaskError
from scoring import keys_table, scored_in_this_process

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus, index_corpus, units
from raylabel.inference import network, stored
from raylabel.inference import scores as stage
from raylabel.inference.features import features_of
from raylabel.inference.log_odds import top_classes
from raylabel.inference.network import rank_classes
from raylabel.labels.features import Frozen, make_head
from raylabel.labels.teacher import Label, TrainedNetwork
from raylabel.labels.truth import GivenLabels
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.head import head_of
from raylabel.models.trunk import Headed
from raylabel.plan import traffic
from raylabel.plan.traffic import Traffic
from raylabel.schema import SCORES
from raylabel.store.artifact import Artifact, Root
from raylabel.store.reject_limit import RejectTally
from raylabel.training.head import Head

MODEL = Model(arch="resnet8x1")
LABEL = Label(batch=40, p=3, precision="fp32", reject_limit=0.5)  # no unit below is a multiple of it
HEAD = Head(kind="logistic", strengths=(10.0,))


@dataclass(frozen=True)
class Set:
    """A corpus of digits, and what is made of it in a root."""

    root: Root
    corpus: Corpus

    def to(self, root: Path) -> "Set":
        """The same corpus in an empty root."""
        return replace(self, root=Root.open(str(root)))

    @cached_property
    def shards(self) -> Artifact:
        return index_corpus(self.root, "unlabeled", self.corpus)

    def frozen(self, retry: bool = False) -> Frozen:
        return Frozen(
            model=MODEL,
            weights=random_model(self.root),
            view=DIGITS_VIEW,
            config=LABEL,
            resources=Resources(teachers=1),
            retry_rejects=retry,
            thumbnails=True,
        )

    def features(self, retry: bool = False) -> Artifact:
        return self.frozen(retry).features(self.root, self.corpus, self.shards)

    def teacher(self) -> Artifact:
        labels = GivenLabels().label(self.root, self.corpus, self.shards)
        return make_head(self.root, self.frozen(), self.features(), labels, HEAD, seed=1)

    def source(self, teacher: Artifact, features: Artifact | None, retry: bool = False) -> TrainedNetwork:
        return TrainedNetwork(
            network=teacher,
            view=DIGITS_VIEW,
            config=LABEL,
            resources=Resources(teachers=1),
            retry_rejects=retry,
            features=features,
            thumbnails=True,
        )

    def scores(self, teacher: Artifact, features: Artifact | None, retry: bool = False) -> Artifact:
        return self.source(teacher, features, retry).label(self.root, self.corpus, self.shards)


@pytest.fixture(scope="module")
def made(ray_local, tmp_path_factory) -> Iterator[tuple[Set, Artifact]]:
    """A root with FEATURES of 500 digits, in 5 units and 3 parts, and a teacher. 4 digits cannot be read."""
    folder = tmp_path_factory.mktemp("stored")
    images, labels = digit_images()
    media: list[bytes | None] = list(images[:500])
    media[3] = media[139] = b"no picture"
    media[250] = media[499] = None
    corpus = Corpus(uri=(str(write_parquet(folder / "b.parquet", media, labels[:500])),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "UNIT", 100)
        patch.setattr(stage, "PART", 2)
        digits = Set(Root.open(str(folder / "root")), corpus)
        yield digits, digits.teacher()


@pytest.fixture
def digits(made: tuple[Set, Artifact], tmp_path: Path) -> Set:
    """In a copy of the root."""
    shutil.copytree(made[0].root.uri, tmp_path / "root")
    return made[0].to(tmp_path / "root")


@pytest.mark.long
def test_of_a_subset_the_bytes_are_those_of_the_whole_network(digits: Set, teacher: Artifact, tmp_path: Path):
    subset = keys_table(digits.root, np.array([0, 3, *range(60, 180), 250, 498, 499]), 2)
    other, found = digits.to(tmp_path / "other"), []
    with scored_in_this_process(tmp_path):
        features = replace(digits.frozen(), subset=subset).features(digits.root, digits.corpus, digits.shards)
        for one, stored_features in ((digits, features), (other, None)):
            source = replace(digits.source(teacher, stored_features), subset=subset)
            found.append(source.label(one.root, one.corpus, one.shards))
    assert contents(found[0]) == contents(found[1]) and features.info["samples"] == 125
    assert (found[0].info["scored"], found[0].info["rejected"]) == (121, 4)


@pytest.fixture
def teacher(made: tuple[Set, Artifact]) -> Artifact:
    return made[1]


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_bytes_are_those_of_the_whole_network_and_nothing_is_read(digits, teacher, tmp_path, monkeypatch):
    plain = digits.to(tmp_path / "plain").scores(teacher, None)
    features = digits.features()
    monkeypatch.setattr(stage, "verify_packed", None)  # the corpus is not even opened
    monkeypatch.setattr(stage, "score", None)
    made = digits.scores(teacher, features)
    assert made.digest == plain.digest and contents(made) == contents(plain)
    assert made.info["reasons"] == plain.info["reasons"] == {"unrecognized": 2, "missing": 2}
    assert len(made.table("scores-", SCORES)) == 496


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_stopped_pass_resumes_and_a_grown_corpus_is_ranked_where_it_is_new(digits, teacher, tmp_path, monkeypatch):
    features = digits.features()
    other = tmp_path / "other"
    shutil.copytree(digits.root.uri, other)
    whole = digits.to(other).scores(teacher, features)

    class StoppedError(Exception):
        pass

    def stop(self: RejectTally) -> None:
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(RejectTally, "check", stop)
        with pytest.raises(StoppedError):
            digits.scores(teacher, features)
    (parts,) = (Path(digits.root.uri) / f"scores-{whole.digest}").glob("parts")
    kept = {path.name: path.stat().st_mtime_ns for path in parts.iterdir()}
    assert kept
    found = digits.scores(teacher, features)
    assert contents(found) == contents(whole)

    images, labels = digit_images()
    more = str(write_parquet(tmp_path / "a.parquet", list(images[500:650]), labels[500:650]))
    grown = replace(digits, corpus=Corpus(uri=(more, *digits.corpus.uri)))
    features = grown.features()
    assert features.info["images"] == 150
    found = grown.scores(teacher, features)
    assert (found.info["images"], found.info["earlier"], found.info["rejected"]) == (150, 500, 4)
    assert contents(found) == contents(grown.to(tmp_path / "plain").scores(teacher, None))


def dying(when: str, marker: Path) -> Any:
    """The task that ranks parts, whose process is killed once: 'before' or 'after' it has written its first part."""

    @ray.remote(max_retries=3)
    def rank(*arguments: Any) -> Any:
        from raylabel.inference import stored  # that of the worker, which is not patched

        write = stored.write_part

        def write_and_die(*inner: Any) -> Any:
            if marker.exists():
                return write(*inner)
            marker.touch()
            if when == "after":
                write(*inner)
            os.kill(os.getpid(), signal.SIGKILL)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stored, "write_part", write_and_die)
            task: Any = stored._rank
            return task._function(*arguments)

    return rank


@pytest.mark.long
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.timeout(300)
def test_a_killed_task_ranks_its_parts_again(digits, teacher, tmp_path, monkeypatch, when):
    features = digits.features()
    shutil.copytree(digits.root.uri, tmp_path / "quiet")
    quiet = digits.to(tmp_path / "quiet").scores(teacher, features)
    monkeypatch.setattr(stored, "_rank", dying(when, tmp_path / "killed"))
    found = digits.scores(teacher, features)
    assert (tmp_path / "killed").exists()
    assert contents(found) == contents(quiet)
    assert (found.info["images"], found.info["rejected"]) == (500, 4)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_requests_to_an_object_store_are_as_planned(digits, teacher, server: Cloud, bucket: str, monkeypatch):
    monkeypatch.setattr(units, "UNIT", 40)
    monkeypatch.setattr(stage, "PART", 1)
    far = Set(Root.open(f"{bucket}/root"), digits.corpus)
    features = far.features()
    assert far.shards
    with server.counting() as found:
        made = far.scores(teacher, features)
    parts = len(made.files("scores-"))
    assert parts == 13
    rows = [
        sum(f.bytes for f in one.files(prefix)) / 496 for one, prefix in ((features, "features-"), (made, "scores-"))
    ]
    asked = found.of("", "GET", "HEAD"), found.of("", "PUT", "POST", "LIST")
    counted = Traffic(len(asked[0]), len(asked[1]), asked[0].of("", "GET").bytes, asked[1].of("", "PUT").bytes)
    planned = traffic.rank_stored(500, parts, *rows)
    for field in fields(Traffic):
        value, expected = getattr(counted, field.name), getattr(planned, field.name)
        print(f"{field.name}: predicted {expected:,.0f}, counted {value:,}")
    for field in fields(Traffic):
        assert getattr(planned, field.name) == pytest.approx(getattr(counted, field.name), rel=0.2), field.name


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_rejects_that_can_be_read_now_are_ranked_from_their_new_features(digits, teacher, tmp_path):
    folder, away = tmp_path / "loose", tmp_path / "away.png"
    folder.mkdir()
    for row, media in enumerate(digit_images()[0][500:650]):
        (folder / f"{row:03d}.png").write_bytes(media)
    loose = replace(digits, corpus=Corpus(uri=(str(folder),)))
    assert loose.shards.info["samples"] == 150
    (folder / "007.png").rename(away)
    first = loose.scores(teacher, loose.features())
    assert first.info["reasons"] == {"missing": 1}
    assert loose.scores(teacher, loose.features(retry=True), retry=True).uri == first.uri

    away.rename(folder / "007.png")
    fixed = loose.features(retry=True)
    assert fixed.info["rejected"] == 0 and loose.scores(teacher, fixed).uri == first.uri
    second = loose.scores(teacher, fixed, retry=True)
    assert (second.info["rejected"], second.info["images"], second.info["earlier"]) == (0, 1, 149)
    assert loose.scores(teacher, loose.features()).uri == second.uri
    plain = loose.to(tmp_path / "plain").scores(teacher, None)
    ours, theirs = (one.table("scores-", SCORES) for one in (second, plain))
    assert ours.select(["key", "digest", "classes"]).equals(theirs.select(["key", "digest", "classes"]))
    others = pa.array(np.arange(150) != 7)  # the retried sample has other neighbours in its batch
    assert ours.filter(others).equals(theirs.filter(others))


def test_features_that_lack_samples_are_an_error_that_says_what_to_delete(digits, teacher):
    features = digits.features()
    Path(features.uri, "rejects-000001.parquet").unlink()
    with pytest.raises(RayTaskError, match="lacks 1 samples: delete it and run again"):
        digits.scores(teacher, features)


@pytest.mark.parametrize("step", [3, 7, 64])
def test_a_head_gets_the_whole_batch_however_many_images_the_network_takes_at_a_time(monkeypatch, step):
    view = View(size=8, resize=8)
    monkeypatch.setattr(network, "CACHED", step * 64)
    torch.manual_seed(0)
    module = build(replace(MODEL, features="unit"), 20).eval()
    head = module.get_submodule(head_of(module))
    assert isinstance(head, torch.nn.Linear)
    weight, bias = head.weight, head.bias
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8))
    headed = Headed(module)
    found = rank_classes(headed, pixels, view, "fp32", 4)
    rows, _ = features_of(headed.trunk, pixels, view, "fp32")
    with torch.inference_mode():
        wanted = top_classes(torch.nn.functional.linear(rows.float(), weight, bias), 4)
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.numpy().tobytes() == theirs.numpy().tobytes()
