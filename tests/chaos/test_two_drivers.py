"""Two jobs on one root: the second one stops. A killed job does not block the root. A job that loses its root ends."""

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


@pytest.mark.long
def test_a_job_on_a_root_in_use_ends_with_an_error(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with held(Root.open(str(root))):
        job = start_job(str(tmp_path), str(root))
        out, err = job.communicate(timeout=100)
    assert job.returncode == 2, out + err
    assert f"error: another run uses '{root}' (process {os.getpid()} on " in err and "Traceback" not in err
    assert os.listdir(root) == ["drivers"] and os.listdir(root / "drivers") == []


def wait_for_scoring(job: subprocess.Popen, root: Path) -> None:
    """Waits until the job scores its corpus."""
    deadline = time.monotonic() + 150
    while not list(root.glob("scores-*")):
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_the_same_command_resumes_after_a_job_was_killed(
    data: Path, clean: tuple[Path, tuple[str, str]], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    job = start_job(str(data), str(root))
    wait_for_scoring(job, root)
    second = start_job(str(data), str(root))
    err = second.communicate(timeout=100)[1]
    assert second.returncode == 2 and f"(process {job.pid} on " in err
    job.send_signal(signal.SIGKILL)
    job.communicate()
    assert not list(root.glob("scores-*/manifest.json")), "the run ended before it was killed"
    again = start_job(str(data), str(root))
    out, err = again.communicate(timeout=200)
    assert again.returncode == 0, out + err
    assert "waiting" not in err and out.splitlines()[-1].split() == ["lists", *clean[1]]
    assert os.listdir(root / "drivers") == [] and not list(root.rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["deleted", "taken over"])
def test_a_job_whose_root_is_deleted_or_taken_over_ends(what: str, data: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    job = start_job(str(data), str(root))
    wait_for_scoring(job, root)
    if what == "deleted":
        root.rename(tmp_path / "away")  # atomic; a deletion would race with the job's writes
    else:
        shutil.rmtree(root / "drivers")
    out, err = job.communicate(timeout=100)
    assert job.returncode == 2, out + err
    assert "was deleted or taken over by another run" in err and "Traceback" not in err
    assert not list(root.glob("run-*/manifest.json"))
