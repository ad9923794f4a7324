"""Real jobs on one root: the second stops, a killed one is no hindrance, one whose root is taken away ends."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from test_storage_faults import clean, data, start_job

from raylabel.store.artifact import Root
from raylabel.store.root_lock import held

__all__ = ["clean", "data"]  # fixtures


def test_a_job_on_a_root_in_use_ends_at_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with held(Root.open(str(root))):
        job = start_job(str(tmp_path), str(root))
        out, said = job.communicate(timeout=100)
    assert job.returncode == 2, out + said
    assert f"error: another run uses '{root}' (process {os.getpid()} on " in said and "Traceback" not in said
    assert os.listdir(root) == ["drivers"] and os.listdir(root / "drivers") == []


def at_work(job: subprocess.Popen, root: Path) -> None:
    """Waits until a job labels."""
    deadline = time.monotonic() + 150
    while not list(root.glob("scores-*")):
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_job_is_followed_by_the_same_command(
    data: Path, clean: tuple[Path, tuple[str, str]], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    job = start_job(str(data), str(root))
    at_work(job, root)
    second = start_job(str(data), str(root))
    said = second.communicate(timeout=100)[1]
    assert second.returncode == 2 and f"(process {job.pid} on " in said
    job.send_signal(signal.SIGKILL)
    job.communicate()
    assert not list(root.glob("scores-*/manifest.json")), "the run was over before it was killed: no test"
    again = start_job(str(data), str(root))
    out, said = again.communicate(timeout=200)
    assert again.returncode == 0, out + said
    assert "waiting" not in said and out.splitlines()[-1].split() == ["lists", *clean[1]]
    assert os.listdir(root / "drivers") == [] and not list(root.rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["deleted", "taken over"])
def test_a_job_whose_root_is_taken_away_ends(what: str, data: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    job = start_job(str(data), str(root))
    at_work(job, root)
    if what == "deleted":
        root.rename(tmp_path / "away")  # at once, where a deletion would race with what is written
    else:
        shutil.rmtree(root / "drivers")
    out, said = job.communicate(timeout=100)
    assert job.returncode == 2, out + said
    assert "was deleted or taken over by another run" in said and "Traceback" not in said
    assert not list(root.glob("run-*/manifest.json"))
