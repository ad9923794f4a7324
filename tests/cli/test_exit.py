"""A job that fails or is stopped ends with a readable message and an exit status, and the same command resumes it."""

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
from commands import SMALL, STOPPED, STOPPING
from heads import environment
from helpers import png, write_parquet
from networks import given_teacher
from paths import JOBS, PYTHONPATH


def start(folder: Path, *arguments: str, **more: str) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(JOBS / "semi_supervised.py"), *arguments],
        env=environment(**more),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=580)
    finally:
        process.kill()
    return process.returncode, out, err


def stop_when(process: subprocess.Popen, signum: int, ready: Callable[[], object]) -> tuple[int, str, float]:
    """Sends the signal to the job once `ready` returns true; returns (status, stderr, seconds until it ended)."""
    deadline = time.monotonic() + 280
    while not ready():
        assert process.poll() is None and time.monotonic() < deadline, finish(process)
        time.sleep(0.01)
    begin = time.monotonic()
    process.send_signal(signum)
    status, _, err = finish(process)
    return status, err, time.monotonic() - begin


def picks(folder: Path) -> dict[str, str]:
    (one,) = folder.glob("runs/picks-*")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in one.glob("*.parquet")}


@pytest.mark.slow
def test_sigterm_during_labeling_ends_the_job_in_seconds_with_status_143(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    process = start(tmp_path, "digits", *SMALL, *given_teacher(tmp_path), **cluster)
    status, err, seconds = stop_when(process, signal.SIGTERM, lambda: [*tmp_path.glob("runs/scores-*")])
    assert (status, err) == (143, STOPPING + STOPPED)
    assert seconds < 30
    assert not list(tmp_path.glob("runs/scores-*/manifest.json"))


@pytest.mark.slow
def test_a_corpus_that_contains_the_test_set_ends_the_job_before_a_student_is_trained(tmp_path: Path) -> None:
    leak = "--unlabeled.uri", "embedded://digits/test", "--leaks", "error"
    status, _, err = finish(start(tmp_path, "digits", *SMALL, *leak, *given_teacher(tmp_path)))
    assert status == 2 and err.startswith("error: 500 of 500 test samples leak: "), err
    assert err.endswith(": remove them from the test set or the training data, or set --leaks remove\n")
    assert err.count("\n") == 1
    made = {path.parent.name.rpartition("-")[0] for path in tmp_path.glob("runs/*/manifest.json")}
    assert {"scores", "pairs"} < made and not {"pretrained", "student", "control", "run-digits"} & made


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was not stopped."""
    folder = tmp_path_factory.mktemp("clean")
    status, _, err = finish(start(folder, "digits", *SMALL, *given_teacher(folder)))
    assert status == 0, err
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("signum, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_job_that_is_stopped_repeatedly_ends_with_the_same_picks(
    clean: Path, tmp_path: Path, signum: int, code: int
) -> None:
    # It is stopped while it waits for actors, in a training that has a checkpoint, and in the second training.
    for ready in "scores-*", "pretrained-*/scratch/checkpoints/*", "student-*/scratch/ray_train":
        process = start(tmp_path, "digits", *SMALL, *given_teacher(tmp_path))
        status, err, seconds = stop_when(process, signum, lambda ready=ready: [*tmp_path.glob(f"runs/{ready}")])
        assert (status, err) == (code, (STOPPING if signum == signal.SIGTERM else "") + STOPPED), ready
        assert seconds < 30
        assert not list(tmp_path.glob("runs/run-*/manifest.json"))
    status, _, err = finish(start(tmp_path, "digits", *SMALL, *given_teacher(tmp_path)))
    assert status == 0, err
    assert picks(tmp_path) == picks(clean)


# A job that fails in the way that its argument names.
FAILURES = """
import os, signal, sys
import ray
from raylabel.cli.connect import connect
from raylabel.cli.exit import readable
from raylabel.errors import InputError
from raylabel.media.sandbox.sandbox import SandboxError

@ray.remote(num_cpus=0, max_retries=0)
def fail(how):
    if how == "bug":
        raise KeyError("lost")
    if how == "input":
        raise InputError("select.k is 0")
    if how == "sandbox":
        raise SandboxError("a decoding process got no CPU time for 60 s")
    if how == "disk":
        with open("/dev/full", "w") as file:
            file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)

@ray.remote(num_cpus=0)
class Killed:
    def run(self):
        print("last line of the log", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

with readable():
    connect()
    how = sys.argv[1]
    if how == "here":
        raise KeyError("lost")
    ray.get(Killed.remote().run.remote() if how == "actor" else fail.remote(how))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "how, status, expected",
    [
        ("input", 2, ["error: select.k is 0"]),
        ("bug", 1, ['raise KeyError("lost")', "error: KeyError: 'lost': unexpected, see the traceback above"]),
        ("here", 1, ['raise KeyError("lost")', "error: KeyError: 'lost': unexpected, see the traceback above"]),
        (
            "sandbox",
            1,
            ["error: the sandbox that decodes media does not work on ", "Its output is in "],
        ),
        ("disk", 1, ["error: no space left on ", "No space left on device", "Free some there"]),
        ("worker", 1, ["error: a process died too often: ", "/logs"]),
        (
            "actor",
            1,
            ["error: a process died too often: ", "class_name: Killed", "/logs/worker-", "last line of the log"],
        ),
    ],
)
def test_each_failure_is_printed_once_with_its_fix(
    cluster: dict[str, str], tmp_path: Path, how: str, status: int, expected: list[str]
) -> None:
    script = tmp_path / "fail.py"
    script.write_text(FAILURES)
    done = subprocess.run(
        [sys.executable, str(script), how],
        env=environment(PYTHONPATH=PYTHONPATH, **cluster),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status, done.stderr
    for text in expected:
        assert done.stderr.count(text) == 1, done.stderr
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr or how in ("bug", "here")
    if status == 1:
        assert done.stderr.rstrip().endswith("the same command resumes from what is committed")


WIDE = """
import os, sys
import ray
from raylabel.cli.connect import connect
from raylabel.cli.exit import readable
from raylabel.store.artifact import Root
from raylabel.corpus import Corpus, index_corpus
from raylabel.inference.scores import Scoring, make_scores
from raylabel.compute.resources import Resources
from raylabel.compute.watchdog import watched
from wide import Wide

with readable():
    connect()
    held = ray.put(bytes(int(sys.argv[2])))  # of another user
    with watched(120):
        root, corpus = Root.open("runs"), Corpus(uri=(sys.argv[1],))
        shards = index_corpus(root, "wide", corpus)
        where = Resources(teachers=1, decode="cluster")
        made = make_scores(root, Scoring(
            scorer=Wide(), source={"wide": 1}, shards=shards, corpus=corpus, batch=32, reject_limit=0.05,
            resources=where,
        ))
        spilled = sum(len(files) for _, _, files in os.walk(os.environ["RAY_object_spilling_directory"]))
        print(made.info["scored"], made.info["rejected"], spilled > 0, len(ray.get(held)))
"""
STORE = 100_000_000  # bytes of the object store


def score_wide(folder: Path, corpus: Path, held: int, **more: str) -> tuple[int, str, str]:
    """Scores a corpus with decoding in cluster tasks, so that the pixels pass through the object store. Another object
    occupies `held` bytes of it."""
    process = subprocess.Popen(
        [sys.executable, "-c", WIDE, str(corpus), str(held)],
        env=environment(
            PYTHONPATH=PYTHONPATH,
            RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES=str(STORE),
            **more,
        ),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return finish(process)


def small_pictures(path: Path, count: int) -> Path:
    """Random pictures of 8x8 pixels; the view resizes them to 224x224, 150 KB each."""
    rng = np.random.default_rng(0)
    return write_parquet(path, [png(rng.integers(0, 256, (8, 8), np.uint8)) for _ in range(count)])


@pytest.mark.slow
def test_a_corpus_of_twenty_times_the_object_store_is_scored(tmp_path: Path) -> None:
    count, held = 20 * STORE // (224 * 224 * 3), STORE * 9 // 10  # most of these bytes must be spilled to the disk
    corpus, spill = small_pictures(tmp_path / "corpus.parquet", count), tmp_path / "spill"
    status, out, err = score_wide(tmp_path, corpus, held, RAY_object_spilling_directory=str(spill))
    assert status == 0, err
    assert out.splitlines()[-1] == f"{count} 0 True {held}"


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A new file system of that size, mounted at the folder."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount the file system that this test fills")
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]).returncode:
        pytest.skip("this machine cannot mount the file system that this test fills")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_spill_folder_ends_in_an_error_that_names_it(tmp_path: Path) -> None:
    with small_disk(tmp_path / "spill", 50) as folder:
        (folder / "other").write_bytes(bytes(45_000_000))
        corpus = small_pictures(tmp_path / "corpus.parquet", 1_000)
        status, out, err = score_wide(tmp_path, corpus, STORE * 9 // 10, RAY_object_spilling_directory=str(folder))
    assert status == 1, out + err
    last = err.splitlines()[-1]
    assert last.startswith("error: the disk of Ray's spill folder is full on ") and f": {folder} (" in last, err
    assert last.endswith("the same command resumes from what is committed")
    assert not list(tmp_path.glob("runs/scores-*/manifest.json"))
