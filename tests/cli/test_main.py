"""The command `raylabel`, and what becomes of a command whose output nobody reads any more: real processes."""

import subprocess
import sys
from pathlib import Path

import pytest
from heads import environment
from paths import JOBS, REPOSITORY

from raylabel.cli.main import COMMANDS

CONSOLE = "import sys; sys.argv[0] = 'raylabel'; from raylabel.cli.main import main; main()"


def console(*arguments: str, **more) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", CONSOLE, *arguments]
    env = environment(PYTHONPATH=str(REPOSITORY))
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=100, **more)


def test_help_lists_the_commands_and_an_unknown_one_is_an_error(tmp_path: Path):
    shown = console("--help", cwd=tmp_path)
    assert shown.returncode == 0 and all(name in shown.stdout for name in COMMANDS)
    wrong = console("digits", cwd=tmp_path)
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr
    assert wrong.stderr == "error: no command 'digits': there are semi-supervised, sweep, plan\n"


def test_a_command_shows_how_it_was_called(tmp_path: Path):
    shown = console("semi-supervised", "--help", cwd=tmp_path)
    assert shown.returncode == 0 and shown.stdout.startswith("usage: raylabel semi-supervised")
    assert "raylabel semi-supervised cifar10 --data DIR" in shown.stdout and "COMMAND" not in shown.stdout


@pytest.mark.parametrize("job", ["semi_supervised", "sweep", "plan"])
def test_help_that_is_cut_off_ends_without_a_traceback(job: str, tmp_path: Path):
    command = [sys.executable, str(JOBS / f"{job}.py"), "--help"]
    env = environment(PYTHONPATH=str(REPOSITORY))
    with subprocess.Popen(command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()  # as `| head` does, at the latest when it has its lines
        assert process.stderr.read() == b""
    assert process.returncode == 0
