"""Calls that a driver gives to workers which stay. PyTorch is not imported here: the actor would take a GB with it."""

import asyncio
from collections import Counter
from typing import Any

import ray


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


def make_calls() -> Any:
    """The handle of an actor with calls, which can be sent to workers. It runs on the driver's node, so that it ends
    with the driver and with no other node."""
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    calls: Any = ray.remote(_Calls)
    return calls.options(num_cpus=0, label_selector=here, max_concurrency=10_000).remote()
