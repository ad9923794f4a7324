"""`raylabel deduplicate` as users call it: killed and called again, on a disk and in S3, and with wrong options."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from copies import COPIES, encoded, photographs
from heads import environment
from paths import PYTHONPATH

from raylabel.inventory.contents import read_contents
from raylabel.inventory.needs import Needs
from raylabel.store.artifact import MANIFEST
from raylabel.store.files import list_files, read_file, write_file

SCRIPT = "from raylabel.cli.main import main; main()"


def start(*options: str, folder: Path, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "deduplicate", *options],
        env=environment(PYTHONPATH=PYTHONPATH, **variables),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.long
def test_a_wrong_option_is_one_line_before_ray_starts(tmp_path: Path) -> None:
    """The others are in tests/ship/test_deduplicate.py, without a process."""
    (tmp_path / "photos").mkdir()
    process = start("photos", "--against", "photos", "--to", "out", folder=tmp_path)
    out, errors = process.communicate(timeout=100)
    assert process.returncode != 0 and out == ""
    (line,) = errors.splitlines()
    assert re.match("error: the reference set '.*photos' is the corpus itself", line)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def reached(root: str, name: str, complete: bool) -> bool:
    files = [file for file in list_files(root) if file.startswith(f"{name}-")]
    return any(not complete or file.endswith(f"/{MANIFEST}") for file in files)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("where", ["disk", "store"])
def test_a_deduplication_that_is_killed_goes_on_to_the_same_files(
    cluster: dict[str, str], where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base = str(tmp_path) if where == "disk" else f"{request.getfixturevalue('bucket')}/mine"
    rng, some = np.random.default_rng(0), photographs(300)
    copies = [encoded(COPIES["jpeg"](picture, rng)) for picture in some[:40]]
    whole = [encoded(picture) for picture in some]
    for number, data in enumerate([*whole, *copies, *whole[30:50], b"no picture"]):
        write_file(f"{base}/photos/{number:03d}.png", data)
    for number, data in enumerate([*copies[:3], *whole[100:103]]):
        write_file(f"{base}/test/{number}.png", data)

    def begin(name: str) -> subprocess.Popen[str]:
        options = f"{base}/photos", "--against", f"{base}/test", "--to", f"{base}/out/{name}.csv"
        return start(*options, "--root", f"{base}/{name}", "--resources.teachers", "1", folder=tmp_path, **cluster)

    for name, complete in ("pictures", False), ("pictures", True), ("duplicates", True), ("pairs", False):
        process = begin("killed")
        while not reached(f"{base}/killed", name, complete):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        (run,) = Needs(read_contents(f"{base}/killed")).runs
        assert run.name.startswith("deduplicate-photos-") and run.state == "unfinished" and "photos" in run.command
    for name in "killed", "whole":
        process = begin(name)
        out, errors = process.communicate(timeout=300)
        assert process.returncode == 0, out + errors
        (run,) = Needs(read_contents(f"{base}/{name}")).runs
        assert run.state == "finished" and {one.partition("-")[0] for one in run.needs} == {
            "shards",
            "pictures",
            "duplicates",
            "copies",
            "pairs",
        }
        assert "361 in = " in out and out.endswith(f"{base}/out/{name}.html\n")
    for ending in ".csv", ".rejects.csv", ".html":
        assert read_file(f"{base}/out/killed{ending}") == read_file(f"{base}/out/whole{ending}")
    table = read_file(f"{base}/out/whole.csv").decode()
    assert table.count('"","near"') > 35 and table.count('"","bytes"') == 20 and table.count('/test","bytes"') == 6
