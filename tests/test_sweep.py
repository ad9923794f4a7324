"""Sweeps: the space as a person writes it, the validation split, who builds what, and real trials on digits."""

import collections
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
import ray.exceptions
import ray.util
from heads import _end as end_ray
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel import recipes
from raylabel.artifact import Artifact, Built, Draft, Root, write_bytes, write_table
from raylabel.errors import InputError
from raylabel.labels.validation import hold_out
from raylabel.recipe import Recipe
from raylabel.report.sweep import Sweep, print_sweep
from raylabel.schema import PICKS
from raylabel.sweep import SweepConfig, sweep
from raylabel.sweep.claims import Ledger, SharedRoot, make_claims
from raylabel.sweep.space import apply, draw, grid, parse
from raylabel.train import Train

JOB = Path(__file__).resolve().parents[1] / "jobs" / "sweep.py"
SPACE = ("select.k=[20,40]", "finetune.schedule.lr=[0.005,0.01]")
UNEVEN = ("select.k=[20,40]", "finetune.images=[500,40000]")  # two trials end long before the others


# The space.


def test_a_grid_is_every_combination_and_changes_only_its_fields():
    recipe = recipes.digits()
    found = grid(parse(["select.k=[20, 40]", "--finetune.schedule.lr=[1, 0.5]", "student.arch=[resnet8x2]"], recipe))
    assert found == [
        {"select.k": k, "finetune.schedule.lr": lr, "student.arch": "resnet8x2"} for k in (20, 40) for lr in (1.0, 0.5)
    ]
    assert all(type(one["finetune.schedule.lr"]) is float for one in found)  # 1 and 1.0 are one digest
    changed = apply(recipe, found[0])
    assert (changed.select.k, changed.finetune.schedule.lr, changed.student.arch) == (20, 1.0, "resnet8x2")
    back = {"select.k": 100, "finetune.schedule.lr": recipe.finetune.schedule.lr, "student.arch": "resnet8x1"}
    assert apply(changed, back) == recipe


def test_draws_are_those_of_the_seed_and_spread_over_the_whole_range():
    space = ["finetune.schedule.lr=log_uniform(1e-4,1e-2)", "select.k=choice(10,20,30)", "select.rank=[softmax,logits]"]
    axes = parse(space, recipes.digits())
    drawn = draw(axes, 3000, seed=1)
    assert drawn == draw(axes, 3000, seed=1) != draw(axes, 3000, seed=2)
    lr = np.log10([one["finetune.schedule.lr"] for one in drawn])
    assert -4 <= lr.min() and lr.max() <= -2
    assert abs(np.mean(lr < -3) - 0.5) < 0.05  # uniform in the logarithm: half below the geometric middle
    counts = collections.Counter(one["select.k"] for one in drawn)
    assert counts.keys() == {10, 20, 30} and min(counts.values()) > 800


@pytest.mark.parametrize(
    "texts, message",
    [
        ([], "no --space"),
        (["select.q=[1]"], "--space select.q: no such field: 'select' has k, p"),
        (["finetune.lr=[0.1]"], "--space finetune.lr: no such field: 'finetune' has images, schedule"),
        (["nothing=[1]"], "--space nothing: no such field: a recipe has name"),
        (["select.k.x=[1]"], "--space select.k.x: 'select.k' has no fields"),
        (["teacher.view.size=[8]"], "'teacher.view' has no fields here, it is None"),
        (["select=[1]"], "--space select: it has fields of its own, name one: select.k"),
        (["select.k"], "no '='"),
        (["select.k=(1,2)"], "--space select.k: '(1,2)' is none of the forms"),
        (["select.k=[1"], "--space select.k: cannot read '[1'"),
        (["select.k=[]"], "--space select.k: '[]' has no value"),
        (["select.k=[1, 1]"], "--space select.k: 1 is there twice"),
        (["select.k=[1.5]"], "--space select.k: 1.5 is of the wrong kind, expected int"),
        (["select.k=[True]"], "--space select.k: True is of the wrong kind"),
        (["select.rank=[best]"], "--space select.rank: 'best' is of the wrong kind, expected 'softmax' or 'logits'"),
        (["select.k=[print(1)]"], "--space select.k: 'print(1)' is no number or word"),
        (["select.k=log_uniform(1,10)"], "--space select.k: 'log_uniform(1,10)'"),
        (["finetune.schedule.lr=log_uniform(1,0.1)"], "0 < low < high"),
        (["finetune.schedule.lr=log_uniform(0.1)"], "0 < low < high"),
        (["view.mean=[1]"], "--space view.mean: it is no single number or word"),
        (["resources.workers=[1]"], "--space resources.workers: it changes no result"),
        (["pretrain.checkpoint_every=[1]"], "it changes no result"),
        (["unlabeled.uri=[a]"], "'unlabeled' is the same for all trials"),
        (["select.k=[1]", "select.k=[2]"], "--space select.k is given twice"),
    ],
)
def test_a_space_that_cannot_be_is_an_error_that_names_the_field(texts, message):
    with pytest.raises(InputError) as error:
        parse(texts, recipes.digits())
    assert message in str(error.value)


def test_a_value_that_the_recipe_refuses_is_an_error_that_names_the_field():
    axes = parse(["select.k=[0]"], recipes.digits())
    with pytest.raises(InputError, match="--space select.k: select.k is 0"):
        apply(recipes.digits(), grid(axes)[0])
    with pytest.raises(InputError, match="finetune.schedule.lr is to be drawn: say how many"):
        grid(parse(["finetune.schedule.lr=log_uniform(0.1,1)"], recipes.digits()))


# The validation split.


def labeled(root: Root, label: np.ndarray, key: np.ndarray, classes: int) -> Artifact:
    order = np.lexsort((key, label))
    counts = np.bincount(label, minlength=classes)
    rank = np.concatenate([np.arange(1, n + 1) for n in counts])
    columns = [label[order].astype(np.int32), rank.astype(np.int32), np.zeros(len(key), np.float32), key[order]]
    table = pa.Table.from_arrays([pa.array(c) for c in columns], schema=PICKS)

    def build(draft: Draft) -> Built:
        return Built(
            [write_table(draft.uri, "picks-00000.parquet", table)], {"classes": [str(c) for c in range(classes)]}
        )

    return root.make("truth", {"rows": table.to_pylist()}, build)


def rows(part: Artifact) -> dict[int, int]:
    table = part.table("picks", PICKS)
    label, rank = table["label"].to_numpy(), table["rank"].to_numpy()
    assert part.info["per_class"] == np.bincount(label, minlength=len(part.info["classes"])).tolist()
    for one in np.unique(label):
        assert rank[label == one].tolist() == list(range(1, part.info["per_class"][one] + 1))
    return dict(zip(table["key"].to_pylist(), label.tolist(), strict=True))


def groups_of(key: np.ndarray, names: list[str | None]) -> pa.Table:
    order = np.argsort(key)
    return pa.table([pa.array(key[order]), pa.array([names[i] for i in order], pa.string())], ["key", "group"])


@settings(deadline=None, max_examples=40)
@given(
    counts=st.lists(st.integers(1, 40), min_size=2, max_size=6),
    share=st.sampled_from([0.05, 0.2, 0.5, 0.9]),
    seed=st.integers(0, 3),
    videos=st.sampled_from([0, 2, 8]),
    data=st.data(),
)
def test_the_split_is_a_share_of_each_class_and_no_video_is_on_both_sides(counts, share, seed, videos, data):
    label = np.repeat(np.arange(len(counts)), counts)
    key = np.array(data.draw(st.permutations(range(len(label)))), np.int64) * 7
    # A video is of one class; with none, each sample is its own source.
    names = [f"{c}/{data.draw(st.integers(0, videos))}" if videos else None for c in label.tolist()]
    with tempfile.TemporaryDirectory() as folder:
        root = Root.open(folder)
        picks = labeled(root, label, key, len(counts))
        groups = groups_of(key, names)
        try:
            rest, held = hold_out(root, picks, groups, share, seed)
        except InputError:
            assert videos or max(counts) == 1  # one video is a whole class; or no class has two samples
            return
        assert (rest, held) == hold_out(root, picks, groups, share, seed)
        left, out = rows(rest), rows(held)
    whole = dict(zip(key.tolist(), label.tolist(), strict=True))
    assert not left.keys() & out.keys() and {**left, **out} == whole
    source = {k: n if n else str(k) for k, n in zip(key.tolist(), names, strict=True)}
    assert not {source[k] for k in left} & {source[k] for k in out}
    for c, n in enumerate(counts):
        wanted = min(max(round(share * n), 1), n - 1) if n > 1 else 0
        got = sum(found == c for found in out.values())
        assert sum(found == c for found in left.values()) >= 1
        assert got == wanted if not videos else got >= wanted


def test_a_sample_keeps_its_side_when_others_come_and_the_seed_moves_it(tmp_path):
    root, key = Root.open(str(tmp_path)), np.arange(4000, dtype=np.int64)
    label, none = key % 2, groups_of(key, [None] * 4000)
    held = {seed: set(rows(hold_out(root, labeled(root, label, key, 2), none, 0.25, seed)[1])) for seed in (0, 1)}
    assert len(held[0] & held[1]) == pytest.approx(250, abs=60)  # as two independent quarters
    more = np.arange(4400, dtype=np.int64)
    grown = hold_out(root, labeled(root, more % 2, more, 2), groups_of(more, [None] * 4400), 0.25, 0)[1]
    assert len(held[0] - set(rows(grown))) < 60  # a hash of the key, not a draw in order


# Who builds what.


class Builder:
    def __init__(self, root: str, claims, who: str, trial: int, notes: str):
        self.root, self.notes = SharedRoot(root, claims, who, trial), notes

    def live(self) -> None:
        time.sleep(1e6)

    def make(self, hold: str = "") -> str:
        """Builds until there is a file `hold`; says so in `notes`."""

        def build(draft: Draft) -> Built:
            Path(self.notes, str(self.root.trial)).touch()
            while hold and not os.path.exists(hold):
                time.sleep(0.05)
            return Built([write_bytes(draft.uri, "it", str(self.root.trial).encode())], {})

        return self.root.make("thing", {"of": 1}, build).read("it").decode()


def builders(tmp_path: Path, count: int) -> tuple[list, Path]:
    (notes := tmp_path / "notes").mkdir()
    claims = make_claims(str(tmp_path))
    options = {"num_cpus": 0, "max_concurrency": 2}
    remote: Any = ray.remote(Builder).options(**options)
    made = [remote.remote(str(tmp_path), claims, f"who{i}", i, str(notes)) for i in range(count)]
    ray.get([claims.join.remote(f"who{i}", [one.live.remote()]) for i, one in enumerate(made)])
    return [claims, *made], notes


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.05)


def test_one_builds_and_the_others_wait_for_it(ray_local, tmp_path):
    (claims, first, *others), notes = builders(tmp_path, 4)
    building = first.make.remote(str(tmp_path / "go"))
    wait_for(notes / "0")
    waiting = [one.make.remote() for one in others]
    assert not ray.wait([building, *waiting], timeout=2)[0]
    (tmp_path / "go").touch()
    assert ray.get([building, *waiting]) == ["0"] * 4
    assert [path.name for path in notes.iterdir()] == ["0"]
    ledger = Ledger.read(f"{tmp_path}/ledger.json")
    assert ledger == ray.get(claims.get.remote())
    assert [(build.trial, build.done) for build in ledger.builds] == [(0, True)]


def test_another_builds_when_the_builder_dies(ray_local, tmp_path):
    (claims, first, second), notes = builders(tmp_path, 2)
    building = first.make.remote(str(tmp_path / "never"))
    wait_for(notes / "0")
    waiting = second.make.remote()
    ray.kill(first)
    assert ray.get(waiting, timeout=60) == "1"
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(building)
    ledger: Ledger = ray.get(claims.get.remote())
    assert [(build.trial, build.done) for build in ledger.builds] == [(0, False), (1, True)]


# Real trials.


def short() -> Recipe:
    recipe = recipes.digits()
    assert recipe.teacher.train
    return replace(
        recipe,
        teacher=replace(recipe.teacher, train=shorter(recipe.teacher.train, 4_000)),
        pretrain=shorter(recipe.pretrain, 4_000),
        finetune=shorter(recipe.finetune, 1_000),
    )


def shorter(config: Train, images: int) -> Train:
    return replace(config, images=images)


def made_once(told: Sweep, folder: str) -> Ledger:
    """Asserts that each artifact was built once, by the trial that the table names."""
    ledger = Ledger.read(f"{folder}/ledger.json")
    assert all(build.done for build in ledger.builds)
    builders = collections.Counter(build.artifact for build in ledger.builds)
    assert set(builders.values()) == {1}
    assert {build.artifact: build.trial for build in ledger.builds} == {
        a: t.number for t in told.trials for a in t.built
    }
    return ledger


def stems(artifacts) -> collections.Counter:
    return collections.Counter(artifact.rpartition("-")[0] for artifact in artifacts)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_grid_builds_each_artifact_once(ray_local, tmp_path):
    root = Root.open(str(tmp_path / "root"))
    told, folder = sweep(root, short(), SweepConfig(space=SPACE))
    ledger = made_once(told, folder)
    # Two Ks, each with one pre-training, and two rates of fine-tuning; one teacher, and one pass of it over the corpus.
    assert stems(build.artifact for build in ledger.builds) == {
        "examples-labeled": 1,
        "teacher": 1,
        "scores": 1 + 2 + 4,
        "duplicates": 1,
        "picks": 2,
        "examples-picked": 2,
        "pretrained": 2,
        "student": 4,
    }
    assert [trial.state for trial in told.trials] == ["finished"] * 4 and told.n == 10
    assert told.images == sum(trial.images for trial in told.trials) < 0.5 * told.alone
    top = [trial.accuracy or 0 for trial in told.trials]
    assert top == sorted(top, reverse=True)
    assert told.test_n == 500 and told.test > 0.3  # chance is 0.1
    # None of those held out was learned from.
    lesson, held = (next(a for a in root.named("truth") if a.info["picks"] == n) for n in (40, 10))
    assert not rows(lesson).keys() & rows(held).keys()
    examples = next(a for a in root.named("examples-labeled"))
    assert examples.identity["picks"] == lesson.digest
    assert list(Path(folder).glob("tune/trial_0000[0-3]/events.out.tfevents.*"))
    assert json.loads(Path(folder, "sweep.json").read_text())["alone"] == told.alone

    # The same again finds all of it.
    before = {path: path.read_bytes() for path in Path(folder).glob("tune/trial_*/result.json")}
    assert sweep(root, short(), SweepConfig(space=SPACE)) == (told, folder)
    assert {path: path.read_bytes() for path in before} == before and len(before) == 4
    no_placement_group_is_left()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_asha_stops_between_stages_and_leaves_nothing(ray_local, tmp_path):
    root = Root.open(str(tmp_path / "root"))
    config = SweepConfig(space=("select.k=[1,5,10,20,40,80]",), scheduler="asha")
    told, folder = sweep(root, short(), config)
    states = collections.Counter(trial.state for trial in told.trials)
    assert states["finished"] >= 1 and states["stopped"] >= 1 and states["failed"] == 0
    # What was stopped has no student; what went on validated no worse than the worst that was stopped early on.
    for trial in told.trials:
        assert ("student" in stems([*trial.built, *trial.reused])) == (trial.state == "finished")
    made_once(told, folder)
    no_placement_group_is_left()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_trial_that_fails_is_told_and_the_others_go_on(ray_local, tmp_path, capsys):
    root = Root.open(str(tmp_path / "root"))
    told, folder = sweep(root, short(), SweepConfig(space=("finetune.schedule.lr=[1e30,0.005]",)))
    assert [(trial.number, trial.state) for trial in told.trials] == [(1, "finished"), (0, "failed")]
    assert told.trials[1].error.startswith("the loss is not a number after")
    capsys.readouterr()
    print_sweep(told, folder)
    assert "trial 0 failed: the loss is not a number after" in capsys.readouterr().out
    no_placement_group_is_left()


def no_placement_group_is_left() -> None:
    left = [group for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"]
    assert not left


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_halfway_it_keeps_what_is_finished_and_finds_the_same_best(tmp_path):
    images = ["--teacher.train.images", "4000", "--pretrain.images", "4000"]
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")

    def start(root: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, str(JOB), "digits", "--space", *UNEVEN, *images, "--root", str(tmp_path / root)],
            env=os.environ | {"RAY_TMPDIR": folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(job: subprocess.Popen) -> dict:
        out, _ = job.communicate(timeout=400)
        assert job.returncode == 0, out
        (found,) = (tmp_path / job.args[-1]).glob("sweep-*/sweep.json")  # pyright: ignore
        return json.loads(found.read_text())

    try:
        job = start("killed")
        while not (done := finished(tmp_path / "killed")):
            assert job.poll() is None, job.communicate()[0]
            time.sleep(0.2)
        job.send_signal(signal.SIGKILL)
        job.communicate()
        end_ray(folder)
        assert 1 <= len(done) < 4
        results = {path: path.read_bytes() for path in done}
        networks = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*/model.safetensors")}
        again = finish(start("killed"))
        assert {path: path.read_bytes() for path in results} == results
        assert {path: path.stat().st_mtime_ns for path in networks} == networks
        other = finish(start("whole"))
    finally:
        end_ray(folder)
    for one in (again, other):  # who built what is a matter of who came first
        for trial in one["trials"]:
            del trial["built"], trial["reused"], trial["images"]
    (folder,) = (tmp_path / "killed").glob("sweep-*/ledger.json")
    assert {len(used) for used in Ledger.read(str(folder)).uses.values()} == {10}
    assert [again[name] for name in ("trials", "test", "images", "alone")] == [
        other[name] for name in ("trials", "test", "images", "alone")
    ]
    assert not math.isnan(again["test"])


def finished(root: Path) -> list[Path]:
    """Results of the trials that Ray Tune has noted down as finished, once there are some."""
    states = sorted(root.glob("sweep-*/tune/experiment_state-*.json"))
    if not states:
        return []
    try:
        trials = [json.loads(trial[0]) for trial in json.loads(states[-1].read_text())["trial_data"]]
    except (ValueError, OSError):  # it is being written
        return []
    ended = [one for one in trials if one["status"] == "TERMINATED"]
    return [states[-1].parent / one["relative_logdir"] / "result.json" for one in ended]
