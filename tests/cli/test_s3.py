"""A complete run with its root in an object store: a real S3 server, and no file of the run on the disk."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from paths import JOBS

from raylabel.store.artifact import Root

JOB = JOBS / "semi_supervised.py"
SHORT = ("--teacher.train.images", "2000", "--pretrain.images", "2000", "--finetune.images", "500")


@pytest.mark.slow
def test_a_run_with_an_s3_root(bucket: str, tmp_path: Path):
    command = [sys.executable, str(JOB), "digits", "--root", f"{bucket}/some runs", *SHORT]
    first, again = (subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=280) for _ in "ab")
    assert first.returncode == 0, first.stdout + first.stderr
    assert again.returncode == 0
    stages, _, _ = again.stdout.partition("run digits\n")
    assert {line.partition(":")[0] for line in stages.splitlines()} <= {"curves"}  # no line of any stage
    assert list(tmp_path.iterdir()) == []
    (run,) = Root.open(f"{bucket}/some runs").named("run-digits")
    assert json.loads(run.read("summary.json"))["counts"]["samples"] == 1247
    assert b"data:image/jpeg" in run.read("report.html")
    assert f"{bucket}/some runs" in first.stdout
