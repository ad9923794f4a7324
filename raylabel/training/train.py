"""EXAMPLES → a trained network, for teacher, control, pre-training and fine-tuning.

Synchronous training on Ray Train (DDP). Each worker has its own BatchNorm statistics (Yalniz et al. 2019 §3).
The sum of a batch's gradients does not depend on how its images are distributed over the workers.
"""

import json
from dataclasses import replace
from typing import Any

import ray
import ray.train
import ray.train.torch

from raylabel.compute.autoscaler import ready
from raylabel.compute.progress import Progress, make_board, shown
from raylabel.compute.resources import Resources
from raylabel.errors import InputError
from raylabel.models.restoring import without_decoder
from raylabel.models.trained import CURVE, WEIGHTS, describe
from raylabel.store.artifact import Artifact, Built, Draft, Root, identity_of, write_bytes
from raylabel.training.checkpoint import STATE, Checkpoints
from raylabel.training.config import PRETEXTS, RESTORING
from raylabel.training.held_group import HeldGroup
from raylabel.training.learner import MOMENTUM, result_file
from raylabel.training.loop import describe_step, run_worker
from raylabel.training.task import TrainingTask
from raylabel.training.validation import VALIDATION
from raylabel.training.watch import Points, Watch, unwatched
from raylabel.training.worker_group import Workers


def train(
    root: Root,
    name: str,
    task: TrainingTask,
    resources: Resources,
    watch: Watch = unwatched,
    group: HeldGroup | None = None,
) -> Artifact:
    """The network trained on the task's examples, from random weights or from those of `init`. This function chooses
    the task's precision. `watch` gets the points of its curves while it runs. `group`: workers that stay after it.

    A run that was killed resumes from its last checkpoint with the same sequence of samples, whatever the number of
    workers. info: seconds, images, workers (of its last start), passed_over (damaged checkpoints that were skipped, if
    any).
    """
    cluster, config, view = ready(resources), task.config, task.view
    if task.classes != (wanted := PRETEXTS.get(config.pretext, task.classes)):
        raise InputError(
            f"{name}: pretext is '{config.pretext}', which has {wanted} classes, but the labels have {task.classes:,}: "
            "unset it; raylabel pretexts trains on it"
        )
    if task.mixture and config.loss == "bce":
        raise InputError(f"{name}: loss is 'bce', which has no picks mixed into a labeled set: give 'softmax'")
    precision = cluster.precision(config.precision, view.clip is not None)
    identity: dict[str, Any] = {
        "model": identity_of(task.model),
        "classes": task.classes,
        "examples": task.examples.digest,
        # The weights that `init` names are in `init` below, by their content.
        "train": identity_of(replace(config, init=replace(config.init, weights=""))) | {"precision": precision},
        "view": view.training_identity,
        "init": task.init.digest if task.init else None,
        "seed": task.seed,
    }
    if task.mixture:
        identity["mixture"] = {"examples": task.mixture.examples.digest, "share": task.mixture.share}
    if task.continued:
        identity["continued"] = True
    if task.validation and config.validate.given:
        identity["validation"] = {"examples": task.validation.digest, "view": view.evaluation_identity}

    def build_model(draft: Draft) -> Built:
        board, checkpoints = make_board(), Checkpoints(draft.scratch("checkpoints"))
        workers = Workers(resources, cluster, config.batch, task.stream, board, group)
        worker_task = replace(task, precision=precision, board=board)
        start = checkpoints.newest()
        before = start.step * config.batch
        ray.get(board.set.remote(before, ""))
        with (
            Progress(f"train {name}", config.processed, view.inputs, done=before) as progress,
            shown(board, progress, lambda points: watch(name, Points(*points))),
        ):
            settings, storage = {"task": worker_task, "checkpoints": checkpoints}, draft.scratch("ray_train")
            final = workers.run(run_worker, settings, storage, checkpoints, start, config.steps, progress.say)
            last = json.loads(final.files[CURVE])[-1]
            # After a restart with no step left to do, the board has not received this yet.
            board.set.remote(config.processed, describe_step(last["loss"], last["accuracy"]))
        ray.kill(board)
        made = {WEIGHTS: final.files[result_file(config)], CURVE: final.files[CURVE]}
        if config.pretext in RESTORING:
            made[WEIGHTS] = without_decoder(made[WEIGHTS])
        if config.validate.given:
            made[VALIDATION] = final.files[VALIDATION]
        if task.continued:
            made[MOMENTUM] = final.files[MOMENTUM]
        files = [write_bytes(draft.uri, name, data) for name, data in made.items()]
        info = {**describe(task.model, task.classes), "workers": workers.count, "hardware": cluster.name}
        info["images"] = config.processed - before  # processed in this build, which took `seconds`
        if passed_over := json.loads(final.files[STATE])["passed_over"]:
            info["passed_over"] = passed_over
        return Built(files, info)

    # Of version 0.1, which put the whole view there.
    network = root.make(name, identity, build_model, former=[identity | {"view": identity_of(view)}])
    watch(name, Points.of(network))
    return network
