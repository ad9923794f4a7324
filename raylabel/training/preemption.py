"""What all training workers decide together: whether to stop, because one of them gets SIGTERM or the driver says so,
and whether to save a checkpoint."""

import signal
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import ray
import ray.train

AGREE = 2.0  # seconds between two agreements of all ranks; each is one small broadcast

_TERMINATED = threading.Event()  # this worker was sent SIGTERM


class Decision(NamedTuple):
    """What all ranks do after a step."""

    stop: bool
    """Training is preempted."""
    save: bool
    """A checkpoint is due."""


class Agreement:
    """Every AGREE seconds rank 0 asks the board whether to stop, and `due` whether to save. All ranks do as it says."""

    def __init__(self, board: Any, rank: int, step: int, device, due: Callable[[], bool]):
        self._board, self._rank, self._device, self._due = board, rank, device, due
        self._next, self._then, self._gap = step + 1, time.monotonic(), 1
        self._answer: Any = None
        self._reported = False

    def report(self, done: int, note: str, points: tuple[list[Any], ...]) -> None:
        """Rank 0 reports progress to the board. The answer is read later, so that no step waits for it."""
        self._answer = self._board.set.remote(done, note, points)

    def after(self, step: int) -> Decision:
        """The decision after this step. Every rank must ask after every step: the answer is a broadcast."""
        import torch
        import torch.distributed

        if _TERMINATED.is_set() and not self._reported:
            self._reported = True
            self._board.preempt.remote(True)
        if step < self._next:
            return Decision(False, False)
        stop = save = False
        if self._rank == 0:
            if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
                stop = ray.get(self._answer)
            save = self._due()
            now = time.monotonic()
            # The steps that take AGREE seconds at the speed of the last ones. The gap grows at most fourfold, because
            # the speed of the first steps is not representative.
            gap = round(AGREE * self._gap / max(now - self._then, 1e-6))
            self._gap, self._then = max(1, min(gap, 4 * self._gap)), now
        message = torch.tensor([stop, save, self._gap], dtype=torch.int64, device=self._device)
        torch.distributed.broadcast(message, 0)
        stop, save, self._gap = message.tolist()
        self._next = step + self._gap
        return Decision(bool(stop), bool(save))


def handle_sigterm() -> None:
    """In a worker: SIGTERM sets _TERMINATED instead of ending the process, so that it can write a checkpoint first."""
    # Only the main thread may set a handler. It runs the actor's methods; the training loop runs in another thread.
    ray.get(ray.get_runtime_context().current_actor.execute.remote(_set_handler))


def _set_handler() -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: _TERMINATED.set())
