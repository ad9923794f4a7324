"""The one training loop, for teacher, control, pre-training and fine-tuning: what each worker runs."""

import json
import os
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch

from raylabel.compute.metrics import show_training
from raylabel.errors import InputError
from raylabel.media.image_views import normalise
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.build import build, memory_format
from raylabel.models.trained import CURVE, WEIGHTS, load_model
from raylabel.models.weights import load_weights, save_weights
from raylabel.store.artifact import Artifact
from raylabel.training.checkpoint import Checkpoints
from raylabel.training.config import Train
from raylabel.training.preemption import Preemption, heed_sigterm
from raylabel.training.schedule import lr_at
from raylabel.training.stream import Stream

POINTS = 200  # of a training curve


MOMENTUM = "momentum.safetensors"


STATE = "state.json"  # of a checkpoint, beside its tensors: {step, sums, passed_over}


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """A training, and all that a worker needs for it; plain data, so that it travels."""

    model: Model
    classes: int
    examples: Artifact
    config: Train
    view: View
    seed: int
    init: Artifact | None = None
    """A trained network to start from; None: random weights."""
    precision: str = ""
    """'bf16' or 'fp32', once it is known what the hardware has."""
    board: Any = None
    """Where rank 0 reports progress, once there is one."""


def describe_step(loss: float, accuracy: float) -> str:
    return f"loss {loss:.3f}, accuracy {accuracy:.1%}"


def run_worker(settings: dict[str, Any]) -> None:
    """What each worker runs."""
    for _ in steps(settings["job"], settings["checkpoints"]):
        pass


def steps(job: TrainingTask, checkpoints: Checkpoints) -> Generator[int, None, None]:
    """Trains, and yields the number of steps done after each: every worker has to ask for the same number.

    Goes on from the newest checkpoint. Ends with the last step, or before it where the board or a SIGTERM says so, and
    leaves a checkpoint of where it ended. InputError if the loss is not a number.
    """
    import torch
    import torch.distributed
    from torch.nn import functional
    from torch.nn.parallel import DistributedDataParallel

    config, context = job.config, ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    heed_sigterm()
    torch.set_num_threads(1)  # a worker per core: also one order of every sum
    torch.manual_seed(job.seed)
    module = load_model(job.init) if job.init else build(job.model, job.classes)
    module = module.to(device, memory_format=memory_format(module)).train()  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.SGD(
        module.parameters(), config.schedule.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    sums = torch.zeros(3, device=device)  # loss, correct, images since the last point of the curve
    step, curve, passed_over = _restore(checkpoints, module, optimizer, sums, rank)
    parallel = DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None)
    last, total = config.steps, config.processed
    every = max(1, last // POINTS)
    batches = Stream(job.examples, job.seed).batches(
        job.view, config.batch, step * config.batch, total, rank, world, _loaders(), _memory(device)
    )
    note, told, preemption = "", 0.0, Preemption(job.board, rank, step, device)
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
                raise InputError(
                    f"the loss is not a number after {done:,} {job.view.inputs}: lower the learning rate, here {lr:g}"
                )
            curve.append({"images": done, "loss": loss / seen, "accuracy": correct / seen, "lr": lr})
            note = describe_step(loss / seen, correct / seen)
            if rank == 0:
                artifact = checkpoints.folder.split("/")[-3]  # its folder/scratch/checkpoints
                show_training(artifact, step, loss / seen)
        if rank == 0 and (step == last or time.monotonic() > told + 1):
            preemption.tell(step * config.batch, note)
            told = time.monotonic()
        preempted = preemption.agreed(step)
        if preempted or step % config.checkpoint_every == 0 or step == last:
            if rank == 0:  # ends here if the driver has: another one may be writing by now
                ray.get(job.board.get.remote())
            _save(checkpoints, module, optimizer, sums, step, curve, passed_over, rank)
        yield step
        if preempted:
            batches.close()
            return


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


def _restore(
    checkpoints: Checkpoints, module, optimizer, sums, rank: int
) -> tuple[int, list[dict[str, float]], list[str]]:
    """(step, curve, damaged checkpoints that were passed over) of the newest checkpoint, whose state is loaded.

    Rank 0 reads it, so that all go on from the same one. The others get step and momentum here and the weights from
    DDP, which gives them to all; the rest is rank 0's alone.
    """
    import safetensors.torch
    import torch
    import torch.distributed

    found, curve, passed_over, momentum = None, [], [], {}
    if rank == 0:
        found = checkpoints.newest()
        passed_over = list(found.passed_over)
        if found.step:
            state, curve = json.loads(found.files[STATE]), json.loads(found.files[CURVE])
            load_weights(module, found.files[WEIGHTS], checkpoints.folder)
            momentum = safetensors.torch.load(found.files[MOMENTUM])
            sums.copy_(torch.tensor(state["sums"]))  # they were summed over all ranks
            passed_over += state["passed_over"]
    step = torch.tensor(found.step if found else 0, device=sums.device)
    torch.distributed.broadcast(step, 0)
    if step.item():
        for name, parameter in module.named_parameters():
            held = torch.zeros(parameter.shape, dtype=parameter.dtype, device=parameter.device)
            if name in momentum:
                held.copy_(momentum[name])
            torch.distributed.broadcast(held, 0)
            # Laid out as the optimizer would. One that is zero is as good as none yet.
            optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(held)
    return int(step.item()), curve, passed_over


def _save(checkpoints: Checkpoints, module, optimizer, sums, step: int, curve: list, passed_over: list, rank: int):
    """Saves all state, and what the artifact keeps. Every rank calls it; rank 0 writes."""
    import safetensors.torch
    import torch.distributed

    # From here on rank 0 holds the sums of all, as after a restart: both go on to the same curve.
    torch.distributed.all_reduce(sums)
    if rank != 0:
        sums.zero_()
        return
    momentum = {
        name: optimizer.state[parameter]["momentum_buffer"].cpu().contiguous()
        for name, parameter in module.named_parameters()
        if optimizer.state[parameter].get("momentum_buffer") is not None
    }
    state = {"step": step, "sums": sums.tolist(), "passed_over": passed_over}
    files = {WEIGHTS: save_weights(module), MOMENTUM: safetensors.torch.save(momentum), CURVE: json.dumps(curve)}
    files[STATE] = json.dumps(state)
    checkpoints.save(step, {name: data if isinstance(data, bytes) else data.encode() for name, data in files.items()})
