"""Machines come and go during one run of `digits`: the same lists, networks and accuracies as on one machine."""

import json
from pathlib import Path
from typing import Any

import pytest
from driver import Spec
from harness import Driver
from helpers import contents

from raylabel.artifact import Root

# In the books; of a head without CPUs, for the driver's own machine cannot be taken from under it.
NODES = {"cpus": 0, "nodes": [2, 2]}
WORKERS = {"workers": 2}  # of the same number the weights are the same


def found(root: Path) -> dict[str, Any]:
    """All that a run is for, to the last bit."""
    (run,) = root.glob("run-digits-*/summary.json")
    summary = json.loads(run.read_text())
    names = "scores", "picks", "teacher", "pretrained", "student", "control"
    made = {name: {one.digest: contents(one) for one in Root.open(str(root)).named(name)} for name in names}
    return made | {name: summary[name] for name in ("accuracies", "gain", "picks", "counts")}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_then_three_then_one_machine_make_what_one_makes(tmp_path: Path) -> None:
    with Driver(Spec(root=str(tmp_path / "alone"), resources=WORKERS)) as driver:
        driver.must_succeed(400)
    slow = {"network": 1.0, "slow": ["/pretrained-.*/checkpoints/", 0.2]}
    with Driver(Spec(root=str(tmp_path / "root"), resources=WORKERS, faults=slow, **NODES)) as driver:
        driver.wait_until(lambda: len(driver.parts()) >= 2)
        assert len(driver.actors()) == 4
        driver.tell("add")
        driver.wait_until(lambda: len(driver.actors()) == 6)
        driver.tell("remove")
        driver.wait_until(lambda: any(driver.root.glob("pretrained-*/scratch/checkpoints/*/*")))
        driver.tell("add")  # the workers are on one of the others
        driver.tell("remove")
        driver.tell("remove")
        driver.must_succeed(400)
        assert "lost worker" in driver.output()
    assert found(tmp_path / "root") == found(tmp_path / "alone")
