"""A training worker's side of a halt: who is told of one tells the board, and all ranks stop after the same step."""

import signal
import threading
import time
from typing import Any

import ray
import ray.train

AGREE = 2.0  # seconds between two agreements of all ranks on whether to halt: one small broadcast each

_TERMINATED = threading.Event()  # this worker was sent SIGTERM


class Halts:
    """Whether training is to halt: rank 0 hears it from the board, and all ranks agree on it now and then."""

    def __init__(self, board: Any, rank: int, step: int, device):
        self._board, self._rank, self._device = board, rank, device
        self._next, self._then, self._gap = step + 1, time.monotonic(), 1
        self._answer: Any = None
        self._passed_on = False

    def tell(self, done: int, note: str) -> None:
        """Rank 0 tells the board how far training is; the answer is looked at later, so that nothing waits for it."""
        self._answer = self._board.set.remote(done, note)

    def agreed(self, step: int) -> bool:
        """Whether all ranks halt after this step: each has to ask after every step. A broadcast every AGREE seconds."""
        import torch
        import torch.distributed

        if _TERMINATED.is_set() and not self._passed_on:
            self._passed_on = True
            self._board.halt.remote(True)
        if step < self._next:
            return False
        halted = False
        if self._rank == 0:
            if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
                halted = ray.get(self._answer)
            now = time.monotonic()
            # Steps until AGREE seconds have gone by, as fast as the last ones were; at first they are no measure.
            due = round(AGREE * self._gap / max(now - self._then, 1e-6))
            self._gap, self._then = max(1, min(due, 4 * self._gap)), now
        word = torch.tensor([halted, self._gap], dtype=torch.int64, device=self._device)
        torch.distributed.broadcast(word, 0)
        agreed, self._gap = word.tolist()
        self._next = step + self._gap
        return bool(agreed)


def heed_sigterm() -> None:
    """In a worker: SIGTERM no longer ends it at once, but sets _TERMINATED, so that it can save what it has learned."""
    # Only a process's main thread may say so, which runs the actor's methods while the loop has a thread of its own.
    ray.get(ray.get_runtime_context().current_actor.execute.remote(_heed))


def _heed() -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: _TERMINATED.set())
