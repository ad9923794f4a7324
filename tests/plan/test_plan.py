"""The cost model against numbers by hand or brute force, and a plan of the digits against their run."""

import dataclasses
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from helpers import digit_images, random_model, write_parquet
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import JOBS
from projection import Projection
from rich.console import Console
from scoring import score

from raylabel.compute.resources import Cluster, Resources
from raylabel.corpus import Corpus, Shards, index_corpus
from raylabel.inference.batches import ScoringTask
from raylabel.labels.teacher import Label, TrainedNetwork
from raylabel.models import Model
from raylabel.models.trained import WEIGHTS
from raylabel.pipelines.inputs import prepare
from raylabel.pipelines.semi_supervised import Run
from raylabel.plan.cost import expected_picks, labeling_seconds, materializing_seconds, rows_read, sorting_seconds
from raylabel.plan.done import Done
from raylabel.plan.estimate import plan
from raylabel.plan.pilot import Materialized, Sorted, labeling, measure_labeling, storage, training
from raylabel.plan.report import Plan, Reach, Work, print_plan
from raylabel.plan.traffic import Traffic
from raylabel.recipes import registry as recipes
from raylabel.recipes.recipe import Recipe, Teacher
from raylabel.report.run import write_report
from raylabel.report.summary import Summary
from raylabel.schema import SCORES, make_key
from raylabel.selection.config import Select
from raylabel.selection.duplicates import find_duplicates
from raylabel.selection.lengths import list_lengths
from raylabel.selection.select import select
from raylabel.store.artifact import Artifact, Root

JOB = JOBS / "plan.py"
TEN = tuple("0123456789")


def test_labeling_counts_padded_batches_and_idle_actors():
    # 100 units of 1,024 rows in batches of 256, four actors of 250 slots a second each: 100 x 4 batches.
    assert labeling_seconds(np.array([100 * 1024]), 1024, 256, 4, 250.0) == pytest.approx(102_400 / 1000)
    # A shard of 1,100 rows is 4 batches and one for the rest; two units keep two of the four actors busy.
    assert labeling_seconds(np.array([1100]), 1024, 256, 4, 250.0) == pytest.approx(5 * 256 / 1000 * 2)
    # Five units over four actors: three of them wait for the fifth unit.
    assert labeling_seconds(np.array([5 * 1024]), 1024, 256, 4, 250.0) == pytest.approx(5 * 1024 / 1000 * 8 / 5)


def test_sorting_seconds_scale_with_rows_and_tasks():
    found = Sorted(1000, 2.0, 1e-3)
    assert sorting_seconds(500, 1, found) == 2.0
    assert sorting_seconds(9000, 4, found) == pytest.approx(2 + 8000 * 1e-3 / 4)


def test_materializing_seconds_count_rounds_of_files(tmp_path):
    found = Materialized(Artifact("", "", ""), 1.5, 1e-5, 1e-3, 100.0, 1)
    # 10,000 samples are three files; two CPUs write them in two rounds.
    per_file = (50_000 * 1e-5 + 10_000 * 1e-3) / 3
    assert materializing_seconds(10_000, 50_000, 4096, 2, found) == pytest.approx(1.5 + 2 * per_file)
    assert materializing_seconds(10_000, 50_000, 4096, 64, found) == pytest.approx(1.5 + per_file)


@pytest.mark.parametrize("group, density", [(1, 0.3), (10, 0.05), (100, 0.02), (100, 1.0)])
def test_rows_are_read_up_to_the_last_pick_of_each_group(group, density):
    rng, groups = np.random.default_rng(0), 20_000
    picked = rng.random((groups, group)) < density
    read = (np.arange(1, group + 1) * picked).max(axis=1).sum()
    assert rows_read(groups * group, density, group) == pytest.approx(read, rel=0.03)
    assert rows_read(1000, 0.0, group) == 0
    # In stretches: each has as many picks as the others, and reads a group from its start again.
    stretches = 300
    group_of, row = np.nonzero(picked)
    ends = np.array_split(np.arange(len(row)), stretches)
    read = sum(
        int(row[one[np.append(np.diff(group_of[one]) > 0, True)]].sum()) + len(set(group_of[one])) for one in ends
    )
    assert rows_read(groups * group, density, group, stretches) == pytest.approx(read, rel=0.03)


def scores_of(
    classes: np.ndarray, values: np.ndarray, key: np.ndarray, digest: np.ndarray, group: np.ndarray | None = None
) -> pa.Table:
    """SCORES with `values` as log-odds, and negated as logits."""
    lists = {"classes": classes.tolist(), "log_odds": values.tolist(), "logits": (-values).tolist()}
    group = np.zeros(len(key), np.int64) if group is None else group
    plain = {"key": key.tolist(), "digest": [int(d).to_bytes(16, "big") for d in digest], "group": group.tolist()}
    columns = {**plain, **lists, "clips": [[]] * len(key)}
    return pa.Table.from_arrays([pa.array(columns[f.name], f.type) for f in SCORES], schema=SCORES)


@settings(max_examples=40)
@given(
    st.integers(0, 10**6),
    st.integers(1, 60),
    st.integers(1, 3),
    st.integers(1, 12),
    st.sampled_from(["softmax", "logits"]),
    st.sampled_from([None, 1, 3, 20]),
    st.booleans(),
    st.sampled_from(["", "corpus", "zipf"]),
    st.sampled_from([None, 0.0]),
    st.booleans(),
)
def test_expected_picks_are_exact_if_all_samples_were_seen(
    seed, rows, p, k, rank, videos, repeat, counts, minimum, fill
):
    rng = np.random.default_rng(seed)
    classes = np.array([rng.permutation(5)[:3] for _ in range(rows)])
    values = rng.integers(-3, 4, (rows, 3)).astype(np.float32)  # ties
    key = np.sort(rng.choice(5000, rows, replace=False))
    digest = rng.integers(0, 2 * rows, rows)
    group = rng.integers(0, videos, rows) if videos else np.zeros(rows, np.int64)  # 0: its own video
    config = Select(k=k, p=p, rank=rank, repeat_videos=repeat, counts=counts, minimum=minimum, fill=fill)
    found = expected_picks(scores_of(classes, values, key, digest, group), 1024, rows, rows, config, tuple("abcde"))

    original = [i for i in range(rows) if digest[i] not in digest[:i]]
    picked: list[tuple[int, int]] = []
    reach, sign = 0, -1 if rank == "softmax" else 1
    lengths = list_lengths(config, "abcde", np.bincount(classes[original, 0], minlength=5)).tolist()
    for c, most in enumerate(lengths):
        some = [(i, j) for i in original for j in range(p) if classes[i, j] == c]
        some = [at for at in some if minimum is None or -sign * values[at] >= minimum]
        some.sort(key=lambda at: (sign * values[at], key[at[0]]))
        if not repeat:
            best = {int(group[i]): i for i, _ in reversed(some)}
            some = [(i, j) for i, j in some if not group[i] or best[int(group[i])] == i]
        reach += len(some) >= most
        mine = [(c, i) for i, _ in some[:most]]
        picked += [mine[i % len(mine)] for i in range(most)] if fill and mine else mine
    assert found.reach == (reach, reach, reach)
    assert (found.picks, found.samples) == (len(picked), len({i for _, i in picked}))


def test_expected_picks_of_a_sample_are_scaled_and_the_interval_contains_the_truth():
    rng, rows, units = np.random.default_rng(1), 1024, 400
    share = np.linspace(0.02, 0.18, 10)
    truths = rng.choice(10, size=(units, rows), p=share / share.sum())
    key = np.array([[make_key(0, u * rows + r) for r in range(rows)] for u in range(units)])
    k = int(np.bincount(truths.ravel(), minlength=10)[4] * 1.02)  # near the size of one of the classes
    truth = int((np.bincount(truths.ravel(), minlength=10) >= k).sum())
    inside = 0
    for seed in range(20):
        some = np.random.default_rng(seed).choice(units, 20, replace=False)
        flat, keys = truths[some].ravel(), key[some].ravel()
        scores = scores_of(flat[:, None], rng.normal(size=(len(flat), 1)).astype(np.float32), keys, keys)
        found = expected_picks(scores, 1024, len(flat), units * rows, Select(k=k, p=1), TEN)
        assert found.reach[1] <= found.reach[0] <= found.reach[2]
        inside += found.reach[1] <= truth <= found.reach[2]
        assert found.picks == pytest.approx(np.minimum(np.bincount(truths.ravel()), k).sum(), rel=0.03)
    assert inside >= 18


def test_similar_neighbours_widen_the_interval():
    # Each stretch of the corpus has one class: 20 stretches are 20 observations, not 20,000.
    rng, rows = np.random.default_rng(0), 1024
    classes = np.repeat(rng.integers(0, 10, 20), rows)
    units = np.repeat(np.arange(0, 400, 20), rows)
    keys = units * rows + np.tile(np.arange(rows), 20)
    sorted_corpus = scores_of(classes[:, None], np.zeros((len(keys), 1), np.float32), keys, keys)
    mixed = scores_of(rng.permutation(classes)[:, None], np.zeros((len(keys), 1), np.float32), keys, keys)
    config, samples = Select(k=30_000, p=1), 400 * rows
    low, high = (expected_picks(one, 1024, len(keys), samples, config, TEN).reach[1:] for one in (sorted_corpus, mixed))
    assert low[1] - low[0] > high[1] - high[0]


def test_adjacent_units_are_one_observation():
    rng, rows = np.random.default_rng(0), 64  # rows that were seen of each unit
    classes = np.repeat(rng.integers(0, 10, 12), 8 * rows)  # 12 stretches of 8 units, with one class per stretch
    widths = []
    for step in (1, 2):  # the units of a stretch are adjacent, or have gaps between them
        unit = (np.arange(12)[:, None] * 100 + np.arange(8) * step).ravel()
        keys = np.repeat(unit, rows) * 1024 + np.tile(np.arange(rows), 96)
        scores = scores_of(classes[:, None], np.zeros((len(keys), 1), np.float32), keys, keys)
        reach = expected_picks(scores, 1024, len(keys), 100 * len(keys), Select(k=20_000, p=1), TEN).reach
        widths.append(reach[2] - reach[1])
    assert widths[0] > widths[1]


@pytest.fixture(scope="module")
def quick():
    """A short pilot that still labels the whole digits corpus on a slow machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labeling, "SECONDS", 100.0)
        patch.setattr(labeling, "MIN_SECONDS", 0.0)
        patch.setattr(training, "SECONDS", 1.0)
        patch.setattr(storage, "WRITING", 1.0)
        patch.setattr(storage, "SYNTHETIC", 2000)
        yield


def short_digits() -> Recipe:
    recipe = recipes.digits()
    assert recipe.teacher.train is not None
    teacher = dataclasses.replace(recipe.teacher, train=dataclasses.replace(recipe.teacher.train, images=6400))
    return dataclasses.replace(
        recipe,
        teacher=teacher,
        pretrain=dataclasses.replace(recipe.pretrain, images=640),
        finetune=dataclasses.replace(recipe.finetune, images=320),
    )


STAGES = ["teacher", "label", "select", "materialize", "pretrain", "finetune", "control", "evaluate", "driver"]


@pytest.fixture(scope="module")
def planned(ray_local, quick, tmp_path_factory) -> tuple[Root, Plan]:
    root = Root.open(str(tmp_path_factory.mktemp("plan")))
    return root, plan(root, short_digits())


@pytest.mark.slow
def test_plan_has_every_stage_with_its_sizes(planned):
    root, found = planned
    recipe, works = short_digits(), {work.stage: work for work in found.stages}
    assert list(works) == STAGES
    assert {name: work.images for name, work in works.items()} == {
        "teacher": 6400,
        "label": 1247,
        "select": 1247,
        "materialize": 50 + 1000,
        "pretrain": 640,
        "finetune": 320,
        "control": recipe.control_train.processed,
        "evaluate": 4 * 500,
        "driver": 0,
    }
    (shards,) = (Shards(a) for a in root.named("shards-unlabeled"))
    assert works["label"].traffic.bytes_read > shards.row(0)["bytes"]
    for stage in STAGES:
        work = works[stage]
        assert min(dataclasses.astuple(work.traffic)) > 0
        assert work.seconds > 0 or stage == "driver"
        assert (work.memory or 0) > 0 or stage in ("select", "materialize", "driver")
    assert found.reach is None and found.picks == 1000  # no teacher: the maximum
    assert found.sampled == 1247


@pytest.mark.slow
def test_artifacts_of_the_pilot_are_deleted(planned):
    root, _ = planned
    names = {path.name.rpartition("-")[0] for path in Path(root.uri).iterdir()}
    assert names == {"digits", "shards-labeled", "shards-unlabeled", "shards-test", "truth"}


@pytest.fixture(scope="module")
def finished(planned) -> tuple[Root, Summary]:
    return planned[0], write_report(Run(planned[0], short_digits()))[1]


@pytest.mark.slow
def test_existing_artifacts_cost_nothing_and_the_reach_is_exact(planned, finished):
    root, summary = finished
    found = plan(root, short_digits())
    assert [work.seconds for work in found.stages] == [0.0] * len(STAGES)
    reach = sum(count >= 100 for count in summary.picks.per_class)
    assert found.reach == Reach(value=reach, low=reach, high=reach) and found.picks == summary.picks.total
    works = {work.stage: work for work in planned[1].stages}
    stored = sum(f.bytes for scores in root.named("scores") for f in scores.files("scores-"))
    scored = works["label"].traffic.bytes_written + works["evaluate"].traffic.bytes_written
    assert scored == pytest.approx(stored, rel=0.3)
    (weights,) = (a.files("model")[0].bytes for a in root.named("teacher"))
    # A checkpoint at the end, with weights and momentum, and the artifact.
    assert works["teacher"].traffic.bytes_written == pytest.approx(3 * weights, rel=0.05)


@pytest.mark.slow
def test_another_k_is_counted_in_existing_scores(quick, finished):
    root, recipe = finished[0], dataclasses.replace(short_digits(), select=Select(k=200, p=2))
    found = plan(root, recipe)
    assert {work.stage for work in found.stages if not work.seconds} == {"teacher", "label", "control", "driver"}
    scores = max(root.named("scores"), key=lambda scores: scores.info["samples"])
    picks = select(root, scores, find_duplicates(root, scores), recipe.select, tuple("0123456789")).info
    reach = sum(count >= 200 for count in picks["per_class"])
    assert found.reach == Reach(value=reach, low=reach, high=reach)
    assert found.picks == picks["picks"]
    works = {work.stage: work for work in found.stages}
    assert works["materialize"].images == picks["samples"]
    assert works["evaluate"].images == 2 * 500  # only by the networks that depend on K


@pytest.mark.slow
def test_an_existing_teacher_predicts_the_picks_before_labeling(quick, finished):
    root = finished[0]
    recipe = dataclasses.replace(short_digits(), label=Label(p=3, batch=128), select=Select(k=250, p=3))
    found = plan(root, recipe)
    works = {work.stage: work for work in found.stages}
    assert not works["teacher"].seconds and works["label"].images == 1247 == found.sampled
    start = prepare(root, recipe)
    (teacher,) = root.named("teacher")
    shards, corpus = start.shards["unlabeled"], start.corpora["unlabeled"]
    scores = TrainedNetwork(network=teacher, view=recipe.view, config=recipe.label, resources=recipe.resources).label(
        root, corpus, shards
    )
    picks = select(root, scores, find_duplicates(root, scores), recipe.select, start.classes).info
    assert found.reach is not None and found.reach.value == sum(count >= 250 for count in picks["per_class"])
    assert found.picks == picks["picks"] and works["materialize"].images == picks["samples"]


@pytest.mark.slow
def test_pilot_scores_equal_those_of_the_run(ray_local, quick, tmp_path):
    root, media = Root.open(str(tmp_path / "root")), [*digit_images()[0][:1400], b"no picture"]
    corpus = Corpus(uri=(str(write_parquet(tmp_path / "a.parquet", media)),))
    shards, config = index_corpus(root, "unlabeled", corpus), Label(batch=256, p=3)
    scores = score(root, corpus, shards, config, Resources(teachers=1)).table("scores-", SCORES)
    for decode in "beside", "cluster":
        pool = Cluster.now().teachers(Resources(decode=decode, teachers=1))
        assert bool(pool.threads) == (decode == "beside")
        found = measure_labeling(ScoringTask(Projection(8, 3), corpus, Shards(shards), 256, pool))
        assert found.seen == 1401
        assert found.rows.equals(scores)
        assert found.slots_per_second > 0 and found.start > 0 and found.memory > 0


@pytest.mark.slow
def test_only_new_samples_of_a_grown_corpus_are_to_be_labeled(ray_local, tmp_path):
    root, media = Root.open(str(tmp_path / "root")), digit_images()[0]
    folder, file = tmp_path / "corpus", tmp_path / "teacher.safetensors"
    folder.mkdir()
    write_parquet(folder / "a.parquet", media[:1100])
    file.write_bytes(random_model(root).read(WEIGHTS))
    teacher = Teacher(model=Model(arch="resnet8x1"), checkpoint=str(file))
    recipe = dataclasses.replace(short_digits(), unlabeled=Corpus(uri=(str(folder),)), teacher=teacher)

    def labeled() -> int:
        return Done(root, recipe, prepare(root, recipe)).labeled

    assert labeled() == 0
    start = prepare(root, recipe)
    assert start.teacher is not None
    shards, corpus = start.shards["unlabeled"], start.corpora["unlabeled"]
    scores = TrainedNetwork(
        network=start.teacher, view=recipe.view, config=recipe.label, resources=recipe.resources
    ).label(root, corpus, shards)
    assert labeled() == 1100
    write_parquet(folder / "b.parquet", media[1100:1400])
    assert labeled() == 1100
    # A stopped run has no manifest, but its committed parts count.
    (folder / "b.parquet").unlink()
    Path(scores.uri, "manifest.json").unlink()
    assert labeled() == 1100


def example() -> Plan:
    stages = (
        Work(stage="teacher", images=0, seconds=0.0, traffic=Traffic()),
        Work(
            stage="label",
            images=10**9,
            seconds=36_000.0,
            traffic=Traffic(18_000_000, 31_250, 70 * 10**12, 148 * 10**9),
            memory=3 * 10**9,
            device_memory=12 * 10**9,
        ),
        Work(stage="materialize", images=0, seconds=0.0, traffic=Traffic()),
        Work(stage="select", images=10**9, seconds=200.0, traffic=Traffic(97_000, 600, 148 * 10**9, 10**8)),
        Work(stage="driver", images=0, seconds=0.0, traffic=Traffic(20_000, 15_000, 10**6, 10**6)),
    )
    return Plan(
        recipe="big",
        hardware="64 GPUs",
        device="GPU",
        devices=64,
        kind="image",
        samples=10**9,
        classes=1000,
        k=16_000,
        p=10,
        reach=Reach(value=991, low=985, high=996),
        picks=15_900_000,
        sampled=10**6,
        pilot_seconds=61.0,
        remote=False,
        device_hour_price=None,
        stages=stages,
    )


@pytest.mark.parametrize("width", [80, 120])
def test_table_has_the_numbers_of_the_json(width):
    found = example()
    stream = io.StringIO()
    print_plan(found, Console(file=stream, width=width))
    text = re.sub(" +", " ", stream.getvalue())
    assert max(map(len, stream.getvalue().splitlines())) <= width
    numbers = found.to_dict()
    assert numbers["total"] == {
        "seconds": 36_200.0,
        "hours": pytest.approx(10.0556, rel=1e-4),
        "device_hours": pytest.approx(643.556, rel=1e-4),
        "reads": 18_117_000,
        "writes": 46_850,
        "bytes_read": 70_148 * 10**9 + 10**6,
        "bytes_written": 148_100 * 10**6 + 10**6,
        "dollars": None,
    }
    assert numbers["stages"][1]["images_per_second"] == pytest.approx(10**9 / 36_000)
    assert numbers["stages"][1]["device_hours"] == 640.0
    assert json.loads(json.dumps(numbers)) == numbers
    for expected in (
        "plan of big: 10 h 03 min, 644 GPU-hours",
        "teacher done",
        "label 1B 27,778 10 h 00 min 640 70 TB 148 GB",
        "select 1B 5,000,000 3 min 20 s 3.56 148 GB 100 MB",
        "driver - - - - 1 MB 1 MB",
        "total 10 h 03 min 644 70.1 TB 148 GB",
        "memory per process: label 3 GB",
        "GPU memory per process: label 12 GB",
        "classes that reach K 16,000 with P 10: 991 of 1,000 (95% interval 985 to 996)",
    ):
        assert expected in text


@pytest.mark.parametrize("width", [80, 120])
def test_requests_to_an_object_store_and_devices_have_a_price(width):
    found = dataclasses.replace(example(), remote=True, device_hour_price=3.0)
    stream = io.StringIO()
    print_plan(found, Console(file=stream, width=width))
    assert max(map(len, stream.getvalue().splitlines())) <= width
    text = re.sub(" +", " ", stream.getvalue())
    # By hand: 18,117,000 reads at 0.4 and 46,850 writes at 5 millionths of a dollar; 643.556 hours at 3 dollars.
    requests = 18.117 * 0.4 + 0.04685 * 5
    assert found.to_dict()["total"]["dollars"] == pytest.approx(643.5556 * 3 + requests)
    assert sum(stage["dollars"] for stage in found.to_dict()["stages"]) == pytest.approx(643.5556 * 3 + requests)
    for expected in (
        "label 1B 27,778 10 h 00 min 640 18M 70 TB 148 GB",
        "driver - - - - 35,000 1 MB 1 MB",
        "requests to the object store: 18.1M reads, 46,850 writes: $7.48",
        "price: $1,938.15 at $3.00 per GPU-hour",
    ):
        assert expected in text


@pytest.mark.parametrize(("kind", "word"), [("image", "images"), ("video", "samples")])
def test_table_of_a_video_plan_counts_samples(kind, word):
    stream = io.StringIO()
    print_plan(dataclasses.replace(example(), kind=kind), Console(file=stream, width=80))
    (head,) = (line.split() for line in stream.getvalue().splitlines() if line.split()[:1] == ["stage"])
    assert head[:4] == ["stage", word, f"{word}/s", "time"]


@pytest.mark.slow
def test_job_prints_one_json_object_and_nothing_else(finished, tmp_path):
    def job(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(JOB), "digits", "--root", finished[0].uri, *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=280)

    same = "--teacher.train.images 6400 --pretrain.images 640 --finetune.images 320".split()
    done = job("--json", *same, "--finetune.schedule.lr", "0.01")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [work["stage"] for work in found["stages"] if work["seconds"]] == ["finetune", "evaluate"]
    assert found["total"]["seconds"] == pytest.approx(sum(work["seconds"] for work in found["stages"]))
    assert "pilot" in done.stderr
    wrong = job("--select.p", "11")
    assert (wrong.returncode, wrong.stdout) == (2, "") and wrong.stderr.startswith("error: select.p is 11")
