"""No run waits for ever: one in which nothing was done for its patience ends in an error that says what it waited for.

What counts is work that is done, wherever: this process says `moved`, tasks and actors say `beat`. A cluster that can
start nothing, a storage that does not answer and a worker that hangs all look the same from here: nobody says a word.
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
from raylabel.errors import InputError

HEARTBEAT_EVERY = 2.0
"""Seconds between two heartbeats of one process, at least: a thousand of them are 500 small messages a second."""
TICK = 1.0
"""Seconds between two looks, at most."""
GRACE = 10.0
"""Seconds that the main thread has to leave what it is in, three times over; then the process is ended."""
ANSWER = 5.0
"""Seconds that the counter has to say how many heartbeats it heard."""
NAME = "raylabel-watchdog"


class _Counter:
    """The actor that tasks and actors tell of their work. It lives beside the driver and dies with it."""

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
        self._main = threading.get_ident()
        self._over, self._lock = threading.Event(), threading.Lock()
        self._heartbeats = 0
        self._thread = threading.Thread(target=self._look, name="watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with self._lock:
            self._over.set()
        self._thread.join(2 * ANSWER)  # a thread that is in a call of Ray when Ray is shut down ends in an error

    def _look(self) -> None:
        tick = min(TICK, self.patience / 10)
        idle, said, seen, before = 0.0, False, (-1, -1), time.monotonic()
        while not self._over.wait(tick):
            self._heartbeats = _heartbeats(self._heartbeats)
            now = time.monotonic()
            # A process that was stopped (by Ctrl-Z, say) has not waited: no tick counts for more than ten.
            idle, before = idle + min(now - before, 10 * tick), now
            if seen != (found := (self.moves, self._heartbeats)):
                idle, said, seen = 0.0, False, found
            elif idle >= self.patience:
                return self._stop()
            elif idle >= self.patience / 2 and not said:
                said = True
                print(
                    f"{self.stage}: nothing done for {idle:.0f} s, an error after {self.patience:g} s "
                    f"(--resources.patience). {_cluster()}",
                    file=sys.stderr,
                    flush=True,
                )

    def _stop(self) -> None:
        error = (
            f"{self.stage}: nothing was done for {self.patience:g} s. {_cluster()}. If machines are still being "
            "started, raise --resources.patience; if other jobs hold them, wait for those or ask for less "
            "(--resources.teachers, --resources.workers). The same command goes on from what is committed"
        )
        with self._lock:
            if self._over.is_set():
                return
            self.error = error
        for _ in range(3):  # an exception that meets a destructor or a callback is lost
            signal.pthread_kill(self._main, signal.SIGALRM)
            if self._over.wait(GRACE):
                return
        # The main thread is in a call that no signal ends. What is committed is whole whenever the process ends.
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(2)


_watchdog: _Watchdog | None = None
_counter: Any = None


@contextmanager
def watched(patience: float) -> Iterator[None]:
    """Ends the block by an InputError if for `patience` seconds nobody said that work was done; halfway a line is
    printed that says so. For the main thread, after ray.init; the process is ended where the block cannot be."""
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
    """This process has done some work; what comes next is part of `stage`, if it is named. Any thread may say so."""
    if watch := _watchdog:
        watch.moves += 1
        watch.stage = stage or watch.stage
    else:  # a trial of a sweep, which is watched from its driver
        heartbeat()


_due = 0.0


def heartbeat() -> None:
    """A task or an actor has done some work that the driver will hear of only later. Costs next to nothing."""
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
            _due = now + 10 * HEARTBEAT_EVERY  # nobody watches


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


@functools.cache  # an actor ends with the handle that made it: one that only found its name does not hold it
def _make_counter(job: str) -> Any:
    """The counter of a job of Ray's, for all that is watched in it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"name": NAME, "num_cpus": 0, "max_restarts": 3, "scheduling_strategy": here}
    return ray.remote(_Counter).options(**options).remote()


def _heartbeats(last: int) -> int:
    """How many heartbeats the counter has heard; `last` if it does not say."""
    import ray

    try:
        return ray.get(_counter.get.remote(), timeout=ANSWER)
    except Exception:  # a Ray that is ill is no reason to end here, and no sign of life
        return last


def _cluster() -> str:
    """What the cluster has, how much of it is free, and what waits for it, in words."""
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(_describe()), name="describe", daemon=True)
    thread.start()
    thread.join(10)  # it asks the cluster, which may be what does not answer
    return found[0] if found else "Ray does not answer"


def _describe() -> str:
    import ray

    alive = sum(node["Alive"] for node in ray.nodes())
    total, free = ray.cluster_resources(), ray.available_resources()
    parts = [f"{alive} machine{'s' if alive != 1 else ''}"]
    for name, unit in (("CPU", "CPUs"), ("GPU", "GPUs")):
        if total.get(name):
            parts.append(f"{free.get(name, 0):g} of {total[name]:g} {unit} free")
    return f"The cluster: {', '.join(parts)}; waiting for room: {_waiting() or 'nothing'}"


def _waiting() -> str:
    """The requests for resources that nothing meets."""
    return ", ".join(f"{count} x {_shown(bundle)}" for bundle, count in pending_requests().items())


def _shown(bundle: tuple[tuple[str, float], ...]) -> str:
    return "{" + ", ".join(f"{amount:g} {name}" for name, amount in bundle if amount >= 0.01) + "}"
