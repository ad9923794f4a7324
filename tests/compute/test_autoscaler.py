"""A cluster whose head has no CPUs and whose other machines start on demand: the run waits for them, and says so."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from commands import SMALL
from heads import RAY, Head, environment, eventually, requested_resources, started_cloud, started_head
from paths import JOBS, PYTHONPATH, REPOSITORY

from raylabel.compute.autoscaler import ready
from raylabel.compute.resources import Cluster, Resources
from raylabel.compute.watchdog import watched
from raylabel.errors import InputError


def test_a_run_does_not_wait_if_the_resources_exist(ray_local: None, capsys: pytest.CaptureFixture) -> None:
    for resources in (Resources(), Resources(cpus=4)):
        assert ready(resources) == Cluster.now()
    assert capsys.readouterr().err == ""


@pytest.mark.long
def test_missing_resources_are_requested_until_the_watchdog_ends_the_run(
    ray_local: None, capsys: pytest.CaptureFixture
) -> None:
    seen: list[list[dict]] = []
    look = threading.Thread(target=lambda: (eventually(requested_resources), seen.append(requested_resources())))
    look.start()
    # Without `match`: pytest would then keep a frame of the watchdog alive.
    with pytest.raises(InputError) as error, watched(4):
        ready(Resources(cpus=6, gpus=2))
    look.join()
    assert str(error.value).startswith("waiting for 6 CPUs and 2 GPUs: no progress for 4 s. The cluster: 1 machine")
    assert "raise --resources.patience" in str(error.value)
    assert "waiting for 6 CPUs and 2 GPUs: there are 4 and 0" in capsys.readouterr().err
    assert sorted(map(len, seen[0])) == [1] * 4 + [2] * 2 and seen[0].count({"CPU": 1, "GPU": 1}) == 2
    eventually(lambda: not requested_resources())  # the request ends with the wait


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_on_a_head_without_cpus_waits_for_the_first_machine(tmp_path: Path) -> None:
    with started_head(cpus=0) as head:
        process = subprocess.Popen(
            [sys.executable, str(JOBS / "semi_supervised.py"), "digits", *SMALL, "--resources.cpus", "4"],
            env=environment(**head.environment, PYTHONPATH=str(REPOSITORY)),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stderr and "waiting for 4 CPUs: there are 0" in process.stderr.readline()
            assert not list(tmp_path.glob("runs/index*"))
            join(head, "--num-cpus=4")
            out, err = process.communicate(timeout=400)
        finally:
            process.kill()
    assert process.returncode == 0, err
    (run,) = tmp_path.glob("runs/run-digits-*")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["hardware"] == "4 CPUs, no GPU" and summary["picks"]["total"] == 200
    assert "student" in out


READY = """
import json
import os
import socket
from raylabel.cli.connect import connect
from raylabel.compute.autoscaler import ready
from raylabel.compute.resources import Cluster, Resources
from raylabel.compute.watchdog import watched
from heads import eventually, requested_resources
connect()
before = Cluster.now()
with watched(100):
    found = ready(Resources(cpus=6, gpus=1))
eventually(lambda: not requested_resources())
print(json.dumps([len(before.nodes), sorted([node.cpus, node.gpus] for node in found.nodes)]))
"""


@pytest.mark.slow
def test_the_autoscaler_starts_only_the_requested_machines(tmp_path: Path) -> None:
    with started_cloud(tmp_path) as head:
        done = subprocess.run(
            [sys.executable, "-c", READY],
            env=environment(**head.environment, PYTHONPATH=PYTHONPATH),
            capture_output=True,
            text=True,
            timeout=200,
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [0, [[2, 1], [4, 0]]]
    assert "waiting for 6 CPUs and 1 GPU: there are 0 and 0" in done.stderr


def join(head: Head, *arguments: str) -> None:
    """Starts another node of the head's cluster on this machine; it ends with the head."""
    subprocess.run(
        [sys.executable, str(RAY), "start", f"--address={head.address}", *arguments, "--disable-usage-stats"],
        env=environment(**head.environment),
        check=True,
        capture_output=True,
        timeout=120,
    )
