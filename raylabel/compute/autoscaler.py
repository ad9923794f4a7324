"""Machines that a cluster starts on demand: a stage asks for those that it needs, and waits until they are there.

Ray's autoscaler sees tasks and actors that wait for room, but none of those is started before it is known what there is
room for. Nor does it say what it could start: whoever wants GPUs names their number (`--resources.gpus`).
"""

import sys
import time
from typing import Self

from raylabel.compute.ray_internals import autoscaling_coordinator
from raylabel.compute.resources import Cluster, Resources
from raylabel.compute.watchdog import progressed

LOOK = 1.0  # seconds between two looks at the cluster
LAPSE = 60.0  # seconds after which nobody starts machines any more for a process that is gone


def ready(resources: Resources) -> Cluster:
    """The cluster, once it has the CPUs and the GPUs that the resources name, and a CPU at all.

    What it has not is asked of its autoscaler, if it has one, until it is there, and no longer: machines without work
    go after the cluster's idle timeout, as those with GPUs do in a stage for CPUs alone, and are asked for anew. It may
    wait for ever; `watch` ends that.
    """
    cluster, wanted = Cluster.now(), (max(1, resources.cpus), resources.gpus)
    if _has(cluster, wanted):
        return cluster
    cpus, gpus = wanted
    words = f"waiting for {_count(cpus, 'CPU')}" + (f" and {_count(gpus, 'GPU')}" if gpus else "")
    progressed(words)
    print(f"{words}: there are {cluster.cpus} and {cluster.gpus}; the cluster is asked for them", file=sys.stderr)
    with Demand("start") as demand:
        while not _has(cluster, wanted):
            demand.ask(cpus, gpus)
            time.sleep(LOOK)
            if (found := Cluster.now()) != cluster:
                progressed()
            cluster = found
    progressed("start")
    return cluster


class Demand:
    """What the cluster's autoscaler, if there is one, is asked to have room for, beside what it is asked for by others
    and under another `name`: until the block ends, and for LAPSE after it was last asked. For one thread."""

    def __init__(self, name: str):
        import ray

        self._asked = autoscaling_coordinator(f"raylabel-{ray.get_runtime_context().get_job_id()}-{name}")
        self._any = False

    def ask(self, cpus: int, gpus: int) -> None:
        """Asks for so many CPUs and GPUs, one by one: on whatever machines. A GPU comes with a CPU."""
        cpu: dict[str, float] = {"CPU": 1}
        bundles = [cpu | {"GPU": 1}] * gpus + [cpu] * (cpus - gpus)
        if bundles:
            self._asked.request_resources(bundles, LAPSE)
            self._any = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._any:
            self._asked.cancel_request()


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}{'s' if number != 1 else ''}"


def _has(cluster: Cluster, wanted: tuple[int, int]) -> bool:
    return cluster.cpus >= wanted[0] and cluster.gpus >= wanted[1]
