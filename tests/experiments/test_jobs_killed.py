"""The jobs without a teacher: killed within a training or a clustering, the same command ends as without a kill; 1 and
3 workers."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from heads import end_ray, environment
from paths import JOBS

from raylabel.compute.resources import Resources
from raylabel.experiments.arbitrary_labels import write_arbitrary_labels
from raylabel.experiments.random_labels import write_random_labels
from raylabel.experiments.redrawing import write_redrawing
from raylabel.pipelines.arbitrary_labels import ArbitraryLabelsRun
from raylabel.pipelines.random_labels import RandomLabelsRun
from raylabel.pipelines.redrawing import RedrawingRun
from raylabel.recipes.arbitrary import arbitrary_digits
from raylabel.recipes.memorized import random_digits, redrawn_digits
from raylabel.store.artifact import Root

JOBS_KILLED = {
    "random_labels": (
        *("--labels", "none", "random", "--pretrain.images", "3000", "--pretrain.checkpoint-minutes", "0.001"),
        *("--finetune.images", "400"),
    ),
    "redrawn_labels": (
        *("--redraws", "1", "--controls", "norms", "--train.images", "3000", "--train.checkpoint-minutes", "0.001"),
    ),
    "arbitrary_labels": ("--arms", "arbitrary", "calibrated", "--train.checkpoint-minutes", "0.001"),
    "deep_cluster": ("--rounds", "3", "--train.images", "3000", "--train.checkpoint-minutes", "0.001"),
}


def start(job: str, folder: str, root: Path) -> subprocess.Popen:
    command = [sys.executable, str(JOBS / f"{job}.py"), *JOBS_KILLED[job], "--root", str(root)]
    env = environment(RAY_TMPDIR=folder)
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def training(root: Path) -> bool:
    """Whether a second training has written a checkpoint, and is not complete."""
    trained = list(root.glob("*/model.safetensors"))
    begun = [one for one in root.glob("*/scratch") if list(one.rglob("*checkpoint*/*"))]
    return bool(trained) and any(not (one.parent / "manifest.json").exists() for one in begun)


def clustering(root: Path) -> bool:
    """Whether a later round than the first has ended an iteration of k-means, and is not complete."""
    begun = [one for one in root.glob("clusters-*/scratch/iterations/*") if one.name >= "000003"]
    complete = len(list(root.glob("clusters-*/manifest.json")))
    return bool(complete) and any(not (one.parents[2] / "manifest.json").exists() for one in begun)


STATES = [*((job, training) for job in JOBS_KILLED), ("deep_cluster", clustering)]


def made(root: Path) -> dict[str, object]:
    """Folder of each artifact → its results, or the bytes of a network or of the clusters of samples."""
    found: dict[str, object] = {path.parent.name: None for path in root.glob("*/manifest.json")}
    for path in root.glob("*/model.safetensors"):
        found[path.parent.name] = path.read_bytes()
    for folder in {path.parent for path in root.glob("clusters-*/assigned-*")}:
        found[folder.name] = b"".join(path.read_bytes() for path in sorted(folder.glob("assigned-*")))
    for path in root.glob("*/summary.json"):
        found[path.parent.name] = json.loads(path.read_text())
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("job, state", STATES)
def test_a_job_that_is_killed_ends_as_without_a_kill(
    ray_folder, tmp_path: Path, job: str, state: Callable[[Path], bool]
):
    root = tmp_path / "root"
    first = start(job, ray_folder, root)
    out, _ = first.communicate(timeout=1200)
    assert first.returncode == 0, out
    whole = made(root)
    assert sum(isinstance(one, bytes) for one in whole.values()) >= 3
    (name,) = (name for name, one in whole.items() if isinstance(one, dict))
    assert f"{name}/report.html" in out
    root.rename(tmp_path / "whole")  # digests have the paths of embedded data, which is in the root
    second, deadline = start(job, ray_folder, root), time.monotonic() + 900
    while not state(root):
        assert second.poll() is None and time.monotonic() < deadline, f"no {state.__name__} was found to kill"
        time.sleep(0.02)
    second.send_signal(signal.SIGKILL)
    second.communicate(timeout=60)
    end_ray(ray_folder)
    third = start(job, ray_folder, root)
    out, _ = third.communicate(timeout=1200)
    assert third.returncode == 0, out
    assert made(root) == whole


DEPENDENT = ("metrics-", "scores-", "classified-", "random-labels-", "redrawn-labels-", "arbitrary-labels-")
RUNS: dict[str, Callable[[Root, Resources], object]] = {
    "random": lambda root, resources: write_random_labels(
        RandomLabelsRun(root, replace(random_digits(), labels=("none", "random"), resources=resources))
    ),
    "redrawn": lambda root, resources: write_redrawing(
        RedrawingRun(root, replace(redrawn_digits(), redraws=1, controls=("norms",), resources=resources))
    ),
    "arbitrary": lambda root, resources: write_arbitrary_labels(
        ArbitraryLabelsRun(root, replace(arbitrary_digits(), arms=("arbitrary", "true"), resources=resources))
    ),
}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", RUNS)
def test_one_worker_and_three_make_the_same_artifacts(ray_local, tmp_path: Path, kind: str):
    folders = []
    for workers in (1, 3):
        root = tmp_path / "root"  # digests have the paths of embedded data, which is in the root
        RUNS[kind](Root.open(str(root)), Resources(workers=workers))
        found = made(root)
        # Scores and results depend on the weights, and these on the number of workers.
        folders.append({name for name in found if not name.startswith(DEPENDENT)})
        (summary,) = (one for one in found.values() if isinstance(one, dict))
        assert isinstance(summary, dict) and summary["tables"]
        counted = {json.loads((root / name / "manifest.json").read_text())["info"].get("workers") for name in found}
        assert counted - {None} == {workers}
        root.rename(tmp_path / f"root-{workers}")
    assert folders[0] == folders[1]
