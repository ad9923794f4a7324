"""One driver at a time in a root, on a disk or in an object store.

Each driver has its own file, `drivers/<id>.json`, and updates the time of the file every few seconds: its heartbeat. A
driver writes its file, then lists the others, and continues only if none of them is alive. If two start together, at
least one sees the other, because both write before they list; if both do, the one with the smaller id continues.
Whether another driver is alive is known from its process if that is on this machine. On another machine it is dead if
it has no heartbeat for STALE seconds in which the storage answers this driver: while storage stalls, all heartbeats do.
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

from raylabel.compute.watchdog import end_main_thread
from raylabel.errors import RESUME, InputError
from raylabel.store.artifact import Root
from raylabel.store.files import delete_file, filesystem, is_local, read_file, reading, write_file, writing

FOLDER = "drivers"
HEARTBEAT_EVERY = 5.0  # seconds between two heartbeats
# Seconds without a heartbeat after which a driver on another machine is dead; a retry of a request waits 20 at most.
STALE = 30.0
BYTES = 1024  # of the file of a driver
LOOK = 1.0  # seconds between two checks of a driver that may be dead; GCS allows one write of a file per second


@contextmanager
def held(root: Root) -> Iterator[None]:
    """The root lock: no other driver uses the root while the block runs.

    InputError if another does: its process, its machine and since when. The lock of a driver that was killed does not
    count: on this machine that is known immediately, on another after STALE seconds. If the root is deleted or taken
    over while the block runs, for example because this machine slept, the block is interrupted and ends in an
    InputError.
    """
    lock = _RootLock(root.uri)
    try:
        lock.take()
        lock.keep()
        yield
    except BaseException:
        if lock.lost:
            raise InputError(lock.lost) from None
        raise
    finally:
        lock.release()
    if lock.lost:
        raise InputError(lock.lost)


@dataclass(frozen=True)
class Driver:
    """A driver that uses a root, or waits for it."""

    host: str
    pid: int
    since: str
    """By the clock of its machine; only shown to people."""
    machine: str
    """Identifies the boot of the machine and the process namespace: equal where a pid means the same process."""
    start: str
    """When the process started, in ticks of its machine: distinguishes it from a later process with the same pid."""
    holds: bool = False
    """False while it still checks for others."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def here(cls) -> "Driver":
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        return cls(socket.gethostname(), os.getpid(), since, _machine(), _start(os.getpid()) or "")

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class _RootLock:
    def __init__(self, root: str) -> None:
        self.lost = ""  # why this driver must stop
        self._root, self._folder = root, f"{root}/{FOLDER}"
        self._me = Driver.here()
        self._uri = f"{self._folder}/{self._me.id}.json"
        self._last: dict[str, int] = {}  # the last heartbeat of each other driver
        self._silent: dict[str, float] = {}  # seconds since it, without stalls
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="root lock", daemon=True)

    def take(self) -> None:
        self._write()
        told: set[str] = set()
        before = time.monotonic()
        while others := self._others():
            try:
                self._heartbeat()
            except FileNotFoundError:  # deleted by a driver that had no answer from this one
                self._write()
            # A request that the storage answers late says nothing about the others, whose requests wait as well.
            before, seconds = (now := time.monotonic()), min(now - before, HEARTBEAT_EVERY)
            for other, heartbeat in others:
                alive = self._is_alive(other, heartbeat, seconds)
                if alive and (other.holds or other.id < self._me.id):
                    raise InputError(
                        f"another run uses '{self._root}' ({other}): wait until it ends or stop it, or give "
                        "another --root"
                    )
                if alive is False:
                    self._delete(other.id)
                elif other.id not in told:
                    told.add(other.id)
                    print(
                        f"'{self._root}' was used by another run ({other}): waiting up to {STALE:.0f} s to see "
                        "whether it is alive",
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
        with suppress(InputError):  # the next driver sees that this process is gone
            self._delete(self._me.id)

    def _watch(self) -> None:
        while not self._released.wait(HEARTBEAT_EVERY):
            with suppress(InputError):  # while storage does not answer, no other driver gets the root either
                self.lost = self._why_lost()
            if self.lost:
                end_main_thread(self.lost, self._released, signal.SIGINT)
                return

    def _why_lost(self) -> str:
        try:
            self._heartbeat()
        except FileNotFoundError:
            return f"the root '{self._root}' was deleted or taken over by another run while this run used it"
        others = [other for other, _ in self._others() if other.holds]
        return f"another run uses '{self._root}' too ({others[0]}): stop one of them; {RESUME}" if others else ""

    def _is_alive(self, other: Driver, heartbeat: int, seconds: float) -> bool | None:
        """Whether `other` is alive; None if that is not known yet. `seconds`: since the last call, without stalls."""
        if other.machine == self._me.machine:
            return _start(other.pid) == other.start
        if heartbeat != self._last.setdefault(other.id, heartbeat):
            self._last[other.id], self._silent[other.id] = heartbeat, 0.0
            return True
        self._silent[other.id] = self._silent.get(other.id, 0.0) + seconds
        return False if self._silent[other.id] > STALE else None

    def _heartbeat(self) -> None:
        """Updates the time of my file. FileNotFoundError if it is gone."""
        read_file(self._uri)
        if is_local(self._uri):
            with writing(self._uri):
                os.utime(filesystem(self._uri)[1])  # works on a full disk too
        else:
            self._write()

    def _others(self) -> list[tuple[Driver, int]]:
        """The other drivers with the times of their last heartbeats."""
        fs, path = filesystem(self._folder)
        with reading(self._folder):
            infos = fs.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        found = []
        for info in infos:
            stem, dot, extension = info.base_name.partition(".")
            if extension == "json" and stem != self._me.id:
                # Reading the file makes a network file system ask the server for its time instead of its cache.
                with suppress(FileNotFoundError):  # it was deleted after the listing
                    other = _parse(f"{self._folder}/{info.base_name}")
                    found.append((other, fs.get_file_info(info.path).mtime_ns or 0))
        return found

    def _write(self) -> None:
        # Always as long: pyarrow asks a store for the size first, and reads garbage after the end of a file that has
        # become shorter by the time it reads.
        write_file(self._uri, json.dumps(asdict(self._me)).encode().ljust(BYTES))

    def _delete(self, name: str) -> None:
        delete_file(f"{self._folder}/{name}.json")


def _parse(uri: str) -> Driver:
    try:
        return Driver(**json.loads(read_file(uri)))
    except (ValueError, TypeError) as error:
        raise InputError(f"'{uri}' does not say which run uses the root: delete it if none does") from error


def _machine() -> str:
    """Identifies what a pid is valid in; on a system without /proc only this process knows its own."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return uuid.uuid4().hex


def _start(pid: int) -> str | None:
    """When the process started, in ticks of its machine; None if there is none, or it is a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, *fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else fields[18]
