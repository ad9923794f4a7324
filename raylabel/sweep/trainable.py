"""The function that Ray Tune runs for each trial: it waits for another process that does the work.

Whatever Ray Tune's actor starts has to fit into its placement group. So the work is done by a separate actor outside
that group: its tasks, teachers and training workers can use the whole cluster. Both processes import this module before
there is work, so it imports no large library.
"""

import threading
import uuid
from typing import Any

import ray
import ray.exceptions
import ray.tune

from raylabel.errors import find_input_error
from raylabel.sweep.config import STAGES

FAILED = "failed"  # in a report: the trial itself raised an error, so it is not tried again in this run
LOSSES = 5  # losses of a trial's processes, with their node or because it ran out of memory, before the trial fails
LOST = (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError)


def trial(config: dict[str, Any], task: list[ray.ObjectRef], claims: Any) -> None:
    """Runs the stages of a trial, with a report to Ray Tune after each.

    `task`: a reference to the TrialTask, in a list so that Ray does not replace it by its value.

    A scheduler stops a trial when it reports, which is between two stages. At that time nothing of the trial runs in
    the cluster, so no training is cut off and no placement group is left behind. Fine-tuning is the same as in any
    other run, since nothing is reported before it is done.
    """
    process, pretrained, losses = _Process(task, claims, **config["trial"]), None, 0
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
                # The InputError itself is readable; Ray's wrapped error is not.
                raise find_input_error(error) or error from error
        pretrained = found["accuracy"] if stage == "pretrain" else pretrained
        ray.tune.report({**found, "pretrained": pretrained})
    process.end()


class _Process:
    """The actor that does the work of one trial. It is started again if it is lost."""

    def __init__(self, task: list[ray.ObjectRef], claims: Any, number: int, settings: dict[str, Any]):
        self._arguments, self._claims = (task, number, settings), claims
        self._handle: Any = None

    def run(self, stage: str) -> dict[str, Any]:
        """The report of the stage. Raises one of LOST if the process is lost; the next call starts another one."""
        try:
            if self._handle is None:
                worker = uuid.uuid4().hex
                # Without a strategy, Ray would use the placement group of the calling actor.
                options = {"num_cpus": 0, "max_concurrency": 2, "scheduling_strategy": "DEFAULT"}
                self._handle = ray.remote(_Worker).options(**options).remote(*self._arguments, worker)
                ray.get(self._claims.join.remote(worker, [self._handle.live.remote()]))
                ray.get(self._claims.enter.remote(worker))
            return ray.get(self._handle.run.remote(stage))
        except LOST:
            self.end()
            raise

    def end(self) -> None:
        ray.kill(self._handle)
        self._handle = None


class _Worker:
    def __init__(self, task: list[ray.ObjectRef], number: int, settings: dict[str, Any], worker: str):
        self._arguments, self._task = (number, settings, worker), task

    def live(self) -> None:
        """Blocks one of the two threads forever, so that its reference fails when this process ends."""
        threading.Event().wait()

    def run(self, stage: str) -> dict[str, Any]:
        from raylabel.sweep.trial import run  # imports torch

        return run(ray.get(self._task[0]), *self._arguments, stage)
