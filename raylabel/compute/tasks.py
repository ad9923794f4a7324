"""Tasks on the cluster: how many there are for some shards, and their results."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar

import ray
from ray.exceptions import RayTaskError

from raylabel.compute.progress import PatientProgress
from raylabel.compute.resources import Cluster
from raylabel.compute.watchdog import progressed
from raylabel.errors import find_input_error

PROCESS_BYTES = 200e6  # of a worker process that has imported Arrow and the modules of a task
CHUNK = 256  # shards of one task, at most

T = TypeVar("T")


def chunks(count: int, cpus: float | None = None) -> list[range]:
    """Ranges of the numbers below `count`, one per task: enough tasks for all CPUs, at most CHUNK numbers in each."""
    cpus = Cluster.now().cpus if cpus is None else cpus
    size = max(1, min(CHUNK, int(count // (4 * max(1, cpus)))))
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def fetch(reference: Any, *others: Any) -> Any:
    """The result of a task. If the task raised an InputError, it is raised here without Ray's wrapper. `others`: the
    other results of that task; Ray prints an error that nobody takes."""
    try:
        found = ray.get(reference)
    except RayTaskError as error:
        for other in others:
            with suppress(RayTaskError):
                ray.get(other)
        if found := find_input_error(error):
            raise found from error
        raise
    progressed()
    return found


def wait_for(stage: str, references: Sequence[Any], unit: str, total: int = 0) -> None:
    """Waits until these tasks have ended, well or not, and shows how many have; or that share of `total` units."""
    waiting, total = list(references), total or len(references)
    with PatientProgress(stage, total, unit) as progress:
        while waiting:
            _, waiting = ray.wait(waiting)
            progress.update(total * (len(references) - len(waiting)) // len(references))


def run_tasks(
    task: Callable[..., T],
    arguments: Iterable[tuple[Any, ...]],
    progress: Callable[[float], None] | None = None,
    memory: float = 0,
) -> list[T]:
    """Runs `task` on each tuple of arguments in Ray; results in order. `progress` is called with the share done.
    `memory`: bytes that one task takes beside those of every process, so that Ray starts no more than fit on a node."""
    # If a task fails, the others run to their end, which is harmless. They are not cancelled: if ray.cancel coincides
    # with the reply of a task that has just ended, Ray 2.60 aborts the driver (task_manager.cc, "Tried to complete task
    # that was not pending").
    remote = _remote(task).options(memory=_fitting(PROCESS_BYTES + memory))
    references = [remote.remote(*a) for a in arguments]
    waiting = references
    while waiting:
        ready, waiting = ray.wait(waiting)
        ray.get(ready)
        progressed()
        if progress:
            progress(1 - len(waiting) / len(references))
    return ray.get(references)


def _fitting(memory: float) -> int:
    """`memory`, or that of the largest node if no node has so much: the task would wait for ever."""
    most = max((node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]), default=0)
    return int(min(memory, most))


@cache
def _remote(task: Callable[..., Any]) -> Any:
    return ray.remote(num_cpus=1, max_retries=3)(task)  # once per function: Ray exports each new remote function
