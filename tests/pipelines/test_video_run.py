"""The main job on video: the embedded moving digits, end to end, and a network that sees only single frames."""

import base64
import io
import json
import re
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import contents, example_rows, open_in_chromium, random_model

from raylabel import datasets
from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus, Shards, index_corpus
from raylabel.datasets.moving_digits import DIRECTIONS, SPLIT
from raylabel.errors import InputError
from raylabel.evaluate.classify import wilson
from raylabel.labels.teacher import Label, TrainedNetwork
from raylabel.labels.truth import GivenLabels
from raylabel.media.view import Clip, View
from raylabel.models import Model
from raylabel.pipelines.inputs import prepare
from raylabel.pipelines.semi_supervised import Run
from raylabel.recipes import registry as recipes
from raylabel.recipes.recipe import Recipe
from raylabel.report.run import write_report
from raylabel.report.summary import Summary
from raylabel.schema import PICKS, SCORES
from raylabel.selection.config import Select
from raylabel.selection.duplicates import find_duplicates
from raylabel.selection.select import select
from raylabel.store.artifact import Artifact, Root
from raylabel.training.config import Train
from raylabel.training.examples import materialize
from raylabel.training.media import Materialize, WritingTask
from raylabel.training.schedule import Schedule
from raylabel.training.stream import Stream
from raylabel.training.task import TrainingTask
from raylabel.training.train import train

CHANCE = 1 / len(DIRECTIONS)


def short() -> Recipe:
    """Very little training, so the networks learn almost nothing: these tests do not check accuracy."""
    recipe = recipes.moving_digits()
    assert recipe.teacher.train
    few = replace(recipe.teacher.train, images=128)
    return replace(
        recipe,
        teacher=replace(recipe.teacher, train=few),
        select=replace(recipe.select, p=8),
        pretrain=few,
        finetune=replace(recipe.finetune, images=64),
    )


@pytest.fixture(scope="module")
def output() -> io.StringIO:
    """What the run prints."""
    return io.StringIO()


@pytest.fixture(scope="module")
def run(ray_local, tmp_path_factory, output: io.StringIO) -> tuple[Root, Artifact, Summary]:
    root = Root.open(str(tmp_path_factory.mktemp("root")))
    with redirect_stdout(output):
        return root, *write_report(Run(root, short()))


@pytest.mark.slow
def test_every_video_is_accounted_for_and_counted_once(run):
    root, _, summary = run
    counts = summary.counts
    assert counts.samples == 1797 - 8 * sum(SPLIT.values()) == counts.scored and not counts.rejected
    for metric in ("top1", "clip_top1"):
        assert [row.n for row in summary.metrics if row.metric == metric] == [400] * 4
    assert summary.classes == sorted(DIRECTIONS) and summary.picks.per_class == [100] * 8
    (scores,) = (a for a in root.named("scores") if a.info["samples"] == counts.samples)
    rows = scores.table("scores-", SCORES)
    assert {len(clips) for clips in rows["clips"].to_pylist()} == {3}
    assert len(set(rows["group"].to_pylist())) == counts.samples  # each is its own source


@pytest.mark.slow
def test_stages_count_videos_and_training_clips(run, output):
    ends = re.findall(r"^(.+?): ([\d,]+) of \2 (\w+),.* in \d", output.getvalue(), re.MULTILINE)
    assert {(stage, unit) for stage, _, unit in ends} == {
        *((f"train {name}", "clips") for name in ("teacher", "pretrained", "student", "control")),
        *((stage, "videos") for stage in ("materialize labeled", "materialize picked", "label unlabeled by teacher")),
        *((f"label test by {name}", "videos") for name in ("teacher", "pretrained", "student", "control")),
        *((stage, "samples") for stage in ("find duplicates", "select")),
    }
    assert "image" not in output.getvalue() and "clips processed" in run[1].read("report.html").decode()


@pytest.mark.slow
def test_the_report_plays_the_picked_clips(run, tmp_path):
    _, made, _ = run
    page = made.read("report.html").decode()
    clips = re.findall(r'<video[^>]*src="data:video/mp4;base64,([^"]+)"', page)
    assert len(clips) > 30 and all(base64.b64decode(clip)[4:8] == b"ftyp" for clip in clips)
    assert "<script" not in page
    (tmp_path / "page.html").write_text(page)
    console, _ = open_in_chromium(tmp_path / "page.html", tmp_path)
    assert not console


@pytest.mark.slow
def test_segments_of_a_video_are_samples_of_one_source(ray_local, tmp_path):
    """Videos of two seconds, each in two segments: a class lists only the better one, except with `repeat_videos`."""
    root, view = Root.open(str(tmp_path / "root")), short().view
    media = pq.read_table(f"{datasets.moving_digits(root).uri}/test.parquet")["video"].to_pylist()[:40]
    table = {"video": [*media, *media], "from": [0.0] * 40 + [1.0] * 40, "to": [1.0] * 40 + [None] * 40}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    corpus = Corpus(uri=(str(tmp_path / "a.parquet"),), kind="video", start="from", end="to")
    shards = index_corpus(root, "unlabeled", corpus)
    model = random_model(root, "r2plus1d8x1", 8)
    config = Label(batch=32)
    beside = Resources(teachers=1)
    scores = TrainedNetwork(network=model, view=view, config=config, resources=beside).label(root, corpus, shards)
    duplicates = find_duplicates(root, scores)
    assert scores.info["scored"] == 80 and not duplicates.info["duplicates"]  # segments of one video are not copies
    there = Root.open(str(tmp_path / "there"))
    elsewhere = Resources(decode="cluster", teachers=1)
    decoded = TrainedNetwork(network=model, view=view, config=config, resources=elsewhere).label(
        there, corpus, index_corpus(there, "unlabeled", corpus)
    )
    assert contents(decoded) == contents(scores)  # the same wherever the videos are decoded
    rows = scores.table("scores-", SCORES).sort_by("key")
    groups = rows["group"].to_pylist()
    assert groups[:40] == groups[40:] and len(set(groups)) == 40
    for repeat, per_class in ((False, 40), (True, 80)):
        picks = select(root, scores, duplicates, Select(k=100, p=8, repeat_videos=repeat), DIRECTIONS)
        assert picks.info["per_class"] == [per_class] * 8
        best: dict[tuple[int, int], float] = {}
        for row, classes, values in zip(
            range(80), rows["classes"].to_pylist(), rows["log_odds"].to_pylist(), strict=True
        ):
            for c, value in zip(classes, values, strict=True):
                video = (c, row if repeat else row % 40)
                best[video] = max(value, best[video]) if video in best else value
        found = picks.table("picks", PICKS).sort_by([("label", "ascending"), ("score", "ascending")])
        assert found["score"].to_pylist() == [v for _, v in sorted((c, v) for (c, _), v in best.items())]
    examples = materialize(
        root, "picked", picks, WritingTask(shards=Shards(shards), corpus=corpus, config=Materialize(lanes=4)), 0
    )
    for row in example_rows(examples):  # one second of eight frames, not the whole video
        with av.open(io.BytesIO(row["media"]), "r") as container:
            assert len(list(container.decode(video=0))) == 8
    batches = Stream(examples, 0).batches(view, 16, 0, 16, 0, 1)
    pixels, *_ = next(batches)
    assert pixels.shape == (16, 8, 16, 16, 3) and pixels.std() > 10
    batches.close()


def test_networks_views_and_corpora_must_be_of_one_kind(ray_local, tmp_path):
    root, recipe = Root.open(str(tmp_path)), short()
    for wrong, message in (
        (replace(recipe, student=Model(arch="resnet8x1")), "takes images"),
        (replace(recipe, view=replace(recipe.view, clip=None)), "kind is 'video'"),
        (replace(recipe, unlabeled=replace(recipe.unlabeled, kind="image")), "unlabeled.kind is 'image'"),
        (replace(recipe, student=Model(arch="c3d")), "16 frames"),
        (replace(recipe, teacher=replace(recipe.teacher, view=replace(recipe.view, clip=None))), "differ in whether"),
        (replace(recipe, label=Label(batch=256)), "label.batch is 256"),
    ):
        with pytest.raises(InputError, match=message):
            prepare(root, wrong)


def accuracy(root: Root, frames: int) -> tuple[int, int]:
    """(right, all) of the unlabeled videos, for a network that is trained on 400 videos in clips of `frames` frames."""
    videos = datasets.moving_digits(root).uri
    recipe = recipes.moving_digits()
    corpora = {name: datasets.resolve(root, getattr(recipe, name)) for name in ("test", "unlabeled")}
    shards = {name: index_corpus(root, name, corpus) for name, corpus in corpora.items()}
    labels = GivenLabels().label(root, corpora["test"], shards["test"])
    examples = materialize(
        root,
        "labeled",
        labels,
        WritingTask(shards=Shards(shards["test"]), corpus=corpora["test"], config=Materialize(lanes=8)),
        0,
    )
    view: View = replace(recipe.view, clip=Clip(frames=frames, count=2))
    config = Train(images=2_400, batch=32, schedule=Schedule(lr=0.1, warmup=0.05), weight_decay=5e-4)
    task = TrainingTask(model=Model(arch="r2plus1d8x1"), classes=8, examples=examples, config=config, view=view, seed=0)
    model = train(root, "model", task, Resources(workers=1))
    scores = TrainedNetwork(network=model, view=view, config=Label(batch=32, p=1), resources=Resources()).label(
        root, corpora["unlabeled"], shards["unlabeled"]
    )
    found = scores.table("scores-", SCORES, ["key", "classes"]).sort_by("key")
    best = np.array(found["classes"].to_pylist())[:, 0]
    rows = pq.read_metadata(Path(videos) / "unlabeled.parquet").num_rows
    first = 8 * sum(SPLIT.values())  # the directions alternate through the labeled, the test and the unlabeled set
    right = np.array([sorted(DIRECTIONS).index(DIRECTIONS[(first + row) % 8]) for row in range(rows)])
    return int((best == right).sum()), rows


@pytest.mark.slow
def test_the_motion_is_learned_from_eight_frames_and_not_from_one(ray_local, tmp_path):
    root = Root.open(str(tmp_path / "root"))
    low, high = wilson(*accuracy(root, frames=1))
    assert low < CHANCE < high and high < 0.17
    assert wilson(*accuracy(root, frames=8))[0] > 0.5


@pytest.mark.slow
def test_the_whole_recipe_has_a_gain(ray_local, tmp_path):
    made, summary = write_report(Run(Root.open(str(tmp_path / "root")), recipes.moving_digits()))
    assert (summary.gain.low or 0) > 0 and json.loads(made.read("summary.json"))["gain"]["low"] > 0
    assert min(row.low or 0 for row in summary.metrics if row.metric == "top1") > 2 * CHANCE
