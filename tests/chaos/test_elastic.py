"""Nodes join and are lost during one run of `digits`: picks, networks and accuracies are the same as on one node."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faults
import pytest
from driver import Spec
from harness import Driver, wait_until
from heads import CLOUD, environment, raylets, started_cloud
from helpers import contents
from paths import PYTHONPATH

from raylabel.store.artifact import Root

# CPUs that Ray counts. The head has none, because the driver's node cannot be removed.
NODES = {"cpus": 0, "nodes": [2, 2]}
WORKERS = {"workers": 2}  # with the same number of workers, the weights are the same


def found(root: Path) -> dict[str, Any]:
    """All results of a run, exactly."""
    (run,) = root.glob("run-digits-*/summary.json")
    summary = json.loads(run.read_text())
    names = "scores", "picks", "teacher", "pretrained", "student", "control"
    made = {name: {one.digest: contents(one) for one in Root.open(str(root)).named(name)} for name in names}
    return made | {name: summary[name] for name in ("metrics", "gain", "picks", "counts")}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_then_three_then_one_node_give_the_result_of_one(tmp_path: Path) -> None:
    with Driver(Spec(root=str(tmp_path / "alone"), resources=WORKERS)) as driver:
        driver.must_succeed(400)
    fast, lost = tmp_path / "fast", tmp_path / "lost"
    slow = {"network": [1.0, str(fast)], "training": [0.2, str(lost)]}
    with Driver(Spec(root=str(tmp_path / "root"), resources=WORKERS, faults=slow, **NODES)) as driver:
        driver.wait_until(lambda: len(driver.parts()) >= 2)
        assert len(driver.actors()) == 4
        driver.send("add")
        driver.wait_until(lambda: len(driver.actors()) == 6)
        driver.send("remove")
        fast.touch()
        driver.wait_until(lambda: any(driver.root.glob("pretrained-*/scratch/checkpoints/*/*")))
        driver.send("add")  # the training workers are on the other nodes
        driver.send("remove")
        driver.send("remove")
        driver.wait_until(lambda: "lost worker" in driver.output())
        lost.touch()
        driver.must_succeed(400)
        assert "lost worker" in driver.output()
    assert found(tmp_path / "root") == found(tmp_path / "alone")


# A run on nodes that its head starts on demand.
ON_DEMAND = """
import os, sys, threading, time
import faults
import ray
from dataclasses import replace
from driver import Spec, digits
from heads import requested_resources
from raylabel.store.artifact import Root
from raylabel.compute.autoscaler import ready
from raylabel.pipelines.semi_supervised import Run
from raylabel.report.run import write_report
from raylabel.compute.resources import Resources
from raylabel.compute.watchdog import watched

def look():
    before = -1
    while True:
        if (now := len(requested_resources())) != before:
            print(f"requested {now}", flush=True)
        before = now
        time.sleep(0.2)

recipe = digits(Spec(root=sys.argv[1], resources={"workers": 4, "patience": 100}))
recipe = replace(recipe, pretrain=replace(recipe.pretrain, images=12_800))
hook = {"worker_process_setup_hook": "faults.arm"}
hook["env_vars"] = {name: os.environ[name] for name in ("PYTHONPATH", faults.VARIABLE)}
ray.init(runtime_env=hook, log_to_driver=False, logging_level="ERROR")
threading.Thread(target=look, daemon=True).start()
with watched(100):
    ready(replace(recipe.resources, cpus=4))  # only here: the lost node is not replaced, so no stage may wait for it
    write_report(Run(Root.open(sys.argv[1]), recipe))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_training_requests_a_lost_node_again_and_idle_nodes_are_ended(tmp_path: Path) -> None:
    head_only = {"head": CLOUD["available_node_types"]["head"]}
    kinds = {**head_only, "cpu": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 2}}
    root, log, fast = tmp_path / "root", tmp_path / "log", tmp_path / "fast"
    slow = {faults.VARIABLE: json.dumps({"driver": 0, "training": [1.0, str(fast)]})}
    fast.touch()
    with started_cloud(tmp_path, available_node_types=kinds, idle_timeout_minutes=0.2) as head:
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-c", ON_DEMAND, str(root)],
                env=environment(**head.environment, PYTHONPATH=PYTHONPATH, **slow),
                stdout=out,
                stderr=out,
            )

        def wait_for(condition: Callable[[], object]) -> None:
            wait_until(lambda: bool(condition()) or process.poll() is not None, 300, log.read_text)
            assert process.poll() is None, log.read_text()

        try:
            wait_for(lambda: any(root.glob("examples-picked-*/manifest.json")))
            fast.unlink()
            wait_for(lambda: any(root.glob("pretrained-*/scratch/checkpoints/*/*")))
            victim, _ = raylets(head)
            os.kill(victim, signal.SIGKILL)
            # Ray's fake cluster does not notice that a node died, and starts no other. So only the request is checked.
            wait_for(lambda: "requested 4" in log.read_text().partition("lost worker")[2])
            fast.touch()
            wait_for(lambda: any(root.glob("pretrained-*/manifest.json")))  # the next stage has no room for 4 workers
        finally:
            process.kill()
            process.wait()
        wait_until(lambda: not raylets(head), 120, lambda: "idle nodes are still running")
    output = log.read_text()
    assert "waiting for 4 CPUs: there are 0" in output
    assert output.count("lost worker") == 1
    (net,) = Root.open(str(root)).named("pretrained")
    assert net.info["workers"] == 2
