"""Training workers that stay between trainings.

A group of Ray Train takes half a minute to start: its processes import PyTorch and connect to each other. A run that
alternates between short trainings and other work would pay for that each time. Here one run of Ray Train executes
loop after loop.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, wait
from types import TracebackType
from typing import Any, Self

import ray

from raylabel.compute.ray_internals import draining_nodes
from raylabel.store.files import delete_folder
from raylabel.training import ray_train

ENDS = 10.0  # seconds that workers have to end when they are told to
LOOK = 0.5  # seconds between two checks whether the workers are alive


class HeldGroup:
    """The workers of several trainings, as a context. They start with the first call of `fit`, and anew when they were
    lost, when another number of them is asked for, or when one of their machines is about to be shut down."""

    def __init__(self, storage: str) -> None:
        """`storage`: the folder in which Ray Train stores its state; it is deleted at the end."""
        self._storage = storage
        self._calls: Any = None
        self._running: Future[None] | None = None
        self._size, self._drained = (0, False), frozenset[str]()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        delete_folder(self._storage)

    def fit(
        self, loop: Callable[[dict[str, Any]], None], settings: dict[str, Any], _: str, workers: int, gpu: bool
    ) -> Future[None]:
        """As `ray_train.fit`, on workers that stay."""
        if self._running and (self._running.done() or self._size != (workers, gpu) or draining_nodes() - self._drained):
            self.close()
        if not self._running:
            self._calls, self._size, self._drained = _make_calls(), (workers, gpu), frozenset(draining_nodes())
            self._running = ray_train.fit(_serve, {"calls": self._calls}, self._storage, workers, gpu, held=True)
        number = ray.get(self._calls.add.remote([ray.put((loop, settings))]))
        running, finished = self._running, self._calls.finished.remote(number, workers)

        def ended() -> None:
            while not ray.wait([finished], timeout=LOOK)[0]:
                if running.done():
                    running.result()  # raises why
                    raise RuntimeError("the training workers ended before the training did")
            ray.get(finished)

        return ray_train.in_thread(ended)

    def close(self) -> None:
        """Ends the workers."""
        if self._running:
            if not self._running.done():
                self._calls.end.remote()
                wait([self._running], timeout=ENDS)
            ray.kill(self._calls)
            self._running = self._calls = None


class _Calls:
    """The loops that the workers of a group run, in order; an actor."""

    def __init__(self) -> None:
        self._calls, self._finished, self._ended = list[Any](), Counter[int](), False
        self._changed = asyncio.Condition()

    async def add(self, call: list[Any]) -> int:
        """The number of a new call: a list with the reference of a loop and its settings, which are not loaded here."""
        async with self._changed:
            self._calls.append(call)
            self._changed.notify_all()
            return len(self._calls) - 1

    async def end(self) -> None:
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    async def next(self, number: int) -> list[Any] | None:
        """Call `number`, as soon as there is one; None if there will be none."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._calls) > number or self._ended)
            return self._calls[number] if len(self._calls) > number else None

    async def finish(self, number: int) -> None:
        """Called by each worker after a call."""
        async with self._changed:
            self._finished[number] += 1
            self._changed.notify_all()

    async def finished(self, number: int, workers: int) -> None:
        """Returns when so many workers have finished the call."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._finished[number] == workers)
            self._calls[number] = None


def _make_calls() -> Any:
    """On the driver's node, so that it ends with the driver and with no other node."""
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    calls: Any = ray.remote(_Calls)
    return calls.options(num_cpus=0, label_selector=here, max_concurrency=10_000).remote()


def _serve(settings: dict[str, Any]) -> None:
    """The function of each worker: runs the calls one after another."""
    calls, number = settings["calls"], 0
    while call := ray.get(calls.next.remote(number)):
        _run(call)
        ray.get(calls.finish.remote(number))
        number += 1


def _run(call: list[Any]) -> None:
    """In a function of its own, so that nothing of the call is kept in memory until the next one."""
    loop, settings = ray.get(call[0])
    loop(settings)
