"""One driver per root: a second one stops, and a killed one does not block the root. Real processes, disk and S3."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
from paths import PYTHONPATH

from raylabel.errors import InputError
from raylabel.store import root_lock
from raylabel.store.artifact import Root
from raylabel.store.files import filesystem, list_files, read_file, write_file
from raylabel.store.root_lock import held
from raylabel.store.s3_retry import RetryingFile

HOLD = """
import sys, time
from raylabel.store import root_lock
from raylabel.store.artifact import Root
from raylabel.errors import InputError
root_lock.HEARTBEAT_EVERY, root_lock.STALE, root_lock.LOOK = 0.2, 2.0, 0.1
root_lock._machine = lambda: sys.argv[2]
others = root_lock._RootLock._others

def list_after_a_line(self):
    root_lock._RootLock._others = others
    print("wrote", flush=True)
    sys.stdin.readline()
    return others(self)

if sys.argv[3:]:
    root_lock._RootLock._others = list_after_a_line
try:
    with root_lock.held(Root(sys.argv[1])):
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
    """Starts drivers. `machine` identifies the machine on which a driver seems to run; empty: this one. With `waits`, a
    driver waits for a line on stdin before it lists the others."""
    running: list[subprocess.Popen] = []

    def start(root: Root, machine: str = "", *waits: str) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLD, root.uri, machine or root_lock._machine(), *waits]
        pipes: dict[str, Any] = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
        running.append(subprocess.Popen(command, text=True, env={**os.environ, "PYTHONPATH": PYTHONPATH}, **pipes))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


Start = Callable[..., subprocess.Popen]


def read_line(process: subprocess.Popen) -> str:
    assert process.stdout
    return process.stdout.readline().rstrip()


def release(process: subprocess.Popen, line: str = "\n") -> int:
    process.communicate(line, timeout=30)
    return process.returncode


def drivers(root: Root) -> list[str]:
    return list_files(f"{root.uri}/{root_lock.FOLDER}")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("HEARTBEAT_EVERY", 0.2), ("STALE", 2.0), ("LOOK", 0.1)):
        monkeypatch.setattr(root_lock, name, seconds)


@pytest.mark.parametrize("machine", ["", "another"])
def test_the_second_driver_stops_and_names_the_first(root: Root, start: Start, quick: None, machine: str) -> None:
    first = start(root, machine)
    assert read_line(first) == "held"
    with pytest.raises(InputError, match=f"another run uses '{root.uri}'.*process {first.pid} on .*--root"):
        with held(root):
            raise AssertionError("two drivers hold the root")
    assert release(first) == 0 and drivers(root) == []
    with held(root):
        assert len(drivers(root)) == 1
        with pytest.raises(InputError, match="another run uses"), held(root):  # in the same process
            raise AssertionError("two drivers hold the root")
    assert drivers(root) == []


def test_a_driver_killed_on_this_machine_does_not_block_the_root(
    root: Root, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(root_lock, "STALE", 1e6)  # the test would time out if it waited
    first = start(root)
    assert read_line(first) == "held"
    os.kill(first.pid, signal.SIGKILL)
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)  # a zombie
    with held(root):
        assert len(drivers(root)) == 1


@pytest.mark.long
def test_a_driver_killed_on_another_machine_blocks_the_root_for_a_while(
    root: Root, start: Start, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    first = start(root, "another")
    assert read_line(first) == "held"
    first.kill()
    first.wait()
    begin = time.monotonic()
    with held(root):
        assert time.monotonic() - begin > root_lock.STALE / 2
        assert len(drivers(root)) == 1
    assert f"process {first.pid} on " in (err := capsys.readouterr().err) and "waiting up to 2 s" in err


def test_a_driver_whose_pid_is_now_of_another_process_does_not_block_the_root(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(root_lock, "STALE", 1e6)
    other = root_lock.Driver("host", os.getpid(), "then", root_lock._machine(), "1", True)
    write_file(f"{root.uri}/{root_lock.FOLDER}/{other.id}.json", json.dumps(root_lock.asdict(other)).encode())
    with held(root):
        assert drivers(root) != [f"{other.id}.json"]


@pytest.mark.long
@pytest.mark.parametrize("machine", ["", "each its own"])
def test_of_many_that_start_together_exactly_one_continues(root: Root, start: Start, machine: str) -> None:
    processes = [start(root, machine and f"{machine} {i}", "waits before it lists") for i in range(5)]
    assert [read_line(process) for process in processes] == ["wrote"] * 5
    for process in processes:  # all have written their files, and none has listed those of the others
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    lines = [read_line(process) for process in processes]
    assert sorted(line[:5] for line in lines) == ["error"] * 4 + ["held"]
    assert all("another run uses" in line for line in lines if line != "held")
    codes = [release(process) for process in processes]
    assert [code == 0 for code in codes] == [line == "held" for line in lines]
    assert drivers(root) == []


def test_a_driver_that_ends_or_continues_while_another_reads_its_file_is_no_error(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a store a read is two requests, one for the size; another driver may write or delete its file in between."""
    other = root_lock._RootLock(f"{bucket}/runs")
    opened = RetryingFile.__init__
    then: list[Callable[[], None]] = []

    def open_then(*arguments: Any) -> None:
        opened(*arguments)
        if then:
            then.pop()()

    monkeypatch.setattr(RetryingFile, "__init__", open_then)
    mine = root_lock._RootLock(f"{bucket}/runs")
    other._write()
    other._me = replace(other._me, holds=True)
    then.append(other._write)
    assert [driver for driver, _ in mine._others()] == [other._me] and not then
    then.append(other.release)
    assert mine._others() == [] and not then


@pytest.mark.long
def test_a_stall_of_the_storage_does_not_take_the_root_from_its_driver(
    root: Root, start: Start, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start(root, "another")
    assert read_line(first) == "held"
    heartbeat = root_lock._RootLock._heartbeat

    def stalled(self: Any) -> None:
        first.send_signal(signal.SIGSTOP)
        time.sleep(2 * root_lock.STALE)  # as if the storage answered neither driver
        monkeypatch.setattr(root_lock._RootLock, "_heartbeat", heartbeat)
        heartbeat(self)
        first.send_signal(signal.SIGCONT)

    monkeypatch.setattr(root_lock._RootLock, "_heartbeat", stalled)
    with pytest.raises(InputError, match=f"another run uses .*process {first.pid}"), held(root):
        raise AssertionError("two drivers hold the root")
    assert release(first) == 0


@pytest.mark.slow
def test_a_waiting_driver_that_dies_is_not_waited_for(root: Root, quick: None) -> None:
    """It has a heartbeat after this driver has first seen it, and none after that."""
    other = root_lock.Driver("host", 1, "then", "another", "1", False, "~")  # its id is the larger one
    uri, content = f"{root.uri}/{root_lock.FOLDER}/{other.id}.json", json.dumps(root_lock.asdict(other)).encode()
    write_file(uri, content)
    threading.Timer(1.5, write_file, (uri, content)).start()
    begin = time.monotonic()
    with held(root):
        assert time.monotonic() - begin > 1.5 and len(drivers(root)) == 1


@pytest.mark.long
def test_a_driver_whose_file_was_deleted_while_it_waited_writes_it_again(root: Root, start: Start, quick: None) -> None:
    first = start(root, "another")
    assert read_line(first) == "held"
    second = start(root, "a third", "waits before it lists")
    assert read_line(second) == "wrote"
    (mine,) = [
        name for name in drivers(root) if json.loads(read_file(f"{root.uri}/drivers/{name}"))["pid"] == second.pid
    ]
    fs, path = filesystem(f"{root.uri}/drivers/{mine}")
    fs.delete_file(path)
    assert second.stdin
    second.stdin.write("\n")
    second.stdin.flush()
    assert f"another run uses '{root.uri}'" in read_line(second) and second.wait(30) == 2
    assert release(first) == 0


def test_an_error_of_the_block_is_raised_and_the_root_is_free(root: Root, start: Start) -> None:
    first = start(root)
    assert read_line(first) == "held" and release(first, "raise\n") == 1
    with held(root):
        pass


@pytest.mark.slow
def test_a_root_that_is_deleted_or_taken_over_stops_its_driver(root: Root, start: Start) -> None:
    fs, path = filesystem(root.uri)
    for _ in range(2):
        first = start(root)
        assert read_line(first) == "held"
        if isinstance(fs, pafs.LocalFileSystem):
            shutil.rmtree(path)
        else:
            fs.delete_dir_contents(path)
        assert "was deleted or taken over by another run" in read_line(first) and first.wait(30) == 2

    first = start(root)
    assert read_line(first) == "held"
    (own,) = drivers(root)
    other = json.loads(read_file(f"{root.uri}/{root_lock.FOLDER}/{own}")) | {"id": "other", "pid": 12345}
    write_file(f"{root.uri}/{root_lock.FOLDER}/other.json", json.dumps(other).encode())
    assert "another run uses" in (line := read_line(first)) and "process 12345" in line and first.wait(30) == 2


@pytest.mark.slow
def test_a_driver_that_was_suspended_during_a_takeover_stops(root: Root, start: Start, quick: None) -> None:
    first = start(root, "another")
    assert read_line(first) == "held"
    first.send_signal(signal.SIGSTOP)
    with held(root):
        first.send_signal(signal.SIGCONT)
        assert "taken over by another run" in read_line(first) and first.wait(30) == 2
        assert len(drivers(root)) == 1


def test_a_file_that_is_not_a_lock_is_an_error(root: Root) -> None:
    write_file(f"{root.uri}/{root_lock.FOLDER}/x.json", b"no driver")
    with pytest.raises(InputError, match=r"x.json' does not say which run.*delete it"), held(root):
        raise AssertionError("held")
