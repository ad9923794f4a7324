"""Training workers that stay between trainings."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
from helpers import contents
from trainings import CONFIG, digits_examples, fit

from raylabel.store.artifact import Root
from raylabel.training.held_group import HeldGroup
from raylabel.training.worker_group import _lost

pytestmark = pytest.mark.long


@pytest.fixture
def group(ray_local, tmp_path: Path) -> Iterator[HeldGroup]:
    with HeldGroup(str(tmp_path / "ray_train")) as group:
        yield group


def note(settings: dict[str, Any]) -> None:
    """Writes this process's number under its rank; fails or dies if it is told to."""
    rank = ray.train.get_context().get_world_rank()
    if rank == settings.get("late"):
        time.sleep(1)
    if rank == settings.get("raises"):
        raise ValueError("a bug")
    if rank == settings.get("dies"):
        os.kill(os.getpid(), signal.SIGKILL)
    Path(settings["folder"], f"{settings['number']}-{rank}").write_text(str(os.getpid()))


def processes(folder: Path, number: int) -> dict[str, int]:
    return {path.name.partition("-")[2]: int(path.read_text()) for path in folder.glob(f"{number}-*")}


def test_the_same_processes_run_each_loop_and_end(group: HeldGroup, tmp_path: Path):
    for number in range(3):  # rank 0 is done before rank 1 has got the call
        settings = {"folder": str(tmp_path), "number": number, "late": 1}
        group.fit(note, settings, "", 2, False).result(timeout=100)
        assert len(processes(tmp_path, number)) == 2  # none has left before all have ended
    assert ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"]  # for tasks that run meanwhile
    first = processes(tmp_path, 0)
    assert processes(tmp_path, 1) == processes(tmp_path, 2) == first
    group.fit(note, {"folder": str(tmp_path), "number": 3}, "", 1, False).result(timeout=100)
    assert len(processes(tmp_path, 3)) == 1 and not set(processes(tmp_path, 3).values()) & set(first.values())
    group.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in first.values())


@pytest.mark.parametrize("end", ["raises", "dies"])
def test_an_error_ends_the_workers_and_the_next_loop_has_others(group: HeldGroup, tmp_path: Path, end: str):
    folder = str(tmp_path)
    group.fit(note, {"folder": folder, "number": 0}, "", 2, False).result(timeout=100)
    with pytest.raises(ray.train.TrainingFailedError) as held:
        group.fit(note, {"folder": folder, "number": 1, end: 1}, "", 2, False).result(timeout=100)
    assert bool(_lost(held.value)) == (end == "dies")  # as of workers that do not stay
    group.fit(note, {"folder": folder, "number": 2}, "", 2, False).result(timeout=100)
    assert len(processes(tmp_path, 2)) == 2
    assert not set(processes(tmp_path, 2).values()) & set(processes(tmp_path, 0).values())


def test_trainings_one_after_another_have_the_bytes_of_trainings_alone(group: HeldGroup, tmp_path: Path):
    roots = [Root.open(str(tmp_path / name)) for name in ("alone", "held")]
    examples = [digits_examples(root, tmp_path) for root in roots]
    made = []
    for root, stored, workers in zip(roots, examples, (None, group), strict=True):
        first = fit(root, stored, CONFIG, group=workers)
        made.append([contents(one) for one in (first, fit(root, stored, CONFIG, init=first, group=workers))])
    assert made[0] == made[1]
