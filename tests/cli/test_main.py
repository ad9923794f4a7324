"""The console script, also as installed from the wheel, and what commands do when their output is closed."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import ray
from heads import environment
from paths import JOBS, PYTHONPATH, REPOSITORY

SCRIPT = "from raylabel.cli.main import main; main()"


def run(*command: str, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, env=environment(PYTHONPATH=PYTHONPATH), cwd=folder, capture_output=True, text=True, timeout=200
    )


def test_help_lists_the_commands_without_importing_ray(tmp_path: Path) -> None:
    look = "import os, sys; print('ray' in sys.modules, os.environ['RAY_TRAIN_ENABLE_PRINT_PATCH'])"
    done = run(sys.executable, "-c", f"{SCRIPT}\n{look}", "--help", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    for name, first in (
        ("semi-supervised", "Semi-supervised learning"),
        ("sweep", "A sweep"),
        ("transfer", "What the features of trained networks are worth"),
        ("plan", "Estimates what a run"),
        ("deduplicate", "Copies within a corpus"),
        ("export", "Exports a trained network"),
        ("list", "Lists what a root holds"),
        ("clean", "Deletes what no run needs"),
    ):
        assert sum(line.startswith(f"  {name} ") and first in line for line in lines) == 1
    assert lines[-1] == "False 0"


@pytest.mark.parametrize("name, shown", [("train", "train"), ("a\x1b\nb", "a b"), ("--seed", "--seed")])
def test_an_unknown_command_is_one_line_and_status_2(tmp_path: Path, name: str, shown: str) -> None:
    done = run(sys.executable, "-c", SCRIPT, name, folder=tmp_path)
    names = (
        "semi-supervised, sweep, transfer, random-labels, redrawn-labels, arbitrary-labels, deep-cluster, pretexts, "
        "plan, predict, filters, deduplicate, export, list, clean"
    )
    known = f"the commands are {names}; see raylabel --help"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: no command '{shown}': {known}\n")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment with the wheel. It uses the dependencies of this environment."""
    source, wheels, folder = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "environment"))
    shutil.copytree(REPOSITORY / "raylabel", source / "raylabel", ignore=shutil.ignore_patterns("__pycache__"))
    for name in "README.md", "LICENSE", "pyproject.toml":
        shutil.copy(REPOSITORY / name, source / name)
    pip = sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(wheels), str(source)],
        check=True,
        timeout=200,
    )
    (wheel,) = wheels.iterdir()
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(str(Path(ray.__file__).parents[1]))
    subprocess.run(
        [*pip, "--python", str(folder / "bin" / "python"), "install", "--no-deps", "--no-index", str(wheel)],
        check=True,
        timeout=200,
    )
    return folder / "bin"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_command_of_the_wheel_works_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    def call(*command: str) -> str:
        done = subprocess.run(
            [str(installed / command[0]), *command[1:]],
            env=environment(str(installed / "python")),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert "\n  semi-supervised  Semi-supervised learning" in call("raylabel", "--help")
    text = call("raylabel", "semi-supervised", "--help")
    assert text.startswith("usage: raylabel semi-supervised [-h]")
    assert "- raylabel semi-supervised cifar10 --data DIR " in text and "python jobs/" not in text
    where = call("python", "-c", "import raylabel; print(raylabel.__file__)")
    package = Path(where.strip()).parent
    assert package.is_relative_to(installed.parent)
    source = {path.relative_to(REPOSITORY / "raylabel") for path in (REPOSITORY / "raylabel").rglob("*")}
    for path in source:
        if path.suffix in (".py", ".typed", ".j2"):
            assert (package / path).is_file(), path
    assert not list(tmp_path.iterdir())


def test_the_help_of_a_job_file_shows_its_own_command() -> None:
    done = run(sys.executable, "jobs/plan.py", "--help", folder=REPOSITORY)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "python jobs/plan.py cifar10 --data DIR before `python jobs/semi_supervised.py cifar10 --data DIR`" in text
    assert "raylabel plan" not in text


def run_closed(*command: str, folder: Path, both: bool = False) -> tuple[int, str]:
    """(status, stderr) of a command whose stdout, or also stderr if `both`, is a pipe whose reading end is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            command,
            env=environment(PYTHONPATH=PYTHONPATH),
            cwd=folder,
            stdout=writer,
            stderr=writer if both else subprocess.PIPE,
            text=True,
            timeout=200,
        )
    finally:
        os.close(writer)
    return done.returncode, done.stderr or ""


def test_help_with_a_closed_output_ends_silently(tmp_path: Path) -> None:
    assert run_closed(sys.executable, str(JOBS / "semi_supervised.py"), "--help", folder=tmp_path) == (141, "")
    for both in False, True:
        assert run_closed(sys.executable, "-c", SCRIPT, "--help", folder=tmp_path, both=both) == (141, "")


# Prints from a thread too, as the progress of a stage does: an exception in a thread would end only the thread.
WORK = """
import sys, threading
from pathlib import Path
from rich.console import Console
from raylabel.cli.output import guard_output, work_begins

guard_output()
work_begins()
for number in range(3):
    print("line", number, flush=True)
    thread = threading.Thread(target=lambda: (Console().print("from a thread"), Path("thread").write_text("")))
    thread.start()
    thread.join()
print("to stderr", file=sys.stderr)
Path("done").write_text("")
"""


@pytest.mark.parametrize("both", [False, True])
def test_work_continues_when_its_output_is_closed(tmp_path: Path, both: bool) -> None:
    status, err = run_closed(sys.executable, "-c", WORK, folder=tmp_path, both=both)
    note = "the output is closed: the work continues, and later output is discarded\nto stderr\n"
    assert (status, err) == (0, "" if both else note)
    assert (tmp_path / "done").exists() and (tmp_path / "thread").exists()


def test_work_continues_without_an_open_output(tmp_path: Path) -> None:
    done = run("sh", "-c", 'exec "$0" -c "$1" >&- 2>&-', sys.executable, WORK, folder=tmp_path)
    assert done.returncode == 0 and (tmp_path / "done").exists()


def test_output_that_cannot_be_written_for_another_reason_is_an_error(tmp_path: Path) -> None:
    done = run("sh", "-c", 'exec "$0" -c "$1" >/dev/full', sys.executable, WORK, folder=tmp_path)
    assert done.returncode == 1 and "No space left on device" in done.stderr
    assert not (tmp_path / "done").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_is_finished_after_its_output_is_closed(tmp_path: Path) -> None:
    small = "--teacher.train.images", "2000", "--pretrain.images", "2000", "--finetune.images", "500"
    process = subprocess.Popen(
        [sys.executable, str(JOBS / "semi_supervised.py"), "digits", *small],
        env=environment(PYTHONPATH=PYTHONPATH),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stderr
    assert process.stdout.readline()  # as `| head -1` does
    process.stdout.close()
    with process.stderr:
        err = process.stderr.read()
    assert process.wait(500) == 0, err
    assert err == "the output is closed: the work continues, and later output is discarded\n"
    assert len(list(tmp_path.glob("runs/run-digits-*/manifest.json"))) == 1
