"""The watchdog: a run without progress for `resources.patience` seconds ends in an error that says where it stalled.

Progress is work that is done in any process: the driver calls `progressed`, tasks and actors call `heartbeat`. A
cluster that can start nothing, storage that does not answer and a worker that hangs all look the same to the driver: no
call arrives.
"""

import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from raylabel.compute.ray_internals import pending_requests
from raylabel.errors import RESUME, InputError

HEARTBEAT_EVERY = 2.0
"""Seconds between two heartbeats of one process, at least: a thousand of them are 500 small messages a second."""
TICK = 1.0
"""Seconds between two checks, at most."""
GRACE = 10.0
"""Seconds that the main thread has to end after each of INTERRUPTS; then the process is ended."""
INTERRUPTS = 3
"""An exception that is raised in a destructor or a callback is lost, so one interrupt may not be enough."""
ANSWER = 5.0
"""Seconds that the counter has to answer how many heartbeats it received."""
NAME = "raylabel-watchdog"


class _Counter:
    """The actor that receives the heartbeats of tasks and actors. It is on the driver's node, and ends with it."""

    def __init__(self) -> None:
        self.heartbeats = 0

    def heartbeat(self) -> None:
        self.heartbeats += 1

    def get(self) -> int:
        return self.heartbeats


class _Watchdog:
    def __init__(self, patience: float) -> None:
        self.patience, self.error = patience, ""
        self.stage, self.moves = "start", 0
        self._over, self._lock = threading.Event(), threading.Lock()
        self._heartbeats = 0
        self._thread = threading.Thread(target=self._check, name="watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with self._lock:
            self._over.set()
        self._thread.join(2 * ANSWER)  # a thread that is in a call of Ray when Ray shuts down raises an error

    def _check(self) -> None:
        tick = min(TICK, self.patience / 10)
        idle, said, seen, before = 0.0, False, (-1, -1), time.monotonic()
        while not self._over.wait(tick):
            self._heartbeats = _heartbeats(self._heartbeats)
            now = time.monotonic()
            # The time that a process was stopped (by Ctrl-Z, say) is not idle time: a tick counts for ten at most.
            idle, before = idle + min(now - before, 10 * tick), now
            if seen != (found := (self.moves, self._heartbeats)):
                idle, said, seen = 0.0, False, found
            elif idle >= self.patience:
                return self._stop()
            elif idle >= self.patience / 2 and not said:
                said = True
                print(
                    f"{self.stage}: no progress for {idle:.0f} s, an error after {self.patience:g} s "
                    f"(--resources.patience). {_cluster()}",
                    file=sys.stderr,
                    flush=True,
                )

    def _stop(self) -> None:
        error = (
            f"{self.stage}: no progress for {self.patience:g} s. {_cluster()}. If machines are still being started, "
            "raise --resources.patience; if other jobs use them, wait for those or ask for less "
            f"(--resources.teachers, --resources.workers); {RESUME}"
        )
        with self._lock:
            if self._over.is_set():
                return
            self.error = error
        end_main_thread(error, self._over, signal.SIGALRM)


def end_main_thread(error: str, over: threading.Event, number: int) -> None:
    """Sends signal `number` to the main thread until `over` is set. Prints the error and ends the process with status 2
    if it is not set after INTERRUPTS: the main thread is in a call that no signal interrupts. What is committed is
    complete whenever the process ends.
    """
    main = threading.main_thread().ident
    assert main is not None
    for _ in range(INTERRUPTS):
        signal.pthread_kill(main, number)  # not interrupt_main, which interrupts no system call
        if over.wait(GRACE):
            return
    print(f"error: {error}", file=sys.stderr, flush=True)
    os._exit(2)


_watchdog: _Watchdog | None = None
_counter: Any = None


@contextmanager
def watched(patience: float) -> Iterator[None]:
    """Ends the block with an InputError if there is no progress for `patience` seconds; a line is printed after half of
    them. For the main thread, after ray.init. If the block cannot be interrupted, the process is ended."""
    global _watchdog, _counter
    import ray

    _counter = _make_counter(ray.get_runtime_context().get_job_id())
    before = signal.signal(signal.SIGALRM, _interrupt)
    _watchdog = watch = _Watchdog(patience)
    try:
        yield
    except KeyboardInterrupt:  # the one exception that Ray lets through wherever it waits
        if watch.error:
            raise InputError(watch.error) from None
        raise
    finally:
        watch.close()
        _watchdog = None
        signal.signal(signal.SIGALRM, before)


def progressed(stage: str = "") -> None:
    """Says that this process has done some work, and that the next work is of `stage`, if given. For any thread."""
    if watch := _watchdog:
        watch.moves += 1
        watch.stage = stage or watch.stage
    else:  # a trial of a sweep: the sweep's driver has the watchdog
        heartbeat()


_due = 0.0


def heartbeat() -> None:
    """Says that a task or an actor has done some work whose result the driver does not have yet. Costs microseconds."""
    global _due
    now = time.monotonic()
    if now < _due:
        return
    _due = now + HEARTBEAT_EVERY
    if _watchdog:
        return progressed()
    import ray
    from ray.exceptions import RayError

    if ray.is_initialized():
        try:
            ray.get_actor(NAME).heartbeat.remote()
        except (ValueError, RayError):
            _due = now + 10 * HEARTBEAT_EVERY  # this driver has no watchdog


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


@functools.cache  # the actor ends with the handle that created it; a handle found by its name does not count
def _make_counter(job: str) -> Any:
    """The counter of a Ray job: one for all its blocks."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"name": NAME, "num_cpus": 0, "max_restarts": 3, "scheduling_strategy": here}
    return ray.remote(_Counter).options(**options).remote()


def _heartbeats(last: int) -> int:
    """How many heartbeats the counter has received; `last` if it does not answer."""
    import ray

    try:
        return ray.get(_counter.get.remote(), timeout=ANSWER)
    except Exception:  # a Ray that does not answer is not a reason to end at once, and not progress
        return last


def _cluster() -> str:
    """The cluster's resources, how much of them is free, and which requests wait, as a sentence."""
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(_describe()), name="describe", daemon=True)
    thread.start()
    thread.join(10)  # it asks the cluster, which may not answer
    return found[0] if found else "Ray does not answer"


def _describe() -> str:
    import ray

    alive = sum(node["Alive"] for node in ray.nodes())
    total, free = ray.cluster_resources(), ray.available_resources()
    parts = [f"{alive} machine{'s' if alive != 1 else ''}"]
    for name, unit in (("CPU", "CPUs"), ("GPU", "GPUs")):
        if total.get(name):
            parts.append(f"{free.get(name, 0):g} of {total[name]:g} {unit} free")
    return f"The cluster: {', '.join(parts)}; waiting for resources: {_waiting() or 'nothing'}"


def _waiting() -> str:
    """The requests for resources that the cluster cannot satisfy now."""
    return ", ".join(f"{count} x {_shown(bundle)}" for bundle, count in pending_requests().items())


def _shown(bundle: tuple[tuple[str, float], ...]) -> str:
    return "{" + ", ".join(_amount(name, amount) for name, amount in bundle if amount >= 0.01) + "}"


def _amount(name: str, amount: float) -> str:
    """'2 CPU', '0.5 GB memory'"""
    return f"{amount / 1e9:.1f} GB {name}" if name.endswith("memory") else f"{amount:g} {name}"
