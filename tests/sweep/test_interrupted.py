"""A sweep that is stopped or killed resumes when it is started again, and loses no finished work."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import STOPPED, STOPPING
from heads import end_ray, environment, started_head
from paths import JOBS

from raylabel.sweep.claims import Ledger

UNEVEN = ("select.k=[20,40]", "finetune.images=[500,40000]")  # two trials end long before the others
EVEN = ("select.k=[20,40]",)
SHORT = ("--teacher.train.images", "4000", "--pretrain.images", "4000", "--pretrain.checkpoint-minutes", "0.001")


@contextmanager
def own_ray() -> Iterator[str]:
    """A folder for the Ray clusters that jobs start; ends their processes and deletes the folder."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    try:
        yield folder
    finally:
        end_ray(folder)
        shutil.rmtree(folder, ignore_errors=True)


def start(folder: str, root: Path, space: tuple[str, ...], **more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(JOBS / "sweep.py"), "digits", "--space", *space, *SHORT, "--root", str(root)],
        env=environment(RAY_TMPDIR=folder, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(job: subprocess.Popen) -> dict:
    out, err = job.communicate(timeout=600)
    assert job.returncode == 0, out + err
    (found,) = Path(job.args[-1]).glob("sweep-*/sweep.json")  # pyright: ignore
    return json.loads(found.read_text())


def wait_until(job: subprocess.Popen, ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + 500
    while not ready():
        assert job.poll() is None and time.monotonic() < deadline, job.communicate()
        time.sleep(0.05)


def kill(job: subprocess.Popen, folder: str) -> None:
    job.send_signal(signal.SIGKILL)
    job.communicate()
    end_ray(folder)


def ledger(root: Path) -> Ledger:
    (found,) = root.glob("sweep-*/ledger.json")
    return Ledger.read(str(found))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sweep_stopped_and_killed_during_a_shared_build_finishes(tmp_path):
    root = tmp_path / "runs"
    with own_ray() as folder:
        # While the teacher is trained, for which both trials wait.
        for signum, code, first in (signal.SIGTERM, 143, STOPPING), (signal.SIGINT, 130, ""):
            job = start(folder, root, EVEN)
            wait_until(job, lambda: [*root.glob("teacher-*/scratch/ray_train/run/*")])
            begin = time.monotonic()
            job.send_signal(signum)
            out, err = job.communicate(timeout=120)
            assert (job.returncode, err) == (code, first + STOPPED), out
            assert time.monotonic() - begin < 30
            deadline = time.monotonic() + 30
            while left := processes(folder):
                assert time.monotonic() < deadline, left
                time.sleep(0.2)
            assert not list(root.glob("teacher-*/manifest.json"))
            shutil.rmtree(next(root.glob("teacher-*/scratch/ray_train")))

        job = start(folder, root, EVEN)
        wait_until(job, lambda: [*root.glob("teacher-*/scratch/ray_train/run/*")])
        kill(job, folder)
        assert not list(root.glob("teacher-*/manifest.json"))

        result = finish(start(folder, root, EVEN))
    assert [trial["state"] for trial in result["trials"]] == ["finished"] * 2
    builds = [build for build in ledger(root).builds if build.artifact.startswith("teacher-")]
    assert len(builds) >= 4 and [build.done for build in builds] == [False] * (len(builds) - 1) + [True]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sweep_resumes_on_a_smaller_cluster_with_fewer_concurrent_trials(tmp_path):
    root, space = tmp_path / "runs", ("select.k=[10,20,40,80]",)
    with started_head(cpus=4) as head:
        job = start(head.folder, root, space, **head.environment)
        wait_until(job, lambda: active_trials(head.folder) == 4)
        wait_until(job, lambda: [*root.glob("picks-*/manifest.json")])
        kill(job, head.folder)
    with started_head(cpus=2) as head:
        job = start(head.folder, root, space, **head.environment)
        most = 0
        while job.poll() is None:
            most = max(most, active_trials(head.folder))
            time.sleep(0.1)
        assert [trial["state"] for trial in finish(job)["trials"]] == ["finished"] * 4
    assert most == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_trial_is_retried_if_its_processes_are_killed(tmp_path):
    root = tmp_path / "runs"
    with own_ray() as folder:
        job = start(folder, root, EVEN)
        wait_until(job, lambda: [*root.glob("pretrained-*/scratch/ray_train/run/*")])
        lost = {}
        for name in "ray::ImplicitFunc", "ray::_Worker":  # a waiting actor with its worker; then the worker of a trial
            lost[name] = [pid for pid, line in processes(folder).items() if line.startswith(name)][0]
            os.kill(lost[name], signal.SIGKILL)
            time.sleep(2)
        result = finish(job)
    assert [trial["state"] for trial in result["trials"]] == ["finished"] * 2
    assert all(build.done for build in {build.artifact: build for build in ledger(root).builds}.values())


def active_trials(folder: str) -> int:
    """The number of trials that are at work: each has one process in `_Worker.run`."""
    return sum(line.startswith("ray::_Worker.run") for line in processes(folder).values())


def processes(folder: str) -> dict[int, str]:
    """pid → command line of the processes of a Ray cluster, whose command line or log file has the folder in it."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                line = (entry / "cmdline").read_text().replace("\0", " ")
                if folder in line or folder in os.readlink(entry / "fd" / "2"):
                    found[int(entry.name)] = line
        except OSError:  # the process has ended
            pass
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sweep_killed_halfway_keeps_finished_trials_and_finds_the_same_best(tmp_path):
    with own_ray() as folder:
        job = start(folder, tmp_path / "killed", UNEVEN)
        wait_until(job, lambda: finished(tmp_path / "killed"))
        kill(job, folder)
        done = finished(tmp_path / "killed")
        assert 1 <= len(done) < 4
        results = {path: accuracies(path) for path in done}
        networks = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*/model.safetensors")}
        again = finish(start(folder, tmp_path / "killed", UNEVEN))
        assert {path: accuracies(path) for path in results} == results
        assert {path: path.stat().st_mtime_ns for path in networks} == networks
        other = finish(start(folder, tmp_path / "whole", UNEVEN))
    for one in (again, other):  # which trial builds a shared artifact depends on timing
        for trial in one["trials"]:
            del trial["built"], trial["reused"], trial["images"], trial["seconds"]
    assert {len(used) for used in ledger(tmp_path / "killed").uses.values()} == {12}
    assert [again[name] for name in ("trials", "test", "images", "alone")] == [
        other[name] for name in ("trials", "test", "images", "alone")
    ]
    assert not math.isnan(again["test"]["value"])


def accuracies(result: Path) -> list[float]:
    """Accuracy of each stage of a trial, as Ray Tune has recorded it."""
    return [json.loads(stage)["accuracy"] for stage in result.read_text().splitlines()]


def finished(root: Path) -> list[Path]:
    """Result files of the trials that Ray Tune has recorded as finished."""
    states = sorted(root.glob("sweep-*/tune/experiment_state-*.json"))
    if not states:
        return []
    try:
        trials = [json.loads(trial[0]) for trial in json.loads(states[-1].read_text())["trial_data"]]
    except (ValueError, OSError):  # it is being written
        return []
    ended = [one for one in trials if one["status"] == "TERMINATED"]
    return [states[-1].parent / one["relative_logdir"] / "result.json" for one in ended]
