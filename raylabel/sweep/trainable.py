"""What Ray Tune runs of a trial: a process that waits for the one that does the work, and holds next to nothing.

Ray Tune's own actor only waits: whatever it starts would have to fit into its placement group. The work is done by an
actor of ours outside that group, whose tasks, teachers and training workers go wherever the cluster has room. As this
module is imported by both before there is work, it imports nothing that is large.
"""

import threading
import uuid
from typing import Any

import ray
import ray.exceptions
import ray.tune

from raylabel.errors import find_input_error
from raylabel.sweep.config import STAGES

FAILED = "failed"  # in a report: for a reason of the trial's own, so that it is not to be tried again in this run
LOSSES = 5  # of each process of a trial: with the machine that it is on, or because that had no memory left
LOST = (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError)


def trial(config: dict[str, Any], job: list[ray.ObjectRef], claims: Any) -> None:
    """What Ray Tune runs: the stages, and a report after each. `job`: a reference, in a list so that it stays one.

    A scheduler stops a trial where it reports: between two stages, when nothing of it is at work in the cluster, so
    that no training is cut off and no placement group is left behind. And fine-tuning is that of any other run, for
    nothing looks at it before it is done.
    """
    process, pretrained, losses = _Process(job, claims, **config["trial"]), None, 0
    for stage in STAGES:
        while True:
            try:
                found = process.run(stage)
                break
            except LOST:
                losses += 1
                if losses > LOSSES:
                    ray.tune.report({FAILED: True})
                    raise
            except ray.exceptions.RayTaskError as error:
                ray.tune.report({FAILED: True})
                # Without what Ray wrapped around it, for a person to read.
                raise find_input_error(error) or error from error
        pretrained = found["accuracy"] if stage == "pretrain" else pretrained
        ray.tune.report({**found, "pretrained": pretrained})
    process.end()


class _Process:
    """Where the work of one trial is done, started anew if it is lost."""

    def __init__(self, job: list[ray.ObjectRef], claims: Any, number: int, settings: dict[str, Any]):
        self._arguments, self._claims = (job, number, settings), claims
        self._handle: Any = None

    def run(self, stage: str) -> dict[str, Any]:
        """The report of the stage. One of LOST if the process is lost meanwhile; the next call starts another."""
        try:
            if self._handle is None:
                who = uuid.uuid4().hex
                # 'DEFAULT' and not none at all: that would be the placement group of the actor that asks.
                options = {"num_cpus": 0, "max_concurrency": 2, "scheduling_strategy": "DEFAULT"}
                self._handle = ray.remote(_Worker).options(**options).remote(*self._arguments, who)
                ray.get(self._claims.join.remote(who, [self._handle.live.remote()]))
                ray.get(self._claims.enter.remote(who))
            return ray.get(self._handle.run.remote(stage))
        except LOST:
            self.end()
            raise

    def end(self) -> None:
        ray.kill(self._handle)
        self._handle = None


class _Worker:
    def __init__(self, job: list[ray.ObjectRef], number: int, settings: dict[str, Any], who: str):
        self._arguments, self._job = (number, settings, who), job

    def live(self) -> None:
        """Never returns, in one of two threads: the reference fails when this process ends."""
        threading.Event().wait()

    def run(self, stage: str) -> dict[str, Any]:
        from raylabel.sweep.trial import run  # torch, and all the rest

        return run(ray.get(self._job[0]), *self._arguments, stage)
