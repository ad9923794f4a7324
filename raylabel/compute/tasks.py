"""Tasks on the cluster: how many there are for some shards, and their results."""

from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayTaskError

from raylabel.compute.resources import Cluster
from raylabel.compute.watchdog import progressed
from raylabel.errors import find_input_error

CHUNK = 256  # shards of one task, at most


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
