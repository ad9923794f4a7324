"""Clusters that start machines on demand: a stage requests the CPUs and GPUs that it needs, and waits for them.

Ray's autoscaler reacts to tasks and actors that wait for resources, but raylabel starts those only once it knows what
resources there are. The autoscaler does not say what it could start, so the user gives the number of GPUs
(`--resources.gpus`).
"""

import sys
import time
from typing import Self

from raylabel.compute.ray_internals import autoscaling_coordinator
from raylabel.compute.resources import Cluster, Resources
from raylabel.compute.watchdog import progressed

LOOK = 1.0  # seconds between two checks of the cluster
LAPSE = 60.0  # seconds after which a request expires that is not renewed, because its process has ended


def ready(resources: Resources) -> Cluster:
    """The cluster, once it has the CPUs and GPUs that `resources` names, and at least one CPU.

    Missing resources are requested from the cluster's autoscaler, if it has one, until they exist. After that the
    request ends, so idle machines are shut down after the cluster's idle timeout, for example GPU machines during a
    stage that uses CPUs only; a later stage requests them again. The wait has no time limit; the watchdog ends it.
    """
    cluster, wanted = Cluster.now(), (max(1, resources.cpus), resources.gpus)
    if _has(cluster, wanted):
        return cluster
    cpus, gpus = wanted
    waiting = f"waiting for {_count(cpus, 'CPU')}" + (f" and {_count(gpus, 'GPU')}" if gpus else "")
    progressed(waiting)
    print(
        f"{waiting}: there are {cluster.cpus} and {cluster.gpus}; requested from the cluster's autoscaler",
        file=sys.stderr,
    )
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
    """A request for resources to the cluster's autoscaler, if there is one, in addition to the requests of others and
    of other `name`s. It ends with the block, or LAPSE seconds after the last `ask`. For one thread."""

    def __init__(self, name: str):
        import ray

        self._coordinator = autoscaling_coordinator(f"raylabel-{ray.get_runtime_context().get_job_id()}-{name}")
        self._any = False

    def ask(self, cpus: int, gpus: int) -> None:
        """Requests so many CPUs and GPUs, in bundles of one CPU or of one GPU and one CPU, on any machines."""
        cpu: dict[str, float] = {"CPU": 1}
        bundles = [cpu | {"GPU": 1}] * gpus + [cpu] * (cpus - gpus)
        if bundles:
            self._coordinator.request_resources(bundles, LAPSE)
            self._any = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._any:
            self._coordinator.cancel_request()


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}{'s' if number != 1 else ''}"


def _has(cluster: Cluster, wanted: tuple[int, int]) -> bool:
    return cluster.cpus >= wanted[0] and cluster.gpus >= wanted[1]
