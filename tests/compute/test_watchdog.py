"""A stalled run ends in an error that says what it waits for, in whatever call it waits. A slow run does not end."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import ray
from heads import environment, started_head
from paths import JOBS, PYTHONPATH, REPOSITORY

from raylabel.compute import watchdog as watch
from raylabel.compute.progress import PatientProgress, Progress
from raylabel.compute.resources import Resources
from raylabel.compute.tasks import run_tasks
from raylabel.compute.watchdog import heartbeat, progressed, watched
from raylabel.errors import InputError

# The inputs are built first. Then an actor takes all CPUs, and each stage waits in another call of Ray.
STARVED = """
import json, logging, sys, time
from pathlib import Path
import ray
from helpers import DIGITS_VIEW, digit_images, random_model, write_parquet
from trainings import fit, digits_examples
from raylabel.store.artifact import Root
from raylabel.corpus import Corpus, index_corpus
from raylabel.errors import InputError
from raylabel.compute.tasks import run_tasks
from raylabel.labels.teacher import Label, TrainedNetwork
from raylabel.compute.resources import Resources
from raylabel.compute.watchdog import watched

ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
folder = Path(sys.argv[1])
root = Root.open(str(folder / "root"))
examples, teacher = digits_examples(root, folder), random_model(root)
corpus = Corpus(uri=(str(write_parquet(folder / "more.parquet", digit_images()[0][:900])),))
shards = index_corpus(root, "more", corpus)

@ray.remote(num_cpus=2)
class Hog:
    def hold(self): pass

def echo(text):
    return text

hog = Hog.remote()
ray.get(hog.hold.remote())
stages = {
    "ray.get": lambda: index_corpus(root, "other", Corpus(uri=(str(folder / "labeled.parquet"),))),
    "ray.wait": lambda: run_tasks(echo, [("some",), ("more",)]),
    "ray.data": lambda: TrainedNetwork(
        network=teacher, view=DIGITS_VIEW, config=Label(p=3), resources=Resources()
    ).label(root, corpus, shards),
    "ray.train": lambda: fit(root, examples),
}
found = {}
for name, stage in stages.items():
    begin = time.monotonic()
    try:
        with watched(PATIENCE):
            stage()
    except InputError as error:
        found[name] = [str(error), time.monotonic() - begin]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_stage_without_a_free_cpu_ends_in_an_error(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARVED.replace("PATIENCE", "3"), str(tmp_path)],
        env=environment(PYTHONPATH=f"{Path(__file__).parent}:{PYTHONPATH}"),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == {"ray.get", "ray.wait", "ray.data", "ray.train"}
    for name, (error, seconds) in found.items():
        assert "no progress for 3 s" in error and "0 of 2 CPUs free" in error, name
        assert "waiting for resources: " in error and "--resources.patience" in error and "\n" not in error, name
        assert 3 <= seconds < 60, name
    assert found["ray.get"][0].startswith("list other: ")
    waiting = found["ray.wait"][0].partition("waiting for resources: ")[2]
    assert waiting.count("2 x {1 CPU, 0.2 GB memory}") == 1
    assert found["ray.data"][0].startswith("label more by teacher: ")
    assert found["ray.train"][0].startswith("train net: ")
    halfway = [line for line in done.stderr.splitlines() if "an error after 3 s" in line]
    assert len(halfway) == 4 and all("0 of 2 CPUs free" in line for line in halfway)


HOG = """
import sys, time, ray
ray.init(logging_level="ERROR")
@ray.remote(num_cpus=2)
class Hog:
    def hold(self): pass
hog = Hog.remote()
ray.get(hog.hold.remote())
print("held", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_job_on_a_full_cluster_ends_with_status_2(tmp_path: Path) -> None:
    with started_head() as head:
        hog = subprocess.Popen(
            [sys.executable, "-c", HOG], env=environment(**head.environment), stdout=subprocess.PIPE, text=True
        )
        try:
            assert hog.stdout and hog.stdout.readline() == "held\n"
            done = subprocess.run(
                [sys.executable, str(JOBS / "semi_supervised.py"), "digits", "--resources.patience", "4"],
                env=environment(**head.environment),
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=120,
            )
        finally:
            hog.kill()
            hog.wait()
            assert hog.stdout
            hog.stdout.close()
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    halfway = [line for line in lines if "an error after 4 s" in line][-1]  # an earlier stage may have one too
    (error,) = (line for line in lines if line.startswith("error: "))
    assert "no progress for 2 s, an error after 4 s (--resources.patience). The cluster: 1 machine, 0 of 2" in halfway
    assert "no progress for 4 s" in error and "waiting for resources: " in error
    assert not list(tmp_path.glob("runs/shards-*/manifest.json"))


def _work(seconds: float, steps: int, heartbeats: bool) -> int:
    watch._due = 0.0  # an earlier test without a watchdog may have delayed the next heartbeat of this process
    for _ in range(steps):
        time.sleep(seconds / steps)
        if heartbeats:
            heartbeat()
    return os.getpid()


@pytest.mark.slow
def test_a_long_task_with_heartbeats_does_not_stall(ray_local: None) -> None:
    run_tasks(_work, [(0.1, 1, False)])  # starts a worker process
    with watched(5):
        assert len(run_tasks(_work, [(8.0, 16, True)])) == 1
    with pytest.raises(InputError, match="no progress for 1 s"), watched(1):
        run_tasks(_work, [(60.0, 1, False)])


def test_each_watchdog_of_a_driver_receives_heartbeats(ray_local: None) -> None:
    for _ in range(2):
        with watched(60):
            before = ray.get(watch._counter.get.remote())
            while ray.get(watch._counter.get.remote()) == before:
                ray.get(ray.remote(num_cpus=0)(_work).remote(0.1, 1, True))


def test_progress_counts_only_if_more_is_done(ray_local: None) -> None:
    def moves() -> int:
        assert watch._watchdog is not None
        return watch._watchdog.moves

    with watched(60):
        for progress in (Progress("label", 10, "images"), PatientProgress("list", 10, "files")):
            before = moves()
            with progress:
                assert watch._watchdog and watch._watchdog.stage in ("label", "list") and moves() == before + 1
                progress.update(3)
                assert moves() == before + 2
                progress.update(3)
                assert moves() == before + 2
                progress.update(2)  # a training that resumed from its last checkpoint
                assert moves() == before + 3
    progressed("no watchdog")
    assert watch._watchdog is None


@pytest.mark.slow
def test_a_process_whose_main_thread_blocks_signals_is_ended() -> None:
    script = (
        "import signal, time, ray\n"
        "from raylabel.compute import watchdog as watch\n"
        "ray.init(address='local', num_cpus=1, include_dashboard=False, log_to_driver=False)\n"
        "watch.GRACE = 0.5\n"
        "with watch.watched(1):\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])\n"
        "    time.sleep(600)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(PYTHONPATH=str(REPOSITORY)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "error: start: no progress for 1 s" in done.stderr.splitlines()[-1]


def test_ctrl_c_raises_keyboard_interrupt(ray_local: None) -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, (
        "an earlier test has replaced the handler of Ctrl-C"
    )
    with pytest.raises(KeyboardInterrupt), watched(60):
        threading.Timer(0.2, os.kill, (os.getpid(), 2)).start()
        ray.get(ray.remote(num_cpus=0)(_work).remote(10.0, 1, False))


def test_a_patience_of_zero_is_an_error() -> None:
    with pytest.raises(InputError, match="resources.patience is 0"):
        Resources(patience=0)
