"""Measures how fast a network trains."""

import json
import math
import time
from dataclasses import dataclass, replace
from typing import Any

from raylabel.compute.progress import make_board
from raylabel.plan.pilot.process import peak_device_memory, peak_memory
from raylabel.store.artifact import Draft
from raylabel.store.files import read_file, write_file
from raylabel.training.checkpoint import Checkpoints
from raylabel.training.config import Validate
from raylabel.training.loop import steps
from raylabel.training.ray_train import fit
from raylabel.training.task import TrainingTask

SECONDS = 8.0  # of training that are timed, at least half of them; start-up is not included
WARMUP_STEPS = 3  # steps that are not timed: the batches of the first steps are decoded in advance
FOUND = "pilot.json"


@dataclass(frozen=True)
class Trained:
    """The measured speed and memory of a training."""

    images_per_second: float
    """Images per second of all workers together, in the steady state."""
    start: float
    """Seconds of a training outside its steps."""
    memory: int
    """Peak memory of the first worker, bytes."""
    device_memory: int | None
    """Peak GPU memory of the first worker, bytes."""


def measure_training(draft: Draft, task: TrainingTask, workers: int, gpu: bool) -> Trained:
    """Trains for some seconds, as the run will. Ray Train stores its state in `draft`."""
    import ray

    # As many steps as in the run. No checkpoint is due, no point of the curve except the last, and no validation.
    config = replace(task.config, checkpoint_minutes=math.inf, validate=Validate())
    begin, board = time.monotonic(), make_board()
    settings = {"task": replace(task, config=config, board=board), "folder": draft.uri, "seconds": SECONDS}
    settings["checkpoints"] = Checkpoints(draft.scratch("checkpoints"))  # none is due
    fit(_loop, settings, draft.scratch("ray_train"), workers, gpu, failures=3).result()
    total = time.monotonic() - begin
    ray.kill(board)
    found = json.loads(read_file(f"{draft.uri}/{FOUND}"))
    rate = found["steps"] * config.batch / found["seconds"]
    start = total - found["seconds"] - WARMUP_STEPS * config.batch / rate
    return Trained(rate, max(0.0, start), found["memory"], found["device_memory"])


def _loop(settings: dict[str, Any]) -> None:
    """The function of each worker: the training loop, until the time of the first worker is over."""
    import ray.train
    import ray.train.torch
    import torch
    import torch.distributed

    rank, training = ray.train.get_context().get_world_rank(), steps(settings["task"], settings["checkpoints"])
    device = ray.train.torch.get_device()
    for _ in range(WARMUP_STEPS):
        next(training, 0)
    begin, done, due = time.monotonic(), 0, 1
    # All workers have to stop at the same step, so they agree after 1, 2, 4, 8, ... steps.
    while next(training, 0):
        done += 1
        if done == due:
            seconds = torch.tensor(time.monotonic() - begin, device=device)
            torch.distributed.broadcast(seconds, 0)
            if 2 * seconds.item() > settings["seconds"]:
                break
            due *= 2
    if device.type == "cuda":
        torch.cuda.synchronize()
    if rank == 0:
        found = {"steps": done, "seconds": time.monotonic() - begin, "memory": peak_memory()}
        text = json.dumps(found | {"device_memory": peak_device_memory()})
        write_file(f"{settings['folder']}/{FOUND}", text.encode())
    training.close()
    ray.train.report({})
