"""EXAMPLES → a trained network: the one training loop, for teacher, control, pre-training and fine-tuning.

Synchronous SGD with momentum on Ray Train (DDP). BatchNorm statistics are each worker's own (Yalniz et al. 2019 §3).
The sum of a batch's gradients does not depend on how its images are spread over the workers.
"""

import json
from dataclasses import replace

import ray
import ray.train
import ray.train.torch

from raylabel.compute.autoscaler import ready
from raylabel.compute.progress import Progress, make_board, shown
from raylabel.compute.resources import Resources
from raylabel.models.trained import CURVE, WEIGHTS, describe
from raylabel.store.artifact import Artifact, Built, Draft, Root, identity_of, write_bytes
from raylabel.training.checkpoint import Checkpoints
from raylabel.training.loop import STATE, TrainingTask, describe_step, run_worker
from raylabel.training.stream import Stream
from raylabel.training.worker_group import Workers


def train(root: Root, name: str, task: TrainingTask, resources: Resources) -> Artifact:
    """The network trained on the examples from random weights, or from those of `init`. The task's precision is chosen
    here.

    A run that was killed goes on from its last checkpoint with the same sequence of samples, whatever the number of
    workers. info: seconds, images, workers (of its last start), passed_over (damaged checkpoints, if there were any).
    """
    cluster, config, view = ready(resources), task.config, task.view
    precision = cluster.precision(config.precision, view.clip is not None)
    identity = {
        "model": identity_of(task.model),
        "classes": task.classes,
        "examples": task.examples.digest,
        "train": identity_of(config) | {"precision": precision},
        "view": identity_of(view),
        "init": task.init.digest if task.init else None,
        "seed": task.seed,
    }

    def build_model(draft: Draft) -> Built:
        board, checkpoints = make_board(), Checkpoints(draft.scratch("checkpoints"))
        workers = Workers(resources, cluster, config.batch, Stream(task.examples, task.seed), board)
        job = replace(task, precision=precision, board=board)
        start = checkpoints.newest()
        before = start.step * config.batch
        ray.get(board.set.remote(before, ""))
        with (
            Progress(f"train {name}", config.processed, view.inputs, done=before) as progress,
            shown(board, progress),
        ):
            settings, storage = {"job": job, "checkpoints": checkpoints}, draft.scratch("ray_train")
            final = workers.run(run_worker, settings, storage, checkpoints, start, config.steps, progress.say)
            last = json.loads(final.files[CURVE])[-1]
            board.set.remote(config.processed, describe_step(last["loss"], last["accuracy"]))  # a new one knows less
        ray.kill(board)
        files = [write_bytes(draft.uri, name, final.files[name]) for name in (WEIGHTS, CURVE)]
        info = {**describe(task.model, task.classes), "workers": workers.count, "hardware": cluster.name}
        info["images"] = config.processed - before  # in the build that took `seconds`
        if passed_over := json.loads(final.files[STATE])["passed_over"]:
            info["passed_over"] = passed_over
        return Built(files, info)

    return root.make(name, identity, build_model)
