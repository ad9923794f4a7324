"""Progress of work that runs on other machines: a small actor that is told how far it is, and a line that shows it.

Word goes the other way too: whoever tells it how far the work is hears whether the work is to stop where it is.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from raylabel.report.terminal import Progress


class _Board:
    def __init__(self):
        self.at = (0, "")
        self.halted, self.told = False, False

    def set(self, done: int, note: str) -> bool:
        self.at, self.told = (done, note), True
        return self.halted

    def halt(self, halted: bool) -> bool:
        told, self.halted = self.told, halted
        self.told = told and halted
        return told

    def get(self) -> tuple[int, str]:
        return self.at


def make_board() -> Any:
    """A handle that travels: `.set.remote(done, note)`, which answers what `.halt.remote(whether)` was last told; that
    answers whether anybody has told how far the work is since `.halt.remote(False)`.

    It lives on the driver's machine, so that it ends with the driver and with nobody else.
    """
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    return ray.remote(num_cpus=0, label_selector=here, max_restarts=5, max_task_retries=5)(_Board).remote()


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
