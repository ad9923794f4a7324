"""`raylabel list` and `raylabel clean` as a user runs them: real processes, without Ray."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from heads import environment
from paths import PYTHONPATH
from roots import Doing, MadeUp, Node

from raylabel.inventory.contents import read_contents
from raylabel.inventory.needs import Needs
from raylabel.store.root_lock import held

SCRIPT = "from raylabel.cli.main import main; main()"
NAMES = "import sys; print([name for name in ('ray', 'torch', 'pandas', 'sklearn') if name in sys.modules])"


@pytest.fixture
def root(tmp_path: Path) -> MadeUp:
    made = MadeUp(str(tmp_path / "runs"), [Node("shards-x", ()), Node("net", (0,)), Node("net", (0,))])
    made.execute(Doing("one", (0, 1)))
    made.execute(Doing("two", (0, 2)))
    return made


def raylabel(folder: Path, *arguments: str, script: str = SCRIPT) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environment(PYTHONPATH=PYTHONPATH),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )


def names(root: MadeUp) -> tuple[str, str]:
    one, two = sorted(run.name for run in Needs(read_contents(root.uri)).runs)
    return one, two


def test_list_needs_no_ray_and_no_lock_and_changes_nothing(root: MadeUp, tmp_path: Path) -> None:
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with held(root.root):
        done = raylabel(tmp_path, "list", script=f"{SCRIPT}; {NAMES}")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert lines[0] == f"root {root.uri}" and lines[-1] == "[]"
    assert [line.split()[0] for line in lines if " finished " in line] == list(names(root))
    assert "total: 5 folders, " in done.stdout
    assert sorted(str(path) for path in tmp_path.rglob("*") if path.name != "drivers") == before
    every = raylabel(tmp_path, "list", "--artifacts")
    assert f"{root.folders[2]}  " in every.stdout and f"  made of: {root.folders[0]}\n" in every.stdout


def test_clean_shows_and_deletes_only_with_yes(root: MadeUp, tmp_path: Path) -> None:
    one, two = names(root)
    done = raylabel(tmp_path, "clean", "--drop", two)
    assert (
        done.returncode == 2 and done.stderr == "error: nothing was deleted: give --yes to delete without a question\n"
    )
    assert f"drops {two}" in done.stdout and root.folders[2] in done.stdout
    assert names(root) == (one, two) and Path(root.uri, two).exists()
    done = raylabel(tmp_path, "clean", "--drop", two, "--yes")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.splitlines()[-1].startswith("freed ")
    assert {path.name for path in Path(root.uri).iterdir()} == {*root.folders[:2], one, "uses", "drivers"}
    assert raylabel(tmp_path, "clean").stdout == "nothing to delete\n"


@pytest.mark.parametrize("answer, deleted", [("y", True), ("n", False), ("", False)])
def test_clean_asks_on_a_terminal(root: MadeUp, tmp_path: Path, answer: str, deleted: bool) -> None:
    one, two = names(root)
    master, terminal = pty.openpty()
    with os.fdopen(master, "wb", buffering=0) as keyboard:
        job = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, "clean", "--drop", one],
            env=environment(PYTHONPATH=PYTHONPATH),
            cwd=tmp_path,
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(terminal)
        keyboard.write(f"{answer}\n".encode())
        out, err = job.communicate(timeout=100)
    assert (job.returncode, err) == (0, "")
    assert "delete? [y/N] " in out and ("freed" in out) == deleted and ("nothing was deleted" in out) == (not deleted)
    assert Path(root.uri, one).exists() != deleted and Path(root.uri, two).exists()


def test_clean_does_not_touch_a_root_that_a_run_uses(root: MadeUp, tmp_path: Path) -> None:
    with held(root.root):
        done = raylabel(tmp_path, "clean", "--drop", names(root)[0], "--yes")
    assert done.returncode == 2 and f"error: another run uses '{root.uri}'" in done.stderr
    assert len(names(root)) == 2


@pytest.mark.parametrize("name", ["list", "clean"])
def test_a_root_that_does_not_exist_is_not_made(tmp_path: Path, name: str) -> None:
    done = raylabel(tmp_path, name, "--root", "run")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: there is no root 'run': give the folder of all results as --root\n"
    assert not list(tmp_path.iterdir())
