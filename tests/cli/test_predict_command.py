"""`raylabel predict` as users call it: killed and called again, on a disk and in S3."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from finished_runs import digits_network
from heads import environment
from helpers import digit_images
from paths import PYTHONPATH

from raylabel.inventory.contents import read_contents
from raylabel.inventory.needs import Needs
from raylabel.labels.teacher import Label
from raylabel.store.artifact import MANIFEST, Root
from raylabel.store.files import list_files, read_file, write_file

SCRIPT = "from raylabel.cli.main import main; main()"
BEGUN, SCORED = "scores begun", "scores complete"


def reached(root: str, moment: str) -> bool:
    scores = [name for name in list_files(root) if name.startswith("scores-")]
    return any(moment == BEGUN or name.endswith(f"/{MANIFEST}") for name in scores)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("where", ["disk", "store"])
def test_a_prediction_that_is_killed_goes_on_to_the_same_files(
    cluster: dict[str, str], where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base = str(tmp_path) if where == "disk" else f"{request.getfixturevalue('bucket')}/mine"
    media, _ = digit_images()
    for number, data in enumerate([*media[:600], b"no picture"]):
        write_file(f"{base}/photos/{number:03d}.png", data)
    label, classes = Label(batch=32, precision="fp32"), [f"digit {number}" for number in range(10)]
    networks = {name: digits_network(Root.open(f"{base}/{name}"), label, classes) for name in ("whole", "killed")}
    assert networks["whole"].digest == networks["killed"].digest

    def start(name: str) -> subprocess.Popen[str]:
        options = f"{base}/photos", "--to", f"{base}/out/{name}.csv", "--p", "3", "--resources.teachers", "1"
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, "predict", networks[name].uri, *options],
            env=environment(**cluster, PYTHONPATH=PYTHONPATH),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    for moment in BEGUN, SCORED:
        process = start("killed")
        while not reached(f"{base}/killed", moment):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        (run,) = [one for one in Needs(read_contents(f"{base}/killed")).runs if one.name.startswith("predict-")]
        assert run.state == "unfinished" and "photos" in run.command
    for name in "killed", "whole":
        process = start(name)
        out, errors = process.communicate(timeout=300)
        assert process.returncode == 0, out + errors
        (run,) = [one for one in Needs(read_contents(f"{base}/{name}")).runs if one.name.startswith("predict-")]
        assert run.state == "finished"
    for ending, lines in (".csv", 601), (".rejects.csv", 2):
        found = read_file(f"{base}/out/killed{ending}")
        assert found == read_file(f"{base}/out/whole{ending}") and found.count(b"\n") == lines
