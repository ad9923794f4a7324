"""One driver per root: who comes second stops, who was killed is no hindrance. Real processes, both storages."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
from paths import PYTHONPATH

from raylabel.errors import InputError
from raylabel.store import root_lock as lease
from raylabel.store.artifact import Root
from raylabel.store.files import filesystem, list_files, read_file, write_file
from raylabel.store.root_lock import held

HOLD = """
import sys, time
from raylabel.store import root_lock as lease
from raylabel.store.artifact import Root
from raylabel.errors import InputError
lease.BEAT, lease.STALE, lease.LOOK = 0.2, 2.0, 0.1
lease._machine = lambda: sys.argv[2]
others = lease._Lease._others

def first_look(self):
    lease._Lease._others = others
    print("wrote", flush=True)
    sys.stdin.readline()
    return others(self)

if sys.argv[3:]:
    lease._Lease._others = first_look
try:
    with lease.held(Root(sys.argv[1])):
        print("held", flush=True)
        if sys.stdin.readline() == "raise\\n":
            raise ValueError("its own")
except InputError as error:
    print(f"error: {error}", flush=True)
    sys.exit(2)
"""


@pytest.fixture(params=["disk", "store"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Root:
    if request.param == "store":
        return Root.open(f"{request.getfixturevalue('bucket')}/some runs")
    return Root.open(str(tmp_path / "root"))


@pytest.fixture
def start() -> Any:
    """Starts drivers; `machine` is what tells their machine from another."""
    running: list[subprocess.Popen] = []

    def start(root: Root, machine: str = "", *waits: str) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLD, root.uri, machine or lease._machine(), *waits]
        pipes: dict[str, Any] = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
        running.append(subprocess.Popen(command, text=True, env={**os.environ, "PYTHONPATH": PYTHONPATH}, **pipes))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


Start = Callable[..., subprocess.Popen]


def says(process: subprocess.Popen) -> str:
    assert process.stdout
    return process.stdout.readline().rstrip()


def lets_go(process: subprocess.Popen, word: str = "\n") -> int:
    process.communicate(word, timeout=30)
    return process.returncode


def drivers(root: Root) -> list[str]:
    return list_files(f"{root.uri}/{lease.FOLDER}")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("BEAT", 0.2), ("STALE", 2.0), ("LOOK", 0.1)):
        monkeypatch.setattr(lease, name, seconds)


@pytest.mark.parametrize("machine", ["", "another"])
def test_the_second_stops_and_says_who_the_first_is(root: Root, start: Start, quick: None, machine: str) -> None:
    first = start(root, machine)
    assert says(first) == "held"
    with pytest.raises(InputError, match=f"another run is at work in '{root.uri}'.*process {first.pid} on .*--root"):
        with held(root):
            raise AssertionError("two at once")
    assert lets_go(first) == 0 and drivers(root) == []
    with held(root):
        assert len(drivers(root)) == 1
        with pytest.raises(InputError, match="another run is at work"), held(root):  # in this very process
            raise AssertionError("two at once")
    assert drivers(root) == []


def test_one_that_was_killed_here_is_no_hindrance(root: Root, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "STALE", 1e6)  # it would wait for ever for what it sees at once
    first = start(root)
    assert says(first) == "held"
    os.kill(first.pid, signal.SIGKILL)
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet buried
    with held(root):
        assert len(drivers(root)) == 1


def test_one_that_was_killed_elsewhere_is_waited_for(
    root: Root, start: Start, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    first = start(root, "another")
    assert says(first) == "held"
    first.kill()
    first.wait()
    begin = time.monotonic()
    with held(root):
        assert time.monotonic() - begin > lease.STALE / 2
        assert len(drivers(root)) == 1
    assert f"process {first.pid} on " in (told := capsys.readouterr().err) and "waiting up to 2 s" in told


def test_a_pid_that_is_another_process_now_is_none(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "STALE", 1e6)
    other = lease.Driver("host", os.getpid(), "then", lease._machine(), "1", True)
    write_file(f"{root.uri}/{lease.FOLDER}/{other.id}.json", json.dumps(lease.asdict(other)).encode())
    with held(root):
        assert drivers(root) != [f"{other.id}.json"]


@pytest.mark.parametrize("machine", ["", "each its own"])
def test_of_many_that_start_at_once_exactly_one_goes_on(root: Root, start: Start, machine: str) -> None:
    processes = [start(root, machine and f"{machine} {i}", "and waits before it looks") for i in range(5)]
    assert [says(process) for process in processes] == ["wrote"] * 5
    for process in processes:  # all have written, none has looked
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    said = [says(process) for process in processes]
    assert sorted(word[:5] for word in said) == ["error"] * 4 + ["held"]
    assert all("another run is at work in" in word for word in said if word != "held")
    codes = [lets_go(process) for process in processes]
    assert [code == 0 for code in codes] == [word == "held" for word in said]
    assert drivers(root) == []


def test_its_own_error_passes_and_the_root_is_free(root: Root, start: Start) -> None:
    first = start(root)
    assert says(first) == "held" and lets_go(first, "raise\n") == 1
    with held(root):
        pass


def test_a_root_that_is_deleted_or_taken_over_stops_its_driver(root: Root, start: Start) -> None:
    fs, path = filesystem(root.uri)
    for _ in range(2):
        first = start(root)
        assert says(first) == "held"
        if isinstance(fs, pafs.LocalFileSystem):
            shutil.rmtree(path)
        else:
            fs.delete_dir_contents(path)
        assert "was deleted or taken over by another run" in says(first) and first.wait(30) == 2

    first = start(root)
    assert says(first) == "held"
    (own,) = drivers(root)
    other = json.loads(read_file(f"{root.uri}/{lease.FOLDER}/{own}")) | {"id": "other", "pid": 12345}
    write_file(f"{root.uri}/{lease.FOLDER}/other.json", json.dumps(other).encode())
    assert "another run is at work" in (said := says(first)) and "process 12345" in said and first.wait(30) == 2


def test_a_driver_that_slept_through_a_takeover_stops(root: Root, start: Start, quick: None) -> None:
    first = start(root, "another")
    assert says(first) == "held"
    first.send_signal(signal.SIGSTOP)
    with held(root):
        first.send_signal(signal.SIGCONT)
        assert "taken over by another run" in says(first) and first.wait(30) == 2
        assert len(drivers(root)) == 1


def test_what_is_no_lease_is_named(root: Root) -> None:
    write_file(f"{root.uri}/{lease.FOLDER}/x.json", b"no lease")
    with pytest.raises(InputError, match=r"x.json' does not say which run.*delete it"), held(root):
        raise AssertionError("held")
