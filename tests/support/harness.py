"""A driver of the fault tests as its tormentor sees it: the processes of a run, and what stands in its root."""

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
from collections.abc import Callable, Iterator, Mapping
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
    """A run in a process group of its own, with all that it started."""

    def __init__(self, spec: Spec) -> None:
        self.root = Path(spec.root)
        self._temporary = tempfile.mkdtemp(prefix="rl")
        self.said = Path(self._temporary, "said")
        spec = dataclasses.replace(spec, temporary=self._temporary)
        path = os.pathsep.join([PYTHONPATH, os.environ.get("PYTHONPATH", "")])
        with self.said.open("wb") as out:
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
        """Ends all of it, and waits until nothing is left."""
        self.kill()
        self._watched.set()
        self._watcher.join()
        assert self.process.stdin
        with suppress(OSError):
            self.process.stdin.close()
        try:
            # Ray's agents stay a minute longer than what they serve, and hold nothing of the run.
            wait_until(
                lambda: all(
                    told(pid).startswith(("ray::RuntimeEnvAgent", "ray::DashboardAgent")) for pid in self._left()
                ),
                60,
                lambda: f"outlived the driver: {[told(pid) for pid in self._left()]}",
            )
        finally:
            for pid in self._left():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not self._left(), 60, lambda: "processes that were killed are still there")
            shutil.rmtree(self._temporary)

    def _left(self) -> list[int]:
        return alive(self._seen.copy())

    def _watch(self) -> None:
        """Remembers who was there: those whose parent is gone are nobody's children."""
        while not self._watched.wait(0.2):
            self._seen = self._seen | self.family()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def finish(self, seconds: float) -> int:
        """Its exit status; AssertionError with what it said if it takes longer."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s, {self.progress()}") from None

    def must_succeed(self, seconds: float) -> None:
        status = self.finish(seconds)
        assert status == 0, f"exit status {status}:\n{self.output()[-5000:]}"

    def tell(self, word: str) -> None:
        """Says a word to the driver, and waits until it has obeyed."""
        before = self.output().count('"obeyed"')
        assert self.process.stdin
        self.process.stdin.write(f"{word}\n".encode())
        self.process.stdin.flush()
        self.wait_until(lambda: self.output().count('"obeyed"') > before, 120)

    def output(self) -> str:
        return self.said.read_text(errors="replace")

    def progress(self) -> str:
        return f"{len(self.parts())} parts committed; it said:\n{self.output()[-5000:]}"

    def wait_until(self, condition: Callable[[], object], seconds: float = 200) -> None:
        """Until the condition holds; AssertionError if the run ends first or that takes longer."""

        def check() -> bool:
            met = bool(condition())
            assert met or self.process.poll() is None, f"it ended too early for this test:\n{self.output()[-5000:]}"
            return met

        wait_until(check, seconds, self.progress)

    def parts(self) -> list[Path]:
        """The records of SCORES that are committed."""
        return sorted(self.root.glob("scores-*/parts/*.json"))

    def family(self) -> dict[int, int]:
        """pid → start of the driver and of all below it."""
        return _below(self.process.pid)

    def actors(self) -> list[int]:
        """The processes of teacher actors."""
        return [pid for pid in self.family() if told(pid).startswith("ray::MapWorker(MapBatches(ScoringActor))")]

    def decoders(self) -> list[int]:
        """The workers in which a task decodes."""
        return [pid for pid in self.family() if told(pid).startswith("ray::MapBatches(decode)")]

    def workers(self) -> list[int]:
        """The processes of Ray tasks and actors, busy or not."""
        return [pid for pid in self.family() if told(pid).startswith("ray::")]

    def sandboxed(self) -> list[int]:
        """The processes that parse media, also where the one that forked them is gone, and those that fork them."""
        return [pid for pid in {*self.family(), *self._left()} if _MEDIA in told(pid)]

    def zygotes(self) -> list[int]:
        """The processes that fork those that parse."""
        return [pid for pid in self.sandboxed() if told(_parent(pid)).startswith("ray::")]

    def parsers(self) -> list[int]:
        """The processes that parse media."""
        return [pid for pid in self.sandboxed() if not told(_parent(pid)).startswith("ray::")]


def kill_one(pids: list[int], chance: random.Random) -> bool:
    """SIGKILL to one of them; whether there was one."""
    if not pids:
        return False
    with suppress(ProcessLookupError):
        os.kill(chance.choice(pids), signal.SIGKILL)
    return True


@contextmanager
def nothing_changes(root: Path) -> Iterator[None]:
    """AssertionError if the block changes a file, makes one or writes one anew."""
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


def told(pid: int) -> str:
    """How a process calls itself; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def alive(processes: dict[int, int]) -> list[int]:
    """Those of pid → start that still run."""
    return [pid for pid, start in processes.items() if (stat := _stat(pid)) and stat[1] == start and stat[2] != "Z"]


def _parent(pid: int) -> int:
    stat = _stat(pid)
    return stat[0] if stat else 0


def _stat(pid: int) -> tuple[int, int, str] | None:
    """(parent, start in clock ticks, state) of a process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), int(fields[19]), fields[0]


def _below(pid: int) -> dict[int, int]:
    """pid → start of a process and of all that it, or one below it, is the parent of."""
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
        """The run has left what it must (see `Golden.check`), and the same again, in this process, does nothing."""
        self.golden.check(self.root, reasons)
        with nothing_changes(self.root), pytest.MonkeyPatch.context() as patch:
            for name, value in SMALL.items():
                patch.setattr(name.replace(":", "."), value)
            run(self.spec(), str(self.root))
