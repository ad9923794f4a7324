"""Preemption in training workers: one that gets SIGTERM tells the board, and all ranks stop after the same step."""

import signal
import threading
import time
from typing import Any

import ray
import ray.train

AGREE = 2.0  # seconds between two agreements of all ranks on whether to stop; each is one small broadcast

_TERMINATED = threading.Event()  # this worker was sent SIGTERM


class Preemption:
    """Whether training is preempted: rank 0 asks the board, and all ranks agree on the answer every AGREE seconds."""

    def __init__(self, board: Any, rank: int, step: int, device):
        self._board, self._rank, self._device = board, rank, device
        self._next, self._then, self._gap = step + 1, time.monotonic(), 1
        self._answer: Any = None
        self._reported = False

    def report(self, done: int, note: str) -> None:
        """Rank 0 reports progress to the board. The answer is read later, so that no step waits for it."""
        self._answer = self._board.set.remote(done, note)

    def agreed(self, step: int) -> bool:
        """Whether all ranks stop after this step. Every rank must ask after every step: the answer is a broadcast."""
        import torch
        import torch.distributed

        if _TERMINATED.is_set() and not self._reported:
            self._reported = True
            self._board.preempt.remote(True)
        if step < self._next:
            return False
        preempted = False
        if self._rank == 0:
            if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
                preempted = ray.get(self._answer)
            now = time.monotonic()
            # The steps that take AGREE seconds at the speed of the last ones. The gap grows at most fourfold, because
            # the speed of the first steps is not representative.
            due = round(AGREE * self._gap / max(now - self._then, 1e-6))
            self._gap, self._then = max(1, min(due, 4 * self._gap)), now
        message = torch.tensor([preempted, self._gap], dtype=torch.int64, device=self._device)
        torch.distributed.broadcast(message, 0)
        agreed, self._gap = message.tolist()
        self._next = step + self._gap
        return bool(agreed)


def handle_sigterm() -> None:
    """In a worker: SIGTERM sets _TERMINATED instead of ending the process, so that it can write a checkpoint first."""
    # Only the main thread may set a handler. It runs the actor's methods; the training loop runs in another thread.
    ray.get(ray.get_runtime_context().current_actor.execute.remote(_set_handler))


def _set_handler() -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: _TERMINATED.set())
