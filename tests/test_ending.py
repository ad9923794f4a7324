"""However a job ends, it says so in words and by its status, and the same command goes on from there."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from heads import JOBS, Head, environment, started_head
from helpers import png, write_parquet

from raylabel.models import Model, build, save_weights

STOPPED = "stopped: the same command goes on from what is committed"
SMALL = (
    *("--student.arch", "resnet8x1", "--select.k", "20", "--pretrain.images", "640", "--finetune.images", "640"),
    *("--pretrain.checkpoint-every", "5", "--label.batch", "8"),
)


def start(folder: Path, *arguments: str, **more: str) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(JOBS / "semi_supervised.py"), *arguments],
        env=environment(**more),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=280)
    return process.returncode, out, err


def stop_when(process: subprocess.Popen, signum: int, seen: Callable[[str], bool]) -> tuple[int, str, float]:
    """(status, stderr, seconds it took to end) of a job that gets the signal once a line of its output is `seen`."""
    assert process.stdout and process.stderr
    for line in process.stdout:
        if seen(line):
            break
    else:
        raise AssertionError(process.stderr.read())
    begin = time.monotonic()
    process.send_signal(signum)
    status, _, err = finish(process)
    return status, err, time.monotonic() - begin


def given_teacher(folder: Path) -> tuple[str, ...]:
    """An untrained one: a teacher that is given need not be trained before there is something to label."""
    torch.manual_seed(0)
    path = folder / "teacher.safetensors"
    path.write_bytes(save_weights(build(Model(arch="resnet8x2"), 10)))
    return ("--teacher.checkpoint", str(path))


def picks(folder: Path) -> dict[str, str]:
    (one,) = folder.glob("runs/picks-*")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in one.glob("*.parquet")}


def test_sigterm_while_it_labels_ends_the_job_in_seconds_with_status_143(tmp_path: Path) -> None:
    process = start(tmp_path, "digits", *SMALL, *given_teacher(tmp_path))
    status, err, seconds = stop_when(process, signal.SIGTERM, lambda line: line.startswith("label: 0 of"))
    assert (status, err) == (143, f"{STOPPED}\n")
    assert seconds < 30
    assert not list(tmp_path.glob("runs/scores-*/manifest.json"))


@pytest.mark.slow
@pytest.mark.parametrize("signum, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_job_that_is_stopped_twice_ends_with_the_picks_of_one_that_was_not(
    tmp_path: Path, signum: int, code: int
) -> None:
    clean, stopped = tmp_path / "clean", tmp_path / "stopped"
    small = ("digits", *SMALL, "--teacher.train.images", "6400", "--teacher.train.checkpoint-every", "10")
    status, _, err = finish(start(clean, *small))
    assert (status, err) == (0, "")
    stages: tuple[Callable[[str], bool], ...] = (
        lambda line: line.startswith("train teacher: ") and not line.startswith("train teacher: 0 of"),
        lambda line: line.startswith("label: 0 of 1,247"),
        lambda line: line.startswith("train pretrained: 0 of"),
    )
    for seen in stages:
        status, err, seconds = stop_when(start(stopped, *small), signum, seen)
        assert (status, err) == (code, f"{STOPPED}\n")
        assert seconds < 30
        assert not list(stopped.glob("runs/run-*/manifest.json"))
    status, _, err = finish(start(stopped, *small))
    assert (status, err) == (0, "")
    assert picks(stopped) == picks(clean)


# What fails in each way, and what the person reads.
FAILURES = """
import os, signal, sys
import ray
from connect import connect
from ending import readable
from raylabel.errors import InputError
from raylabel.media.sandbox import SandboxError

@ray.remote(num_cpus=0, max_retries=0)
def fail(how):
    if how == "bug":
        raise KeyError("lost")
    if how == "input":
        raise InputError("select.k is 0")
    if how == "sandbox":
        raise SandboxError("no CPU for a decoding process in 60 s")
    if how == "disk":
        with open("/dev/full", "w") as file:
            file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)

@ray.remote(num_cpus=0)
class Poor:
    def run(self):
        print("my last words", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

with readable():
    connect()
    how = sys.argv[1]
    if how == "here":
        raise KeyError("lost")
    ray.get(Poor.remote().run.remote() if how == "actor" else fail.remote(how))
"""


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with started_head() as found:
        yield found


@pytest.mark.parametrize(
    "how, status, words",
    [
        ("input", 2, ["error: select.k is 0"]),
        ("bug", 1, ['raise KeyError("lost")', "error: KeyError: 'lost': this is not foreseen; the lines above"]),
        ("here", 1, ['raise KeyError("lost")', "error: KeyError: 'lost': this is not foreseen; the lines above"]),
        (
            "sandbox",
            1,
            ["error: the sandbox that decodes media does not work on ", "Its own words are in /tmp/ray"],
        ),
        ("disk", 1, ["error: no space left on ", "No space left on device", "Free some there"]),
        ("worker", 1, ["error: a process died too often: ", "/logs"]),
        ("actor", 1, ["error: a process died too often: ", "class_name: Poor", "/logs/worker-", "my last words"]),
    ],
)
def test_each_failure_is_told_once_with_what_to_do(
    head: Head, tmp_path: Path, how: str, status: int, words: list[str]
) -> None:
    script = tmp_path / "fail.py"
    script.write_text(FAILURES)
    done = subprocess.run(
        [sys.executable, str(script), how],
        env=environment(PYTHONPATH=f"{JOBS}:{JOBS.parent}", **head.environment),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status, done.stderr
    for word in words:
        assert done.stderr.count(word) == 1, done.stderr
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr or how in ("bug", "here")
    if status == 1:
        assert done.stderr.rstrip().endswith("the same command goes on from what is committed")


@contextmanager
def full_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own of that size."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a file system of its own, which this test fills")
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)])
    if made.returncode:
        pytest.skip("this machine lets nobody mount a file system, which this test fills")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def pictures(folder: Path, count: int) -> Path:
    """A recipe whose corpus is 8x8 digits that its view makes 224 pixels wide: 150 KB each in the object store."""
    rng = np.random.default_rng(0)
    media = [png(rng.integers(0, 256, (8, 8), np.uint8)) for _ in range(count)]
    write_parquet(folder / "corpus.parquet", media)
    path = folder / "large.py"
    path.write_text(
        "from dataclasses import replace\n"
        "from raylabel import recipes\n"
        "from raylabel.corpus import Corpus\n"
        "from raylabel.media.views import View\n"
        "from raylabel.resources import Resources\n\n\n"
        "def large():\n"
        f"    view, corpus = View(size=224, resize=224), Corpus(uri=({str(folder / 'corpus.parquet')!r},))\n"
        "    made = recipes.digits()\n"
        "    return replace(made, unlabeled=corpus, view=view, resources=Resources(decode='cluster', workers=1))\n"
    )
    return path
