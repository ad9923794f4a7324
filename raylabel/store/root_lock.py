"""One driver at a time in a root, on a disk or in an object store.

Each driver has a file of its own, `drivers/<id>.json`, and gives it a new time every few seconds: its heartbeat. It
writes the file, then lists the others, and goes on only where it finds none alive. Of two that start at once at least
one sees the other, for both have written before they look; where both do, the one with the smaller id goes on. Whether
another is alive is told by its process where that is on this machine, else by its heartbeat: the times are the
storage's own, and compared with each other alone.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime

import pyarrow.fs as pafs

from raylabel.errors import InputError
from raylabel.store.artifact import Root
from raylabel.store.files import AGAIN, filesystem, is_local, read_file, reading, write_file, writing

FOLDER = "drivers"
BEAT = 5.0  # seconds between two heartbeats
STALE = 30.0  # seconds without one after which a driver on another machine is taken for dead
LOOK = 1.0  # seconds between two looks at one of which that is not yet known; GCS takes no more writes of a file
HARD = 60.0  # seconds after which a driver that lost its root and does not end is ended


@contextmanager
def held(root: Root) -> Iterator[None]:
    """No other driver is at work in the root while the block runs.

    InputError at once if another is: who, where, since when. One that was killed is no hindrance: on this machine it
    is seen at once, on another after STALE seconds. If the root is deleted or taken over while the block runs, because
    this machine slept for example, the block is interrupted and ends in an InputError.
    """
    lease = _Lease(root.uri)
    try:
        lease.take()
        lease.keep()
        yield
    except BaseException:
        if lease.lost:
            raise InputError(lease.lost) from None
        raise
    finally:
        lease.release()
    if lease.lost:
        raise InputError(lease.lost)


@dataclass(frozen=True)
class Driver:
    """Who is at work in a root, or would be."""

    host: str
    pid: int
    since: str
    """By that machine's clock, for people only."""
    machine: str
    """The start of the machine and the process namespace that the pid is of: the same words, the same processes."""
    start: str
    """When the process started, in ticks of its machine: tells it from a later one with the same pid."""
    holds: bool = False
    """False while it still looks for others."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def here(cls) -> "Driver":
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        return cls(socket.gethostname(), os.getpid(), since, _machine(), _start(os.getpid()) or "")

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class _Lease:
    def __init__(self, root: str) -> None:
        self.lost = ""  # why this driver may not go on
        self._root, self._folder = root, f"{root}/{FOLDER}"
        self._me = Driver.here()
        self._uri = f"{self._folder}/{self._me.id}.json"
        self._beats: dict[str, int] = {}  # of the others, as they were first seen
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lease", daemon=True)

    def take(self) -> None:
        self._write()
        told: set[str] = set()
        while others := self._others():
            now = self._beat()
            for other, beat in others:
                alive = self._is_alive(other, beat, now)
                if alive and (other.holds or other.id < self._me.id):
                    raise InputError(
                        f"another run is at work in '{self._root}' ({other}): wait for its end or stop it, or give "
                        "another --root"
                    )
                if alive is False:
                    self._delete(other.id)
                elif other.id not in told:
                    told.add(other.id)
                    print(
                        f"'{self._root}' was in use by another run ({other}): waiting up to {STALE:.0f} s to see "
                        "whether it still is",
                        file=sys.stderr,
                    )
            time.sleep(LOOK)
        self._me = replace(self._me, holds=True)
        self._write()

    def keep(self) -> None:
        self._thread.start()

    def release(self) -> None:
        self._released.set()
        if self._thread.is_alive():
            self._thread.join()
        with suppress(InputError):  # whoever comes next sees that this process is gone
            self._delete(self._me.id)

    def _watch(self) -> None:
        while not self._released.wait(BEAT):
            with suppress(InputError):  # storage that does not answer gives the root to nobody else meanwhile
                self.lost = self._why_lost()
            if self.lost:
                self._interrupt()
                return

    def _why_lost(self) -> str:
        try:
            self._beat()
        except FileNotFoundError:
            return f"the root '{self._root}' was deleted or taken over by another run while this one was at work in it"
        others = [other for other, _ in self._others() if other.holds]
        return f"another run is at work in '{self._root}' too ({others[0]}): stop one, {AGAIN}" if others else ""

    def _interrupt(self) -> None:
        main = threading.main_thread().ident
        assert main is not None
        end = time.monotonic() + HARD
        while time.monotonic() < end:
            signal.pthread_kill(main, signal.SIGINT)  # not interrupt_main, which wakes no system call
            if self._released.wait(HARD / 4):
                return
        print(f"error: {self.lost}", file=sys.stderr, flush=True)
        os._exit(2)

    def _is_alive(self, other: Driver, beat: int, now: int) -> bool | None:
        """Whether its process is; None if that is not known yet. `beat`, `now`: its last heartbeat and mine."""
        if other.machine == self._me.machine:
            return _start(other.pid) == other.start
        if beat != self._beats.setdefault(other.id, beat):
            return True
        return False if now - beat > STALE * 1e9 else None

    def _beat(self) -> int:
        """My heartbeat, in the storage's nanoseconds. FileNotFoundError if my file is gone."""
        fs, path = filesystem(self._uri)
        read_file(self._uri)
        if is_local(self._uri):
            with writing(self._uri):
                os.utime(path)  # the time of a file server where it is one; and a full disk does not matter
        else:
            self._write()
        with reading(self._uri):
            return fs.get_file_info(path).mtime_ns or 0

    def _others(self) -> list[tuple[Driver, int]]:
        """The other drivers, with their last heartbeats in the storage's nanoseconds."""
        fs, path = filesystem(self._folder)
        with reading(self._folder):
            infos = fs.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        found = []
        for info in infos:
            stem, dot, extension = info.base_name.partition(".")
            if extension == "json" and stem != self._me.id:
                # Reading it makes a network file system ask for its time anew, where it would answer from memory.
                with suppress(FileNotFoundError):  # it has gone meanwhile
                    other = _parse(f"{self._folder}/{info.base_name}")
                    found.append((other, fs.get_file_info(info.path).mtime_ns or 0))
        return found

    def _write(self) -> None:
        write_file(self._uri, json.dumps(asdict(self._me)).encode())

    def _delete(self, name: str) -> None:
        fs, path = filesystem(f"{self._folder}/{name}.json")
        with writing(f"{self._folder}/{name}.json"), suppress(FileNotFoundError):
            fs.delete_file(path)


def _parse(uri: str) -> Driver:
    try:
        return Driver(**json.loads(read_file(uri)))
    except (ValueError, TypeError) as error:
        raise InputError(f"'{uri}' does not say which run is at work there: delete it if none is") from error


def _machine() -> str:
    """Names the processes that a pid may be of; on a system without /proc nobody else's are known."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return uuid.uuid4().hex


def _start(pid: int) -> str | None:
    """When the process started, in ticks of its machine; None if there is none, or it is dead and not yet buried."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, *fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else fields[18]
