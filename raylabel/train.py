"""EXAMPLES → a trained network: the one training loop, for teacher, control, pre-training and fine-tuning.

Synchronous SGD with momentum on Ray Train (DDP). BatchNorm statistics are each worker's own (Yalniz et al. 2019 §3).
The sum of a batch's gradients does not depend on how its images are spread over the workers.
"""

import io
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import ray
import ray.train
import ray.train.torch

from raylabel.artifact import NOT_IDENTITY, Artifact, Built, Draft, Root, filesystem, identity_of, write_bytes
from raylabel.errors import InputError
from raylabel.media.views import View, normalise
from raylabel.models import CURVE, WEIGHTS, Model, build, describe, load_model, save_weights
from raylabel.report.board import make_board, shown
from raylabel.report.terminal import Progress
from raylabel.resources import Cluster, Resources
from raylabel.schedule import Schedule, lr_at
from raylabel.stream import Stream

POINTS = 200  # of a training curve


@dataclass(frozen=True, kw_only=True)
class Train:
    """How a network is trained. Length is counted in images processed, forward and backward (Yalniz et al. 2019 §3)."""

    images: int
    """Images processed in all, rounded up to whole batches."""
    schedule: Schedule
    """Learning rate over the run."""
    batch: int = 256
    """Images in a global batch, over all workers."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay, on every parameter (1e-4 in the paper)."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the forward pass (autocast); auto is bf16 where the hardware has it."""
    checkpoint_every: int = field(default=1000, metadata=NOT_IDENTITY)
    """Steps between checkpoints: what a crash can cost."""

    def __post_init__(self):
        for name in ("images", "batch", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: give at least 1")
        if self.batch < 2:
            raise InputError(f"batch is {self.batch}: BatchNorm needs at least 2 images")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum is {self.momentum}: give a number from 0 to 1, 1 excluded")
        if self.weight_decay < 0:
            raise InputError(f"weight_decay is {self.weight_decay}: give 0 or a positive number")

    @property
    def steps(self) -> int:
        return -(-self.images // self.batch)

    @property
    def processed(self) -> int:
        """Images processed, in whole batches."""
        return self.steps * self.batch


@dataclass(frozen=True)
class Job:
    """All that a worker needs; plain data, so that it travels."""

    model: Model
    classes: int
    examples: Artifact
    config: Train
    precision: str
    view: View
    init: Artifact | None
    seed: int
    board: Any


def train(
    root: Root,
    name: str,
    *,
    model: Model,
    classes: int,
    examples: Artifact,
    config: Train,
    view: View,
    seed: int,
    resources: Resources,
    init: Artifact | None = None,
) -> Artifact:
    """The network trained on the examples from random weights, or from those of `init`.

    A run that was killed goes on from its last checkpoint with the same sequence of samples. info: seconds, images.
    """
    cluster = Cluster.now()
    precision = cluster.precision(config.precision)
    identity = {
        "model": identity_of(model),
        "classes": classes,
        "examples": examples.digest,
        "train": identity_of(config) | {"precision": precision},
        "view": identity_of(view),
        "init": init.digest if init else None,
        "seed": seed,
    }

    def build_model(draft: Draft) -> Built:
        workers = cluster.workers(resources, config.batch)
        Stream(examples, seed).check_workers(workers, config.batch)
        board = make_board()
        job = Job(model, classes, examples, config, precision, view, init, seed, board)
        with Progress(f"train {name}", config.processed) as progress, shown(board, progress):
            result = fit(_loop, {"job": job}, draft.scratch("ray_train"), workers, bool(cluster.gpus))
            before, stopped = ray.get(board.outcome.remote())
        ray.kill(board)
        if stopped:
            raise InputError(stopped)
        assert result.checkpoint is not None
        with result.checkpoint.as_directory() as folder:
            names = (WEIGHTS, CURVE)
            files = [write_bytes(draft.uri, name, _read(os.path.join(folder, name))) for name in names]
        info = {**describe(model, classes), "workers": workers, "hardware": cluster.name}
        info["images"] = config.processed - before  # in the build that took `seconds`
        return Built(files, info)

    return root.make(name, identity, build_model)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def fit(loop: Callable[[dict[str, Any]], None], settings: dict[str, Any], storage: str, workers: int, gpu: bool):
    """Runs the loop on that many workers, each with the settings; Ray Train's result."""
    fs, path = filesystem(storage)
    trainer = ray.train.torch.TorchTrainer(
        loop,
        train_loop_config=settings,
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker={"CPU": 1}),
        run_config=ray.train.RunConfig(
            name="run",  # the same name in the same place: Ray Train goes on from the last checkpoint it finds there
            storage_path=path,
            storage_filesystem=fs,
            # Finite, so that a loop that fails for a reason of its own ends in its error.
            failure_config=ray.train.FailureConfig(max_failures=3, controller_failure_limit=3),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )
    before = signal.getsignal(signal.SIGINT)
    try:
        return trainer.fit()
    except SystemExit as error:  # how Ray Train answers Ctrl-C once its workers have ended: with status 0
        raise KeyboardInterrupt from error
    finally:
        signal.signal(signal.SIGINT, before)  # it leaves its own behind, which would answer so ever after


def _loop(settings: dict[str, Any]) -> None:
    """What each worker runs."""
    for _ in steps(settings["job"]):
        pass


def steps(job: Job) -> Generator[int, None, None]:
    """Trains, and yields the number of steps done after each: every worker has to ask for the same number."""
    import torch
    import torch.distributed
    from torch.nn import functional
    from torch.nn.parallel import DistributedDataParallel

    config, context = job.config, ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    torch.set_num_threads(1)  # a worker per core: also one order of every sum
    torch.manual_seed(job.seed)
    module = load_model(job.init) if job.init else build(job.model, job.classes)
    module = module.to(device, memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.SGD(
        module.parameters(), config.schedule.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    sums = torch.zeros(3, device=device)  # loss, correct, images since the last point of the curve
    step, curve = _restore(module, optimizer, sums, rank)
    parallel = DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None)
    last, total = config.steps, config.processed
    every = max(1, last // POINTS)
    batches = Stream(job.examples, job.seed).batches(
        job.view, config.batch, step * config.batch, total, rank, world, _loaders(), _memory(device)
    )
    note, told = "", 0.0
    if rank == 0:
        ray.get(job.board.set.remote(step * config.batch, ""))
    for pixels, labels in batches:
        lr = lr_at(config.schedule, step * config.batch, total)
        for group in optimizer.param_groups:
            group["lr"] = lr
        torch.manual_seed(hash((job.seed, step, rank)))  # dropout is a function of the step too
        images = normalise(torch.from_numpy(pixels).to(device, non_blocking=True), job.view)
        target = torch.from_numpy(labels).to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=job.precision == "bf16"):
            logits = parallel(images)
            losses = functional.cross_entropy(logits, target, reduction="sum")
        # DDP averages over workers, whose parts of the batch may differ by an image: weigh by images, not by workers.
        (losses * (world / config.batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            sums += torch.stack([losses.detach(), (logits.argmax(1) == target).sum(), sums.new_tensor(len(target))])
        step += 1
        if step % every == 0 or step == last:
            torch.distributed.all_reduce(sums)
            loss, correct, seen = sums.tolist()
            sums.zero_()
            done = step * config.batch
            if loss != loss:  # on every rank alike: all end here
                why = f"the loss is not a number after {done:,} images: lower the learning rate, here {lr:g}"
                ray.get(job.board.stop.remote(why))
                return
            curve.append({"images": done, "loss": loss / seen, "accuracy": correct / seen, "lr": lr})
            note = f"loss {loss / seen:.3f}, accuracy {correct / seen:.1%}"
        if rank == 0 and (step == last or time.monotonic() > told + 1):
            job.board.set.remote(step * config.batch, note)
            told = time.monotonic()
        if step % config.checkpoint_every == 0 or step == last:
            _save(module, optimizer, step, curve, rank, sums)
        yield step


def _loaders() -> int:
    """Threads that decode for one worker: beside a GPU the cores that its node has for each; else it has but one."""
    local = ray.train.get_context().get_local_world_size()
    return max(1, (os.cpu_count() or 1) // local) if ray.get_gpu_ids() else 1


def _memory(device) -> Callable[[tuple[int, ...]], np.ndarray]:
    """Gives memory for pixels of a shape; for a GPU such as it copies from by itself, while the worker goes on."""
    import torch

    if device.type != "cuda":
        return lambda shape: np.empty(shape, np.uint8)

    def pinned(shape: tuple[int, ...]) -> np.ndarray:
        with torch.cuda.device(device):  # of the calling thread; without it each worker would open the first GPU too
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()

    return pinned


def _restore(module, optimizer, sums, rank: int) -> tuple[int, list[dict[str, float]]]:
    """(step, curve) of the last checkpoint, whose state is loaded; (0, []) at the start of a run."""
    import torch

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return 0, []
    with checkpoint.as_directory() as folder:
        state = torch.load(os.path.join(folder, "state.pt"), map_location=sums.device, weights_only=True)
        curve = json.loads(_read(os.path.join(folder, CURVE)))
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    if rank == 0:  # they were summed over all ranks
        sums.copy_(state["sums"])
    return state["step"], curve


def _save(module, optimizer, step: int, curve: list, rank: int, sums) -> None:
    """Reports a checkpoint: all state, and what the artifact keeps. Every rank calls it; rank 0 writes."""
    import torch
    import torch.distributed

    total = sums.clone()
    torch.distributed.all_reduce(total)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if rank == 0:
            buffer = io.BytesIO()
            state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "sums": total}
            torch.save(state, buffer)
            contents = {"state.pt": buffer.getvalue(), WEIGHTS: save_weights(module), CURVE: json.dumps(curve).encode()}
            for name, data in contents.items():
                with open(os.path.join(folder, name), "wb") as file:
                    file.write(data)
            checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report({"step": step}, checkpoint=checkpoint)
