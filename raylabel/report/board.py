"""Progress of work that runs on other machines: a small actor that is told how far it is, and a line that shows it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylabel.report.terminal import Progress


class _Board:
    def __init__(self):
        self.first: int | None = None
        self.at = (0, "")
        self.error = ""

    def set(self, done: int, note: str) -> None:
        if self.first is None:
            self.first = done
        self.at = (done, note)

    def stop(self, error: str) -> None:
        self.error = error

    def get(self) -> tuple[int, str]:
        return self.at

    def outcome(self) -> tuple[int, str]:
        """What stood already at the first word of this start; why the work ended early, by an error no retry mends."""
        return self.first or 0, self.error


def make_board() -> Any:
    """A handle that travels: `.set.remote(done, note)`, `.stop.remote(error)`, `.outcome.remote()`."""
    # Beside the driver, with which it may as well end: no machine that vanishes takes it along.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options: dict[str, Any] = {"num_cpus": 0, "max_restarts": 3, "max_task_retries": 3, "scheduling_strategy": here}
    return ray.remote(_Board).options(**options).remote()


@contextmanager
def shown(board: Any, progress: Progress) -> Iterator[None]:
    """Copies the board to the progress line while the block runs."""
    stop = threading.Event()

    def show() -> None:
        done, note = ray.get(board.get.remote())
        progress.update(done, note=note)

    def poll() -> None:
        while not stop.wait(0.5):
            show()

    thread = threading.Thread(target=poll, name="progress", daemon=True)
    thread.start()
    try:
        yield
        show()
    finally:
        stop.set()
        thread.join()
