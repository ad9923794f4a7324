"""A cluster of a head without CPUs and of machines that come when they are asked for: the run waits, and says so."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from heads import JOBS, RAY, Head, environment, started_cloud, started_head
from test_ending import SMALL

from raylabel.errors import InputError
from raylabel.machines import ready
from raylabel.resources import Cluster, Resources
from raylabel.watch import watched


def asked() -> list[dict]:
    """What Ray's autoscaler is asked to have room for."""
    from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
    from ray.experimental.internal_kv import _internal_kv_get

    return json.loads(_internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL) or "[]")


def eventually(happens: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_what_is_there_is_not_waited_for(ray_local: None, capsys: pytest.CaptureFixture) -> None:
    for resources in (Resources(), Resources(cpus=4)):
        assert ready(resources) == Cluster.now()
    assert capsys.readouterr().err == ""


def test_what_is_missing_is_asked_for_until_patience_ends(ray_local: None, capsys: pytest.CaptureFixture) -> None:
    seen: list[list[dict]] = []
    look = threading.Thread(target=lambda: (eventually(asked), seen.append(asked())))
    look.start()
    # With `match`, Pytest would hold a frame of the watch.
    with pytest.raises(InputError) as error, watched(4):
        ready(Resources(cpus=6, gpus=2))
    look.join()
    assert str(error.value).startswith(
        "waiting for 6 CPUs and 2 GPUs: nothing was done for 4 s. The cluster: 1 machine"
    )
    assert "raise --resources.patience" in str(error.value)
    assert "waiting for 6 CPUs and 2 GPUs: there are 4 and 0" in capsys.readouterr().err
    assert sorted(map(len, seen[0])) == [1] * 4 + [2] * 2 and seen[0].count({"CPU": 1, "GPU": 1}) == 2
    eventually(lambda: not asked())  # and no longer


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_on_a_head_without_cpus_waits_for_the_first_machine(tmp_path: Path) -> None:
    with started_head(cpus=0) as head:
        process = subprocess.Popen(
            [sys.executable, str(JOBS / "semi_supervised.py"), "digits", *SMALL, "--resources.cpus", "4"],
            env=environment(**head.environment, PYTHONPATH=str(JOBS.parent)),
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
from connect import connect
from raylabel.machines import ready
from raylabel.resources import Cluster, Resources
from raylabel.watch import watched
from test_machines import asked, eventually
connect()
before = Cluster.now()
with watched(100):
    found = ready(Resources(cpus=6, gpus=1))
eventually(lambda: not asked())
print(json.dumps([len(before.nodes), sorted([node.cpus, node.gpus] for node in found.nodes)]))
"""


@pytest.mark.slow
def test_an_autoscaler_starts_the_machines_that_are_asked_for_and_no_others(tmp_path: Path) -> None:
    with started_cloud(tmp_path) as head:
        path = os.pathsep.join(map(str, (JOBS, JOBS.parent, JOBS.parent / "tests")))
        done = subprocess.run(
            [sys.executable, "-c", READY],
            env=environment(**head.environment, PYTHONPATH=path),
            capture_output=True,
            text=True,
            timeout=200,
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [0, [[2, 1], [4, 0]]]
    assert "waiting for 6 CPUs and 1 GPU: there are 0 and 0" in done.stderr


def join(head: Head, *arguments: str) -> None:
    """Starts a machine of the head's cluster, on this one; it ends with the head."""
    subprocess.run(
        [sys.executable, str(RAY), "start", f"--address={head.address}", *arguments, "--disable-usage-stats"],
        env=environment(**head.environment),
        check=True,
        capture_output=True,
        timeout=120,
    )
