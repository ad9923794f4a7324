"""A group of training workers (Ray Train), started again from the newest checkpoint whenever some of them are lost.

Ray Train limits the failures in the whole life of a run, and a week on spot machines exceeds any such limit. Here only
consecutive failures without a new checkpoint are counted. Each start uses as many workers as the cluster has room for
at that moment; the order of the samples does not depend on their number. Meanwhile, if the cluster starts machines on
demand, the resources of the missing workers are requested again.
"""

import time
import uuid
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import replace
from typing import Any, Protocol

import ray
import ray.exceptions
import ray.train
import torch
import torch.distributed

from raylabel.compute.autoscaler import Demand
from raylabel.compute.gpu import is_device_error
from raylabel.compute.placement_groups import remove_orphaned_placement_groups
from raylabel.compute.ray_internals import draining_nodes, is_start_timeout
from raylabel.compute.resources import Cluster, Resources
from raylabel.errors import RESUME, InputError, find_input_error
from raylabel.text import duration, one_line
from raylabel.training import ray_train
from raylabel.training.checkpoint import Checkpoint
from raylabel.training.held_group import HeldGroup
from raylabel.training.stream import Stream

# Consecutive starts that may end without a new checkpoint. By then a faulty machine has been replaced, so more failures
# mean a bug in the loop.
FAILURES = 5
FLUSH = 25.0  # seconds for a last checkpoint when the driver is told to end; a spot notice comes 30 s ahead or more
LOOK = 2.0  # seconds between two checks of the cluster
SETTLED = 300.0  # seconds that a start must have trained before it is preempted to restart with more workers

NO_ROOM = 600.0  # seconds that a start may wait for room for its workers, or the run's patience if that is longer


class Resumable(Protocol):
    """What workers write while they work, and resume from."""

    def newest(self) -> Checkpoint:
        """How far it is."""
        ...


class Workers:
    """Runs one training: chooses the number of workers and restarts them from the newest checkpoint."""

    def __init__(
        self,
        resources: Resources,
        cluster: Cluster,
        batch: int,
        stream: Stream | None,
        board: Any,
        group: HeldGroup | None = None,
    ):
        """`stream`: None if any number of workers can share the work. `group`: workers that stay; None: they start and
        end with each run. InputError if the cluster has no room for the workers that `resources` asks for."""
        self._resources, self._batch, self._stream, self._board = resources, batch, stream, board
        self._group = group
        # Never changed: if all GPUs are lost, training waits for one instead of continuing on CPUs, 100 times slower.
        self._gpu = bool(cluster.gpus)
        self.count = self._wanted = cluster.workers(resources, batch)
        if stream:
            stream.check_workers(self.count, batch)
        self._name = f"train-{uuid.uuid4().hex}"

    def run(
        self,
        loop: Callable[[dict[str, Any]], None],
        settings: dict[str, Any],
        storage: str,
        checkpoints: Resumable,
        start: Checkpoint,
        last: int,
        say: Callable[[str], None],
    ) -> Checkpoint:
        """The checkpoint of step `last`, once the loop has written it. `say` is called with messages for the user.

        The loop resumes from the newest checkpoint, at first `start`, writes new ones, and returns when the board says
        that it is preempted. An error of the loop itself is raised here without a restart. InputError if workers are
        lost more than FAILURES times in a row without a new checkpoint.
        """
        found, failures, warned, waits = start, 0, set[str](), None
        while True:
            for wrong in found.passed_over:
                if wrong not in warned:
                    say(f"warning: {wrong}; it is skipped, and training resumes from step {found.step:,}")
            warned.update(found.passed_over)
            if found.step >= last:
                return found
            begin, lost = time.time(), False
            try:
                why = self._attempt(loop, settings, storage)
            except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
                if cause := find_input_error(error):
                    raise cause from error
                if is_start_timeout(error):
                    waits = waits or time.monotonic()
                    if time.monotonic() > waits + (limit := max(NO_ROOM, self._resources.patience)):
                        raise InputError(
                            f"the cluster had no room for {self.count} training workers for {limit:.0f} s: see what "
                            "uses its CPUs or GPUs (`ray status`), or lower --resources.workers"
                        ) from error
                    continue
                if not (why := _lost(error)):
                    raise
                lost = True
            waits = None
            before, found = found.step, checkpoints.newest()
            failures = 0 if found.step > before else failures + 1
            if lost:
                why = f"{why}, which costs {duration(time.time() - max(begin, found.saved))}"
            if failures > FAILURES:
                raise InputError(
                    f"training failed {failures} times in a row with no checkpoint after step {found.step:,} ({why}): "
                    f"see the logs of the workers, in Ray's folder on their machines; {RESUME}"
                )
            if found.step < last:
                if self._group:
                    self._group.close()  # its machines or its processes are ending, or there is room for more
                say(f"{why}; training resumes from step {found.step:,}")

    def _attempt(self, loop: Callable[[dict[str, Any]], None], settings: dict[str, Any], storage: str) -> str:
        """Runs the loop once, until it is done or preempted; returns the reason for a preemption."""
        ray.get(self._board.preempt.remote(False))
        remove_orphaned_placement_groups()  # of earlier attempts, whose controllers were killed with their workers
        self.count, begin, drained, why = self._room(), time.monotonic(), draining_nodes(), ""
        lost = max(0, self._wanted - self.count)
        with Demand(self._name) as demand:  # for the missing workers; Ray Train requests those that it starts
            start = self._group.fit if self._group else ray_train.fit
            outcome = start(loop, settings, storage, self.count, self._gpu)
            try:
                while not outcome.done():
                    demand.ask(lost, lost if self._gpu else 0)
                    wait([outcome], timeout=LOOK)
                    if why:
                        continue
                    if draining_nodes() - drained:
                        why = "a machine is about to be shut down"
                    elif time.monotonic() > begin + SETTLED and self._faster(self._room()):
                        why = "there is room for more workers"
                    if why:
                        self._board.preempt.remote(True)
            except BaseException:  # Ctrl-C or SIGTERM: let the workers write a checkpoint first
                if ray.get(self._board.preempt.remote(True)):  # some worker is running
                    wait([outcome], timeout=FLUSH)
                raise
        outcome.result()
        return why or "a worker was told to end"

    def _faster(self, count: int) -> bool:
        """Whether training is faster with so many workers: the largest share of a batch is smaller then."""
        return -(-self._batch // count) < -(-self._batch // self.count)

    def _room(self) -> int:
        """The number of workers that there is room for now: at most as many as wanted, and able to share a batch."""
        nodes = (replace(node, gpus=node.gpus if self._gpu else 0) for node in Cluster.now().nodes)
        cluster = Cluster(tuple(node for node in nodes if node.gpus or not self._gpu))
        if not cluster.nodes:
            return 1  # Ray Train then waits for the first machine
        wanted = min(self._resources.workers, cluster.gpus if self._gpu else cluster.cpus)
        most = cluster.workers(replace(self._resources, workers=wanted), self._batch)
        return next(n for n in range(most, 0, -1) if not self._stream or self._stream.serves(n, self._batch))


def _lost(error: Exception) -> str:
    """In words, that workers or their machines were lost; "" if the loop failed for a reason of its own."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    if not failures:  # the process that starts and watches them was lost itself, or could not start them
        return f"lost all workers ({_line(error)})"
    dead = {rank: failure for rank, failure in failures.items() if _ended(failure)}
    # When one is gone, the others fail where they wait for it; at times they are the first to be heard.
    if not dead and not all(map(_waited, failures.values())):
        return ""
    ranks = ", ".join(map(str, sorted(dead or failures)))
    return f"lost worker {ranks} ({_line(next(iter((dead or failures).values())))})"


def _ended(failure: BaseException) -> bool:
    """Whether a worker's process, its machine or its GPU failed."""
    return type(failure).__module__.startswith("ray.") or is_device_error(failure)


def _waited(failure: BaseException) -> bool:
    """Whether a worker failed because it waited for another one: NCCL has a class for it, gloo only a message."""
    return isinstance(failure, torch.distributed.DistError) or "gloo" in str(failure)


def _line(error: BaseException) -> str:
    cause = getattr(error, "health_check_failure", None) or getattr(error, "controller_failure", None) or error
    return f"{type(cause).__name__}: {one_line(cause)[:200]}"
