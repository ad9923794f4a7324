"""Training workers that stay between trainings.

A group of Ray Train takes half a minute to start: its processes import PyTorch and connect to each other. A run that
alternates between short trainings and other work would pay for that each time. Here one run of Ray Train executes
loop after loop.
"""

from collections.abc import Callable
from concurrent.futures import Future, wait
from types import TracebackType
from typing import Any, Self

import ray

from raylabel.compute.calls import make_calls
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
            self._calls, self._size, self._drained = make_calls(), (workers, gpu), frozenset(draining_nodes())
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
