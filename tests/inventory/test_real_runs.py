"""Real runs in one root: one is finished, one is dropped, one was killed. After `clean`, nothing is built twice."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import SMALL
from heads import end_ray, environment
from paths import JOBS

from raylabel.inventory.contents import read_contents
from raylabel.inventory.needs import Needs

TINY = (*SMALL, "--teacher.train.images", "640")


def start(folder: str, job: str, root: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, str(JOBS / f"{job}.py"), *arguments, "--root", str(root)]
    env = environment(RAY_TMPDIR=folder)
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(job: subprocess.Popen) -> str:
    out, err = job.communicate(timeout=600)
    assert job.returncode == 0, out + err
    return out


def times(root: Path) -> dict[str, int]:
    """Folder → when its artifact was completed."""
    return {path.parent.name: path.stat().st_mtime_ns for path in root.glob("*/manifest.json")}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_kept_run_and_a_killed_run_lose_nothing_when_another_is_dropped(ray_folder: str, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    kept, dropped, killed = ((*TINY, "--select.k", k) for k in ("20", "30", "40"))
    finish(start(ray_folder, "semi_supervised", root, "digits", *kept))
    (first,) = root.glob("run-*")
    finish(start(ray_folder, "semi_supervised", root, "digits", *dropped))
    (second,) = set(root.glob("run-*")) - {first}
    job = start(ray_folder, "semi_supervised", root, "digits", *killed)
    before, deadline = set(root.glob("pretrained-*")), time.monotonic() + 500
    while not (begun := set(root.glob("pretrained-*")) - before):
        assert job.poll() is None and time.monotonic() < deadline, job.communicate()
        time.sleep(0.02)
    job.send_signal(signal.SIGKILL)
    job.communicate()
    end_ray(ray_folder)
    (draft,) = begun
    assert not (draft / "manifest.json").exists()

    needs = Needs(read_contents(str(root)))
    by_name = {run.name: run for run in needs.runs}
    assert {run.state for run in needs.runs if run.name in (first.name, second.name)} == {"finished"}
    (third,) = [run for run in needs.runs if run.state == "unfinished"]
    assert third.command == f"python {JOBS / 'semi_supervised.py'} digits {' '.join(killed)} --root {root}"
    assert not needs.unrecorded and draft.name in third.needs
    # Not made by it, and not yet needed when it was killed: it would train the control last.
    assert [name for name in third.needs if name.startswith("control-")]
    only = by_name[second.name].needs - by_name[first.name].needs - third.needs
    assert {name.rpartition("-")[0] for name in only} == {
        *("picks", "samples-picked", "media-picked", "examples-picked", "pretrained", "student"),
        *("scores", "metrics", "run-digits"),
    }

    old = times(root)
    out = finish(start(ray_folder, "clean", root, "--drop", second.name, "--yes"))
    assert f"drops {second.name}" in out and out.splitlines()[-1].startswith("freed ")
    assert {name for name in old if not (root / name).exists()} == only
    assert set(os.listdir(root / "uses")) == {f"{first.name}.json", f"{third.name}.json"}

    finish(start(ray_folder, "semi_supervised", root, "digits", *kept))
    assert times(root).items() <= old.items() and first.exists()
    left = times(root)
    finish(start(ray_folder, "semi_supervised", root, "digits", *killed))
    now = times(root)
    assert left.items() <= now.items()
    assert {name.rpartition("-")[0] for name in now.keys() - left.keys()} == {
        *("pretrained", "student", "scores", "metrics", "run-digits")
    }
    assert draft.name in now and len(list((root / "uses").iterdir())) == 2
    assert not plan_names(root)


def plan_names(root: Path) -> list[str]:
    """What `clean` would delete."""
    from raylabel.inventory.clean import plan_cleaning

    return [one.name for one in plan_cleaning(read_contents(str(root))).folders]
