"""Starts, observes and kills a driver in the fault tests: the processes of its run, and the files of its root."""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from driver import SMALL, Spec, run
from golden import Golden
from paths import PYTHONPATH, SUPPORT

_MEDIA = "raylabel.media.sandbox.child"  # in the command line of a sandbox's processes


class Driver:
    """A run in a process group of its own, with all processes that it started."""

    def __init__(self, spec: Spec) -> None:
        self.root = Path(spec.root)
        self._temporary = tempfile.mkdtemp(prefix="rl")
        self.log = Path(self._temporary, "log")
        spec = dataclasses.replace(spec, temporary=self._temporary)
        path = os.pathsep.join([PYTHONPATH, os.environ.get("PYTHONPATH", "")])
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(SUPPORT / "driver.py"), json.dumps(dataclasses.asdict(spec))],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )
        self._seen: dict[int, int] = {}
        self._watched = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()

    def __enter__(self) -> "Driver":
        return self

    def __exit__(self, *_: object) -> None:
        """Ends all processes, and waits until none is left."""
        self.kill()
        self._watched.set()
        self._watcher.join()
        assert self.process.stdin
        with suppress(OSError):
            self.process.stdin.close()
        try:
            # Ray's agents run a minute longer than the node that they serve, and hold no resources of the run.
            wait_until(
                lambda: all(
                    command_line(pid).startswith(("ray::RuntimeEnvAgent", "ray::DashboardAgent"))
                    for pid in self._left()
                ),
                60,
                lambda: f"outlived the driver: {[command_line(pid) for pid in self._left()]}",
            )
        finally:
            for pid in self._left():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not self._left(), 60, lambda: "processes that were killed still exist")
            shutil.rmtree(self._temporary)

    def _left(self) -> list[int]:
        return alive(self._seen.copy())

    def _watch(self) -> None:
        """Remembers all processes: one whose parent has ended is no longer found below the driver."""
        while not self._watched.wait(0.2):
            self._seen = self._seen | self.processes()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def finish(self, seconds: float) -> int:
        """The exit status; AssertionError with the output if it takes longer than `seconds`."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s, {self.progress()}") from None

    def must_succeed(self, seconds: float) -> None:
        status = self.finish(seconds)
        assert status == 0, f"exit status {status}:\n{self.output()[-5000:]}"

    def send(self, command: str) -> None:
        """Sends a command to the driver, and waits until it is done."""
        before = self.output().count('"done"')
        assert self.process.stdin
        self.process.stdin.write(f"{command}\n".encode())
        self.process.stdin.flush()
        self.wait_until(lambda: self.output().count('"done"') > before, 120)

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def progress(self) -> str:
        return f"{len(self.parts())} parts committed; output:\n{self.output()[-5000:]}"

    def wait_until(self, condition: Callable[[], object], seconds: float = 200) -> None:
        """Waits until the condition holds; AssertionError if the run ends first or it takes longer than `seconds`."""

        def check() -> bool:
            met = bool(condition())
            assert met or self.process.poll() is None, (
                f"the run ended too early for this test:\n{self.output()[-5000:]}"
            )
            return met

        wait_until(check, seconds, self.progress)

    def parts(self) -> list[Path]:
        """The records of the committed parts of SCORES."""
        return sorted(self.root.glob("scores-*/parts/*.json"))

    def processes(self) -> dict[int, int]:
        """pid → start time of the driver and of all its descendants."""
        return descendants(self.process.pid)

    def actors(self) -> list[int]:
        """The processes of teacher actors."""
        return actors_among(self.processes())

    def decoders(self) -> list[int]:
        """The worker processes in which a task decodes."""
        return [pid for pid in self.processes() if command_line(pid).startswith("ray::MapBatches(decode)")]

    def workers(self) -> list[int]:
        """The processes of Ray tasks and actors, busy or not."""
        return [pid for pid in self.processes() if command_line(pid).startswith("ray::")]

    def sandboxed(self) -> list[int]:
        """The sandbox processes: zygotes, and the processes that parse media, even if their zygote is gone."""
        return [pid for pid in {*self.processes(), *self._left()} if _MEDIA in command_line(pid)]

    def zygotes(self) -> list[int]:
        """The processes that fork the parsers."""
        return zygotes_among(self.sandboxed())

    def parsers(self) -> list[int]:
        """The processes that parse media."""
        return parsers_among(self.sandboxed())


def actors_among(pids: Iterable[int]) -> list[int]:
    """The processes of teacher actors."""
    return [pid for pid in pids if command_line(pid).startswith("ray::MapWorker(MapBatches(ScoringActor))")]


def zygotes_among(pids: Iterable[int]) -> list[int]:
    """The processes that fork the parsers."""
    return [pid for pid in pids if _MEDIA in command_line(pid) and command_line(_parent(pid)).startswith("ray::")]


def parsers_among(pids: Iterable[int]) -> list[int]:
    """The processes that parse media."""
    return [pid for pid in pids if _MEDIA in command_line(pid) and not command_line(_parent(pid)).startswith("ray::")]


def kill_one(pids: list[int], chance: random.Random) -> bool:
    """Sends SIGKILL to one of them; returns whether there was one."""
    if not pids:
        return False
    with suppress(ProcessLookupError):
        os.kill(chance.choice(pids), signal.SIGKILL)
    return True


@contextmanager
def nothing_changes(root: Path) -> Iterator[None]:
    """AssertionError if the block changes, creates or rewrites a file."""
    before = stamps(root)
    yield
    assert stamps(root) == before


def stamps(root: Path) -> dict[str, tuple[int, int, int]]:
    """File → (inode, bytes, time of its last change in ns)."""
    found = {path: path.stat() for path in root.rglob("*") if path.is_file()}
    return {str(path): (stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


def wait_until(condition: Callable[[], bool], seconds: float, why: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds} s: {why()}"
        time.sleep(0.02)


def command_line(pid: int) -> str:
    """The command line of a process (Ray sets it to a title); empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def alive(processes: dict[int, int]) -> list[int]:
    """The pids of pid → start time that still run."""
    return [pid for pid, start in processes.items() if (stat := _stat(pid)) and stat[1] == start and stat[2] != "Z"]


def _parent(pid: int) -> int:
    stat = _stat(pid)
    return stat[0] if stat else 0


def _stat(pid: int) -> tuple[int, int, str] | None:
    """(parent, start time in clock ticks, state) of a process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), int(fields[19]), fields[0]


def descendants(pid: int) -> dict[int, int]:
    """pid → start time of a process and of all its descendants."""
    stats = {int(name): stat for name in os.listdir("/proc") if name.isdigit() and (stat := _stat(int(name)))}
    children: dict[int, list[int]] = {}
    for child, (parent, _, _) in stats.items():
        children.setdefault(parent, []).append(child)
    found, todo = {}, [pid]
    while todo:
        one = todo.pop()
        if one in stats:
            found[one] = stats[one][1]
            todo += children.get(one, [])
    return found


@dataclass(frozen=True)
class Stage:
    """A golden corpus on disk, and a root for a run over it."""

    golden: Golden
    corpus: list[str]
    root: Path

    def spec(self, **settings: Any) -> Spec:
        return Spec(corpus=self.corpus, root=str(self.root), **settings)

    def check(self, reasons: Mapping[int, str] | None = None) -> None:
        """Checks the root (see `Golden.check`), and that the same run again, in this process, changes nothing."""
        self.golden.check(self.root, reasons)
        with nothing_changes(self.root), pytest.MonkeyPatch.context() as patch:
            for name, value in SMALL.items():
                patch.setattr(name.replace(":", "."), value)
            run(self.spec(), str(self.root))
