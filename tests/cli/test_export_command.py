"""`raylabel export` as users call it: students and picks of real runs, in programs without raylabel; and its errors."""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from exportable import check_formats
from heads import environment
from helpers import digit_images, write_parquet
from paths import JOBS, PYTHONPATH
from picked import picked_root

from raylabel.corpus import Corpus
from raylabel.models.trained import WEIGHTS
from raylabel.ship.shipped import find_network

SCRIPT = "from raylabel.cli.main import main; main()"
LOOK = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))"
SMALL = (
    *("--teacher.train.images", "640", "--pretrain.images", "640", "--finetune.images", "128"),
    *("--select.p", "8"),  # after so few images the teacher gives some classes to no sample
)


def call(*command: str, folder: Path, **more: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command],
        env=environment(PYTHONPATH=PYTHONPATH, **more),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=1700,
    )


def test_help_does_not_import_torch(tmp_path: Path) -> None:
    for arguments, usage in [
        ((), "[-h] {model,picks}"),
        (("model",), "model [-h] ARTIFACT [--to STR] [--run STR]"),
        (("picks",), "picks [-h] [OPTIONS] ARTIFACT"),
    ]:
        done = call("-c", f"{LOOK}\n{SCRIPT}", "export", *arguments, "--help", folder=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"usage: raylabel export {usage}")
        assert done.stdout.endswith("\nFalse\n")


@pytest.mark.long
def test_a_folder_that_is_no_network_is_one_line(tmp_path: Path) -> None:
    done = call("-c", SCRIPT, "export", "model", "runs/student-1", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: 'runs/student-1' is not a complete trained network: give a folder such as")
    assert len(done.stderr.splitlines()) == 1 and not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_picks_are_exported_by_the_command(cluster: dict[str, str], tmp_path: Path) -> None:
    corpus = Corpus(uri=(str(write_parquet(tmp_path / "u.parquet", digit_images()[0][:30])),))
    case = picked_root(tmp_path, corpus, ("a", "b"), each=10)
    case.finished_run()
    options = "export", "picks", case.picks.uri, "--format", "hf", "--to", "out"
    done = call("-c", SCRIPT, *options, folder=tmp_path, **cluster)
    assert done.returncode == 0, done.stderr
    assert f"20 picks of {case.picks.uri}: 1 file, " in done.stdout
    assert done.stdout.endswith(f"\n{tmp_path}/out\n")
    table = pq.read_table(tmp_path / "out" / "data")
    rows = {(row["class"], row["rank"], row["image"]["bytes"]) for row in table.to_pylist()}
    assert rows == {(name, rank, data) for (_, name, rank, _), data in case.expected().items()}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("recipe, shown", [("digits", "images"), ("moving-digits", "videos")])
def test_a_student_of_a_real_run_loads_without_raylabel(recipe: str, shown: str, tmp_path: Path) -> None:
    done = call(str(JOBS / "semi_supervised.py"), recipe, *SMALL, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (student,) = tmp_path.glob("runs/student-*")
    before = sorted(path for path in tmp_path.rglob("*"))
    done = call("-c", SCRIPT, "export", "model", f"runs/{student.name}", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "in fp32 on 32 samples of the test set" in done.stdout
    assert done.stdout.endswith(f"\nexported to exports/{student.name}\n")
    folder = tmp_path / "exports" / student.name
    assert sorted(path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "exports")) == before
    assert check_formats({folder: find_network(str(student))}, tmp_path) == {folder: 3}
    card = (folder / "README.md").read_text()
    assert (student / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    assert "**Gain over the control: " in card and f"A classifier of {shown}: " in card
    for name in ("shards-labeled", "truth", "examples-labeled", "teacher", "scores", "picks", "pretrained", "student"):
        assert f". `{name}-" in card, name
    assert "None: every network in the lineage was trained by raylabel from random weights." in card
    again = call("-c", SCRIPT, "export", "model", f"runs/{student.name}", folder=tmp_path)
    assert again.returncode == 2
    assert (
        again.stderr == f"error: 'exports/{student.name}' exists: give another folder as --to, or move that one away\n"
    )
