"""The main job as a user starts it: the embedded data, and the report that it writes. Its networks are trained and
score in other processes in the slow tests alone."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import local_job
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import open_in_chromium
from networks import given_teacher
from paths import JOBS

from raylabel.cli.launch import Options, _options
from raylabel.corpus import Corpus
from raylabel.errors import InputError
from raylabel.labels.truth import GivenLabels
from raylabel.models import Model
from raylabel.pipelines import semi_supervised
from raylabel.pipelines.audited import doubts_of
from raylabel.pipelines.existing import MissingError, ReadOnlyRoot
from raylabel.pipelines.inputs import prepare
from raylabel.pipelines.semi_supervised import STAGES, Run
from raylabel.recipes import Recipe
from raylabel.recipes import registry as recipes
from raylabel.recipes.control import Control
from raylabel.store.artifact import Root
from raylabel.training.examples import media_of
from raylabel.training.mixed_stream import Mixture

JOB, LOCAL = JOBS / "semi_supervised.py", Path(local_job.__file__)
pytestmark = pytest.mark.timeout(900)  # a whole run, on a slow machine


SECRETS = {"AWS_SECRET_ACCESS_KEY": "planted-key-1a2b3c", "AWS_SESSION_TOKEN": "planted-session-4d5e6f"}
TOKEN = "0123456789abcdef" * 2
TESTED = "teacher", "control", "pretrained", "student"
SHORT = (
    *("digits", "--select.p", "10", "--pretrain.images", "1280", "--finetune.images", "320"),
    *("--resources.teachers", "1", "--resources.workers", "1"),  # each takes 11 s of CPU time to start
)


def job(*arguments: str, folder: Path, script: Path = JOB, **more: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | more,
        timeout=800,
    )


@pytest.fixture(scope="module")
def ray_folder() -> Iterator[Path]:
    """The folder of Ray's logs. Its path is short, because Ray's sockets are there too."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="module", params=[LOCAL, pytest.param(JOB, marks=pytest.mark.slow)], ids=["local", "job"])
def first(request, tmp_path_factory, ray_folder: Path) -> tuple[Path, str]:
    """The folder of a finished run of `digits` with an untrained teacher and little training, and what it printed."""
    folder = tmp_path_factory.mktemp("digits")
    secrets = SECRETS | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_TMPDIR": str(ray_folder)}
    done = job(*SHORT, *given_teacher(folder), folder=folder, script=request.param, **secrets)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "stderr.txt").write_text(done.stderr)
    return folder, done.stdout


def test_no_secret_of_the_environment_is_written_anywhere(first, ray_folder):
    folder, out = first
    written = [path for where in (folder, ray_folder) for path in where.rglob("*") if path.is_file()]
    assert len(list(folder.rglob("*.json"))) > 10 and len(list(ray_folder.rglob("*.log"))) > 3
    for secret in (TOKEN, *SECRETS.values()):
        assert secret not in out
        assert not [path for path in written if secret.encode() in path.read_bytes()]


def summary_of(folder: Path, **settings: int) -> dict:
    for path in folder.glob("runs/run-digits-*/summary.json"):
        summary = json.loads(path.read_text())
        if all(summary["settings"]["select"][name] == value for name, value in settings.items()):
            return summary
    raise AssertionError("no summary")


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def stamps(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.glob("runs/*/*") if not path.is_dir()}


def test_the_run_prints_its_results(first):
    folder, out = first
    summary = summary_of(folder)
    for text in ("teacher", "control", "student (fine-tuned)", "gain over control", "report.html"):
        assert text in out
    first_passes = ["label test by teacher", "label unlabeled by teacher"]
    passes = [*first_passes, *(f"label test by {name}" for name in TESTED[1:])]
    assert [line.partition(": ")[0] for line in out.splitlines() if re.match("label.* of .* in ", line)] == passes
    counts = summary["counts"]
    assert counts["samples"] == 1247 == counts["scored"] + counts["rejected"] + counts["duplicates"]
    assert summary["picks"]["total"] == sum(summary["picks"]["per_class"])
    rows = [row for row in summary["metrics"] if row["metric"] == "top1"]
    top1 = {row["model"]: row["value"] for row in rows}
    assert [row["n"] for row in rows] == [500] * 4
    assert summary["gain"]["value"] == pytest.approx(top1["student"] - top1["control"])
    assert summary["gain"]["verdict"] in out
    # The control was trained on as many images as pre-training and fine-tuning together.
    images = {stage["name"]: stage["images"] for stage in summary["stages"]}
    assert images["control"] == images["pretrain"] + images["finetune"]


def test_page_and_summary_agree(first):
    folder, _ = first
    (page,) = folder.glob("runs/run-digits-*/report.html")
    summary, seen = summary_of(folder), 0

    class Check(HTMLParser):
        def handle_starttag(self, tag, attrs):
            nonlocal seen
            found = dict(attrs)
            if key := found.get("data-key"):
                value = summary
                for part in key.split("."):
                    part = json.loads(part) if part.startswith('"') else part
                    value = value[int(part)] if isinstance(value, list) else value[part]
                assert json.loads(found["data-value"] or "") == value, key
                seen += 1

    Check().feed(page.read_text())
    assert seen > 60
    assert page.read_text().count("data:image/jpeg") >= 60  # 10 classes, ranks 1, 2, 5, ... K


def test_the_page_opens_in_a_browser_and_shows_the_digits(first, tmp_path):
    folder, _ = first
    (page,) = folder.glob("runs/run-digits-*/report.html")
    console, pixels = open_in_chromium(page.resolve(), tmp_path)
    assert console == []
    # 70 thumbnails of 112 x 112 pixels, half of them black background; the rest of the page has almost no black pixels.
    assert (pixels.max(axis=2) < 12).sum() > 70 * 112 * 112 / 4


@pytest.mark.slow
def test_all_four_networks_of_digits_learn(tmp_path):
    done = job(folder=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = summary_of(tmp_path)["metrics"]
    top1 = {row["model"]: row["value"] for row in rows if row["metric"] == "top1"}
    assert top1.keys() == set(TESTED) and min(top1.values()) > 0.75  # chance is 0.1


@pytest.mark.slow
def test_a_student_on_labels_and_picks_mixed_is_a_row_more(first, tmp_path):
    """Run after the same command without it, so that only this student is trained."""
    folder, before = first
    copy = tmp_path / "runs"
    shutil.copytree(folder / "runs", copy)
    done = job(*SHORT, *given_teacher(folder), "--mixed", "0.25", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall("train .* in ", done.stdout) == re.findall("train mixed: .* in ", done.stdout) != []
    assert "student (mixed)" in done.stdout and "student (mixed)" not in before
    (summary,) = (one for one in map(read_json, copy.glob("run-*/summary.json")) if "mixed" in one["settings"])
    old = summary_of(folder)
    rows = {row["model"]: row for row in summary["metrics"] if row["metric"] == "top1"}
    assert rows.keys() == {*TESTED, "mixed"} and rows["mixed"]["n"] == 500
    assert [row for row in summary["metrics"] if row["model"] != "mixed"] == old["metrics"]
    assert summary["gain"] == old["gain"]
    mixed, control, pretrained = (
        read_json(*copy.glob(f"{name}-*/recipe.json"))["identity"] for name in ("mixed", "control", "pretrained")
    )
    assert mixed["mixture"] == {"examples": control["examples"], "share": 0.25}
    assert mixed["examples"] == pretrained["examples"] and mixed["train"] == control["train"]


@pytest.mark.long
def test_the_same_command_does_nothing(first):
    folder, _ = first
    before = stamps(folder)
    again = job(*SHORT, *given_teacher(folder), folder=folder)
    assert again.returncode == 0 and stamps(folder) == before
    first_lines = again.stdout.partition("run digits\n")[0].splitlines()
    shown = {line.partition(":")[0] for line in first_lines}
    # No line of any stage. Corpora are listed at each start, which has a line where it takes long.
    assert {one for one in shown if not one.startswith("list ")} == {"warning", "curves"}


@pytest.mark.long
def test_a_student_is_fine_tuned_on_labels_on_picks_or_on_both(first, ray_local, monkeypatch):
    folder, _ = first
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["job", *SHORT, *given_teacher(folder)])
    root, options = Root.open("runs"), _options("", Options[Recipe])
    start, tasks = prepare(root, options.recipe), {}

    def note(_root, name, task, *_rest):
        tasks[name] = task

    for share in (0.0, 0.25, 1.0):
        run = Run(root, replace(options.recipe, finetune_picks=share), start)
        labeled, picked, init = run.labeled_examples, run.pseudo_examples, run.pretrained
        with monkeypatch.context() as patch:
            patch.setattr(semi_supervised, "train", note)
            assert run.student is None
        task = tasks.pop("student")
        assert task.examples == (picked if share == 1 else labeled) and task.init == init
        assert task.mixture == (Mixture(examples=picked, share=share) if share == 0.25 else None)
        assert task.config == options.recipe.finetune
    for share in (-0.1, 0.001, 1.1):
        with pytest.raises(
            InputError, match=f"^finetune_picks is {share}, so -?[0-9]+ of the 64 images of a batch would"
        ):
            replace(options.recipe, finetune_picks=share)


@pytest.mark.long
def test_soft_targets_are_of_the_picks_and_not_of_labels(first, ray_local, monkeypatch):
    folder, _ = first
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["job", *SHORT, *given_teacher(folder)])
    root, options = Root.open("runs"), _options("", Options[Recipe])
    plain, start, tasks = options.recipe, prepare(root, options.recipe), {}
    soft = replace(plain, pretrain=replace(plain.pretrain, soft=0.5, temperature=2.0), mixed=0.5)
    run, before = Run(root, soft, start), Run(root, plain, start).pseudo_examples
    examples = run.pseudo_examples
    assert examples != before and media_of(examples) == media_of(before)  # no byte is written again
    with monkeypatch.context() as patch:
        patch.setattr(semi_supervised, "train", lambda _root, name, task, *_rest: tasks.update({name: task}))
        for stage in ("pretrained", "control", "mixed"):
            assert getattr(run, stage) is None
    assert [tasks[name].config.soft for name in ("pretrained", "control", "mixed")] == [0.5, 0.0, 0.5]
    assert tasks["pretrained"].examples == examples and examples.info["soft"]
    assert soft.control_train == replace(plain, mixed=0.5).control_train
    with_soft = replace(plain.finetune, soft=0.1)
    for fields, name in (
        ({"finetune": with_soft}, "finetune"),
        ({"teacher": replace(plain.teacher, train=with_soft)}, "teacher.train"),
        ({"control": Control(train=with_soft)}, "control.train"),
    ):
        with pytest.raises(InputError, match=f"^{name}.soft is 0.1, but it is not trained on picks: unset it"):
            replace(plain, **fields)
    assert replace(plain, finetune=with_soft, finetune_picks=0.5).soft
    with pytest.raises(InputError, match="soft is set, but no teacher labels the corpus"):
        replace(soft, source=GivenLabels())


@pytest.mark.long
def test_lists_end_where_the_held_out_labels_say(first, ray_local, monkeypatch, capfd):
    folder, _ = first
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["job", *SHORT, *given_teacher(folder)])
    root, plain = Root.open("runs"), _options("", Options[Recipe]).recipe
    assert Run(root, plain, prepare(root, plain)).audit is None  # a given teacher may have learned from all labels
    held = replace(plain, holdout=0.4, select=replace(plain.select, allow_empty=True))
    run = Run(root, held, prepare(root, held)).build("picks")
    assert run.audit and run.audit.info["samples"] == 20 and run.picks == run.lists
    least = run.audit.info["precision"] + 0.01
    short = replace(held, select=replace(held.select, precision=least))
    again = Run(root, short, run.start).build("picks")
    assert again.lists == run.lists and again.picks != again.lists and again.audit
    assert again.audit.info["precision"] >= least
    assert again.picks.info["per_class"] == again.audit.info["lengths"]
    said = capfd.readouterr().out  # before anything is trained on picks: the teacher of this run is not trained
    assert "of the picks (" in said and "\nwarning: do not expect a gain: at most " in said
    assert doubts_of(run, run.picks) and "pretrained" not in run.__dict__
    assert Run(root, replace(short, audit=True), run.start).picks == again.picks
    with pytest.raises(InputError, match="^select.precision is .*, but no labeled samples are held out"):
        replace(plain, select=short.select)
    with pytest.raises(InputError, match="^select.precision is .*, but no labeled samples are held out"):
        replace(short, audit=False)


@pytest.mark.long
def test_another_k_needs_other_picks_and_what_is_trained_on_them(first, ray_local, monkeypatch):
    folder, _ = first
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["job", *SHORT, *given_teacher(folder), "--select.k", "50"])
    root, options = Root.open("runs"), _options("", Options[Recipe])
    run = Run(ReadOnlyRoot(root.uri, root), options.recipe, prepare(root, options.recipe))
    missing = set()
    for stage in STAGES:
        try:
            getattr(run, stage)
        except MissingError:
            missing.add(stage)
    assert missing == {"lists", "picks", "precision", "pseudo_examples", "pretrained", "student", "tests", "metrics"}


@pytest.mark.slow
def test_a_run_with_another_k_does_not_score_again(first):
    folder, _ = first
    before = stamps(folder)
    other = job(*SHORT, *given_teacher(folder), "--select.k", "50", folder=folder)
    assert other.returncode == 0, other.stderr
    assert "label unlabeled by teacher" not in other.stdout
    assert "train control" not in other.stdout  # the control does not depend on the picks
    assert "train pretrained" in other.stdout
    assert summary_of(folder, k=50)["picks"]["max"] == 50
    after = stamps(folder)
    assert {path: after[path] for path in before} == before


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["digits", "--select.k", "0"], "select.k is 0"),
        (["digits", "--root", "/proc/none"], "cannot write to root '/proc/none'"),
        (["nothing"], "no recipe 'nothing'"),
        (["cifar10"], "give --data DIR"),
        (["none.py:recipe"], "no file 'none.py'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, arguments, message):
    done = job(*arguments, folder=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert message in line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda recipe: replace(recipe, select=replace(recipe.select, p=11)), "^select.p is 11"),
        (lambda recipe: replace(recipe, student=Model(arch="resnet19")), "^student.arch is 'resnet19'.*resnet18"),
        (lambda recipe: recipes.make(recipes.find("cifar10"), "/nowhere"), "/nowhere/labeled-4k.parquet"),
        (lambda recipe: replace(recipe, teacher=replace(recipe.teacher, train=None, checkpoint="no.pt")), "no.pt"),
    ],
)
def test_bad_input_is_an_error_before_any_work(ray_local, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        prepare(Root.open(str(tmp_path)), change(recipes.digits()))
    assert not list(tmp_path.glob("examples-*"))


def test_warnings_about_the_inputs_are_printed_before_any_work(ray_local, tmp_path, capsys):
    for name, labels in (("a", ["Cat", "cat"]), ("b", ["Cat", "Cat"])):
        pq.write_table(pa.table({"image": [b"x", b"y"], "label": labels}), tmp_path / f"{name}.parquet")
    both, one = (Corpus(uri=(str(tmp_path / f"{name}.parquet"),)) for name in "ab")
    recipe = recipes.digits()
    recipe = replace(recipe, labeled=both, unlabeled=both, test=one, select=replace(recipe.select, p=1))
    start = prepare(Root.open(str(tmp_path / "root")), recipe)
    case, lacking = start.warnings
    assert "'Cat' and 'cat'" in case
    assert lacking == "the test set has no sample of 1 of 2 classes ('cat'): the accuracies do not cover them"
    assert f"warning: {case}\nwarning: {lacking}\n" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.parametrize("recipe", [(), ("cifar10",)])
def test_help_explains_each_field(tmp_path, recipe):
    done = job(*recipe, "--help", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for text in ("--select.k", "K, samples kept per class", "--pretrain.schedule.drops", "--root", "cifar10"):
        assert text in done.stdout
