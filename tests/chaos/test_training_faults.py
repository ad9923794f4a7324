"""Training under faults: real processes are killed, and the result is compared with that of a run without faults."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import contents
from paths import PYTHONPATH, SUPPORT

from raylabel.store.artifact import Artifact, Root
from raylabel.store.files import list_files
from raylabel.training.stream import Stream

STEPS, BATCH, EVERY = 40, 64, 5
DRIVER = SUPPORT / "training_driver.py"
SEED = 3  # of trainings.fit
QUIET = {"RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_AUTH_MODE": "disabled"}  # the latter for a cluster of several nodes

slow = pytest.mark.slow


@dataclass
class Training:
    """One command: its root, its number of workers and its faults."""

    folder: Path
    workers: int = 2
    pause: float = 0.0
    fault: str = ""
    steps: int = STEPS
    nodes: int = 0
    root: str = ""
    every: int = EVERY

    def start(self) -> subprocess.Popen:
        for name in ("root", "corpus", "log"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        settings: dict = {name: str(self.folder / name) for name in ("root", "corpus", "log")}
        settings |= {"workers": self.workers, "nodes": self.nodes, "steps": self.steps, "every": self.every}
        settings |= {"pause": self.pause, "fault": self.fault} | ({"root": self.root} if self.root else {})
        return subprocess.Popen(
            [sys.executable, str(DRIVER), json.dumps(settings)],
            env={**os.environ, "PYTHONPATH": PYTHONPATH, **QUIET},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, status: int = 0) -> str:
        return output_of(self.start(), status)

    @property
    def net(self) -> Artifact:
        (net,) = Root.open(str(self.folder / "root")).named("net")
        return net

    @property
    def examples(self) -> Artifact:
        (examples,) = Root.open(str(self.folder / "root")).named("examples-labeled")
        return examples

    def checkpoints(self) -> list[Path]:
        """The complete checkpoints, the newest last."""
        found = self.folder.glob("root/net-*/scratch/checkpoints/*/checksums.json")
        return sorted(path.parent for path in found)

    def logs(self) -> list[tuple[int, int, int, Path]]:
        """(size of the group, rank, pid, log) of each worker that was ever started, in that order."""
        paths = sorted((self.folder / "log").iterdir(), key=lambda path: int(path.name.split("-")[0]))
        names = ([int(word) for word in path.name.split("-")] for path in paths)
        return [(world, rank, pid, path) for (_, world, rank, pid), path in zip(names, paths, strict=True)]

    def has_started(self) -> bool:
        """Whether some steps have been done."""
        steps = self.folder / "log.steps"
        return steps.exists() and steps.stat().st_size > 5

    def alive(self) -> dict[int, int]:
        """Rank → pid of the workers that are running now and have begun to train."""
        return {rank: pid for _, rank, pid, _ in self.logs() if Path(f"/proc/{pid}").exists()}


def output_of(process: subprocess.Popen, status: int = 0) -> str:
    """The output of the process, once it has ended with that status."""
    try:
        output = process.communicate(timeout=200)[0]
    finally:
        process.kill()
    assert process.returncode == status, output
    return output


def wait_for(what: Callable[[], object], process: subprocess.Popen) -> None:
    """Waits until `what` is true; the process must still be running then."""
    deadline = time.monotonic() + 150
    while not what():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.poll() is None


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Callable[[int], Training]:
    """Runs without faults, one for each number of workers."""
    made: dict[int, Training] = {}

    def run(workers: int) -> Training:
        if workers not in made:
            training = Training(tmp_path_factory.mktemp(f"clean{workers}"), workers)
            training.run()
            made[workers] = training
        return made[workers]

    return run


def training_on(clean: Training, folder: Path, **more) -> Training:
    """A training on the same EXAMPLES, in another root."""
    shutil.copytree(clean.folder / "corpus", folder / "corpus")
    for path in (clean.folder / "root").iterdir():
        if not path.name.startswith("net-"):
            shutil.copytree(path, folder / "root" / path.name)
    return Training(folder, **{"workers": clean.workers, **more})


def same_end(one: Training, two: Training) -> None:
    """AssertionError unless identity, weights (exactly) and curve are the same and no scratch files are left."""
    assert one.net.digest == two.net.digest and contents(one.net) == contents(two.net)
    assert not list(two.folder.glob("root/net-*/scratch"))


def effective_history(training: Training) -> dict[int, int]:
    """Global item → key, of all items in the final weights: each start's items up to the first item of the next start.

    Every item must be read by exactly one worker of its start.
    """
    groups: list[tuple[int, dict[int, Path]]] = []  # (size, rank → log)
    for world, rank, _, path in training.logs():
        if not groups or groups[-1][0] != world or rank in groups[-1][1]:
            groups.append((world, {}))
        groups[-1][1][rank] = path
    history: dict[int, int] = {}
    begun: list[tuple[int, dict[int, int]]] = []
    for _, paths in groups:
        items: dict[int, int] = {}
        for path in paths.values():
            for g, key in (map(int, line.split()) for line in path.read_text().splitlines() if line.count(" ") == 1):
                assert g not in items
                items[g] = key
        if items:
            begun.append((min(items) // BATCH * BATCH, items))
    ends = [first for first, _ in begun[1:]] + [training.steps * BATCH]
    for (first, items), end in zip(begun, ends, strict=True):
        for g in range(first, end):
            assert g not in history, "the training used an item twice"
            history[g] = items[g]
    return history


def clean_history(training: Training) -> dict[int, int]:
    items = Stream(training.examples, SEED).items(0, training.steps * BATCH)
    return {g: key for g, key, *_ in items}


@pytest.mark.slow
def test_a_lost_worker_costs_the_steps_since_the_last_checkpoint(clean, tmp_path):
    training = training_on(clean(2), tmp_path, pause=0.1)
    process = training.start()
    for rank in (1, 0):
        before = len(training.checkpoints()) and int(training.checkpoints()[-1].name)
        wait_for(
            lambda before=before: (
                training.checkpoints() and int(training.checkpoints()[-1].name) > before and len(training.alive()) == 2
            ),
            process,
        )
        gone = training.alive()
        os.kill(gone[rank], signal.SIGKILL)
        wait_for(lambda gone=gone: set(training.alive().values()) - set(gone.values()), process)
    output = output_of(process)
    assert output.count("lost worker") == 2 and "training resumes from step" in output
    assert {world for world, *_ in training.logs()} == {2} and len(training.logs()) == 6
    same_end(clean(2), training)
    assert effective_history(training) == clean_history(training)


@slow
def test_training_survives_the_loss_of_its_controller_and_its_board(clean, tmp_path):
    training = training_on(clean(2), tmp_path, pause=0.3)
    process = training.start()
    for title in "ray::_Board", "ray::TrainController":
        wait_for(lambda: training.checkpoints() and len(training.alive()) == 2, process)
        newest, (pid,) = training.checkpoints()[-1].name, descendants(process.pid, title)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda newest=newest: training.checkpoints()[-1].name > newest, process)
    output = output_of(process)
    assert "lost all workers (ActorDiedError" in output
    same_end(clean(2), training)
    assert effective_history(training) == clean_history(training)


def descendants(pid: int, title: str) -> list[int]:
    """The descendants of process `pid` whose title begins with `title`."""
    parents: dict[int, int] = {}
    titles: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(folder.name)] = (folder / "cmdline").read_text()
        except OSError:  # it has ended
            continue

    def ancestors(child: int) -> Iterator[int]:
        while child := parents.get(child, 0):
            yield child

    return [child for child in parents if titles.get(child, "").startswith(title) and pid in ancestors(child)]


def kill(process: subprocess.Popen, training: Training) -> None:
    """Kills the driver and its workers, which would otherwise run until Ray notices that the driver has died."""
    process.kill()
    deadline = time.monotonic() + 60
    while alive := training.alive():
        for pid in alive.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.communicate()


def interrupted(clean: Training, folder: Path) -> Training:
    """A training whose driver was killed when it had two checkpoints, before the last one."""
    training = training_on(clean, folder, pause=0.1)
    process = training.start()
    wait_for(lambda: len(training.checkpoints()) == 2, process)
    kill(process, training)
    training.pause = 0
    return training


@slow
def test_a_damaged_checkpoint_is_skipped_with_a_warning(clean, tmp_path):
    training = interrupted(clean(2), tmp_path / "one")
    older, newest = training.checkpoints()
    weights = newest / "model.safetensors"
    content = weights.read_bytes()
    middle = len(content) // 2
    weights.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    output = training.run()
    assert re.search(rf"warning: checkpoint {newest.name} is damaged.*step {int(older.name)}\b", output)
    assert len(training.net.info["passed_over"]) == 1 and newest.name in training.net.info["passed_over"][0]
    assert training.net.info["images"] == (STEPS - int(older.name)) * BATCH
    same_end(clean(2), training)
    assert effective_history(training) == clean_history(training)

    training = interrupted(clean(2), tmp_path / "two")
    for checkpoint in training.checkpoints():
        weights = checkpoint / "momentum.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
    folder = training.checkpoints()[0].parent
    begun = len(training.logs())
    output = training.run(status=2)
    assert f"{folder}: no checkpoint is intact" in output and "Traceback" not in output
    assert len(training.logs()) == begun  # it did not start again from step 0


@pytest.mark.slow
def test_a_bug_in_the_loop_ends_the_run_without_a_restart(clean, tmp_path):
    training = training_on(clean(2), tmp_path, fault="raise")
    output = training.run(status=1)
    assert "a bug in the loop" in output
    assert len(training.logs()) == 2  # one start of two workers


@slow
def test_a_worker_whose_gpu_fails_is_a_lost_worker(clean, tmp_path):
    training = training_on(clean(2), tmp_path, fault="gpu")
    output = training.run()
    assert "lost worker 1 (AcceleratorError: CUDA error: uncorrectable ECC error encountered), which costs" in output
    assert output.count("training resumes from step") == 1
    same_end(clean(2), training)
    assert effective_history(training) == clean_history(training)


@slow
def test_workers_that_die_repeatedly_end_the_run(clean, tmp_path):
    training = training_on(clean(2), tmp_path, fault="die")
    output = training.run(status=2)
    assert "with no checkpoint after step 20" in output and "the same command resumes" in output
    training.fault = ""
    training.run()
    same_end(clean(2), training)


@slow
@pytest.mark.parametrize("victim", ["worker", "driver"])
def test_a_kill_while_a_checkpoint_is_written(clean, tmp_path, victim):
    training = training_on(clean(2), tmp_path, fault="slow save")
    process = training.start()

    def incomplete() -> bool:
        folders = set(training.folder.glob("root/net-*/scratch/checkpoints/*"))
        return bool(training.checkpoints()) and bool(folders - set(training.checkpoints()))

    wait_for(incomplete, process)
    if victim == "worker":
        os.kill(training.alive()[0], signal.SIGKILL)
        output = output_of(process)
    else:
        kill(process, training)
        output = training.run()
    assert "is incomplete: writing it was interrupted; it is skipped" in output
    same_end(clean(2), training)
    assert effective_history(training) == clean_history(training)


@slow
def test_two_workers_then_one_then_three_train_on_the_same_samples(clean, tmp_path):
    training = training_on(clean(2), tmp_path, pause=0.1)
    for workers, step in (2, 10), (1, 25), (3, STEPS):
        training.workers = workers
        process = training.start()
        if step < STEPS:
            wait_for(lambda step=step: training.checkpoints() and int(training.checkpoints()[-1].name) >= step, process)
            kill(process, training)
        else:
            output_of(process)
    assert {world for world, *_ in training.logs()} == {1, 2, 3}
    assert training.net.digest == clean(2).net.digest and training.net.info["workers"] == 3
    assert effective_history(training) == clean_history(training)


@slow
def test_a_worker_that_gets_sigterm_writes_a_checkpoint(clean, tmp_path):
    training = training_on(clean(2), tmp_path, pause=0.2, every=1000)
    process = training.start()
    wait_for(training.has_started, process)
    begin = time.monotonic()
    os.kill(training.alive()[1], signal.SIGTERM)
    wait_for(training.checkpoints, process)  # none is due before the last step
    assert time.monotonic() - begin < 30
    output = output_of(process)
    assert "a worker was told to end; training resumes from step" in output
    assert effective_history(training) == clean_history(training)
    same_end(clean(2), training)


@slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_driver_that_gets_a_signal_lets_its_workers_write_a_checkpoint(clean, tmp_path, number):
    training = training_on(clean(2), tmp_path, pause=0.2, every=1000)
    process = training.start()
    wait_for(training.has_started, process)
    begin = time.monotonic()
    process.send_signal(number)
    process.communicate(timeout=60)
    assert time.monotonic() - begin < 30 and process.returncode != 0
    (checkpoint,) = training.checkpoints()  # none was due
    kept = int(checkpoint.name)
    training.pause = 0
    training.run()
    assert training.net.info["images"] == (STEPS - kept) * BATCH
    assert effective_history(training) == clean_history(training)
    same_end(clean(2), training)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 50 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=50m", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@slow
def test_a_full_disk_under_the_checkpoints(clean, small_disk):
    training = training_on(clean(2), small_disk, pause=0.05)
    (small_disk / "log").mkdir()
    process = training.start()
    wait_for(lambda: len(training.checkpoints()) == 2, process)
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        with open(filler, "wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 12))
    begin = time.monotonic()
    output = output_of(process, status=2)
    assert time.monotonic() - begin < 60
    assert f"{small_disk}/root/net-" in output and "No space left" in output and "Traceback" not in output
    assert not list(small_disk.glob("root/net-*/manifest.json")) and not list(small_disk.glob("root/**/*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    training.run()
    same_end(clean(2), training)


@slow
def test_a_driver_whose_root_is_a_bucket_is_killed(clean, bucket, tmp_path):
    training = Training(tmp_path, pause=0.2, root=f"{bucket}/a root")
    process = training.start()
    wait_for(lambda: sum("checksums.json" in name for name in list_files(training.root)) == 2, process)
    kill(process, training)
    training.pause = 0
    training.run()
    (net,) = Root.open(training.root).named("net")
    assert net.info["images"] <= (STEPS - 2 * EVERY) * BATCH and contents(net) == contents(clean(2).net)
    assert not [name for name in list_files(training.root) if "/scratch/" in name]


@slow
def test_training_shrinks_when_a_node_is_lost_and_grows_when_one_joins(clean, tmp_path):
    training = training_on(clean(2), tmp_path, pause=0.25, workers=3, nodes=3, steps=400)
    process = training.start()
    wait_for(lambda: training.checkpoints() and len(training.alive()) == 3, process)
    _, *nodes = (tmp_path / "nodes").read_text().splitlines()
    os.kill(int(nodes[0].split()[1]), signal.SIGKILL)
    wait_for(lambda: 2 in {world for world, *_ in training.logs()}, process)
    process.send_signal(signal.SIGUSR1)  # adds a node
    wait_for(lambda: training.logs()[-1][0] == 3, process)
    output = output_of(process)
    assert output.count("lost worker") == 1 and output.count("there is room for more workers") == 1
    worlds = [world for world, *_ in training.logs()]
    assert worlds == [3] * 3 + [2] * 2 + [3] * 3
    assert training.net.info["workers"] == 3
    assert effective_history(training) == clean_history(training)


@slow
def test_training_leaves_a_draining_node_in_time(clean, tmp_path):
    training = training_on(clean(2), tmp_path, pause=0.3, workers=2, nodes=2, steps=80, every=1000)
    process = training.start()
    wait_for(training.has_started, process)
    address, *nodes = (tmp_path / "nodes").read_text().splitlines()
    node, raylet = nodes[0].split()
    notice = f"drain-node --address {address} --node-id {node} --deadline-remaining-seconds 60 --reason"
    reason = ["DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a spot notice"]
    command = [str(Path(sys.executable).parent / "ray"), *notice.split(), *reason]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **QUIET})
    begin = time.monotonic()
    wait_for(training.checkpoints, process)  # none is due before the last step
    assert time.monotonic() - begin < 30
    wait_for(lambda: 1 in {world for world, *_ in training.logs()}, process)
    os.kill(int(raylet), signal.SIGKILL)  # no worker is there any more
    output = output_of(process)
    assert "a machine is about to be shut down" in output and "lost worker" not in output
    assert [world for world, *_ in training.logs()] == [2, 2, 1]
    assert effective_history(training) == clean_history(training)
