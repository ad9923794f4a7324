"""The training loop, which each training worker runs: for teacher, control, pre-training and fine-tuning."""

import functools
import json
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, nullcontext
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch

from raylabel.compute.gpu import is_out_of_memory, use_full_float32
from raylabel.compute.metrics import show_training
from raylabel.compute.resources import node_cpus
from raylabel.errors import DivergedError, InputError
from raylabel.media.image_views import normalise
from raylabel.models.build import input_dtype, memory_format
from raylabel.models.restoring import Restoring
from raylabel.models.start import freeze, start_network
from raylabel.models.trained import CURVE
from raylabel.models.weights import save_tensors
from raylabel.text import one_line
from raylabel.training.checkpoint import STATE, Checkpoints, Files, Writer
from raylabel.training.config import RESTORING
from raylabel.training.learner import Learner
from raylabel.training.losses import make_loss
from raylabel.training.mixing import make_mix
from raylabel.training.preemption import Agreement, handle_sigterm
from raylabel.training.pretexts import make_pretext
from raylabel.training.schedule import lr_at
from raylabel.training.soft import make_targets
from raylabel.training.task import TrainingTask
from raylabel.training.validation import VALIDATION, Validation, points_of

POINTS = 200  # points of a training curve


def describe_step(loss: float, accuracy: float) -> str:
    return f"loss {loss:.3f}, accuracy {accuracy:.1%}"


def run_worker(settings: dict[str, Any]) -> None:
    """The function that each worker runs."""
    task, checkpoints = settings["task"], settings["checkpoints"]
    try:
        for _ in steps(task, checkpoints):
            pass
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"{_artifact(checkpoints)}: out of GPU memory in a batch of {task.config.batch} {task.view.inputs} over "
            f"{ray.train.get_context().get_world_size()} workers ({one_line(error)[:200]}): lower the batch of this "
            "training, or use more GPUs"
        ) from error


def steps(task: TrainingTask, checkpoints: Checkpoints) -> Generator[int, None, None]:
    """Trains, and yields the number of steps done after each step. All workers must iterate equally often.

    Resumes from the newest checkpoint. Ends after the last step, or earlier when the training is preempted (by the
    board or by SIGTERM), and writes a checkpoint at its end. InputError if the loss is not a number.
    """
    import torch
    import torch.distributed
    from torch.nn.parallel import DistributedDataParallel

    config, context = task.config, ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    handle_sigterm()
    torch.set_num_threads(1)  # one worker per core; sums are also always computed in the same order
    if task.precision == "fp32":
        use_full_float32()
    torch.manual_seed(task.seed)
    module: Any = start_network(task.model, task.classes, config.init, task.init)
    if config.pretext in RESTORING:
        *frames, height, width, _ = task.view.train_shape
        module = Restoring(module, (3, *frames, height, width))
    module = module.to(device, memory_format=memory_format(module)).train()  # pyright: ignore[reportCallIssue]
    if config.sync_batchnorm:
        module = torch.nn.SyncBatchNorm.convert_sync_batchnorm(module)
    learner = Learner(module, config, rank, task.init if task.continued else None)
    # Loss and correct images since the last point of the curve. Each rank sums its own until then, also over a restart,
    # so that the curve does not depend on when checkpoints are written.
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    step, curve, validated, passed_over = _restore(checkpoints, learner, sums, rank, world)
    last, total, dtype = config.steps, config.processed, input_dtype(module, task.precision == "bf16")
    thaw = config.init.thaws_at(last)
    freeze(module, config.init.frozen, frozen=step < thaw)
    on_gpu = device.type == "cuda"
    # After its first step DDP sorts the gradients into other buckets, unless it looks for unused parameters. The place
    # of a gradient in its bucket decides in which order three or more workers are summed, so the bits would depend on
    # when a training was interrupted.
    fixed = world > 2 and not on_gpu
    wrap = functools.partial(
        DistributedDataParallel, device_ids=[device] if on_gpu else None, find_unused_parameters=fixed
    )
    parallel = wrap(module)
    every, pretext = max(1, last // POINTS), make_pretext(config.pretext)
    mix, targets = make_mix(config, task.classes), make_targets(config, task.classes)
    batches = task.stream.batches(
        task.view, config.batch, step * config.batch, total, rank, world, _loaders(), _memory(device)
    )
    # Raises if the driver has ended: another driver may be writing checkpoints now.
    writer = Writer(checkpoints, config.checkpoint_minutes, lambda: ray.get(task.board.get.remote()))
    note, reported, agreement = "", 0.0, Agreement(task.board, rank, step, device, writer.due)
    with ExitStack() as opened:
        validation, points = None, points_of(config)
        if points:
            assert task.validation is not None
            validation = Validation(task.validation, task.view, task.precision, rank, world, _loaders())
            opened.callback(validation.close)
        opened.callback(batches.close)
        for pixels, labels, soft in batches:
            if step == thaw and config.init.frozen:
                freeze(module, config.init.frozen, frozen=False)
                parallel = wrap(module)  # knows the parameters with gradients from when it is made
            lr = lr_at(config.schedule, step * config.batch, total, [point["accuracy"] for point in validated])
            torch.manual_seed(hash((task.seed, step, rank)))  # so that mixing and dropout after a restart are the same
            # No copy waits for the device. PyTorch does not reuse pinned memory, also of an array, before it is copied.
            images = normalise(torch.from_numpy(pixels).to(device, non_blocking=True), task.view, dtype)
            label = torch.from_numpy(labels).to(device, non_blocking=True)
            images, label = pretext(images, label)
            images, target = mix(images, targets(label, soft))
            sums += _add_gradients(parallel, (images, target, label), task, world)
            learner.step(lr, hash((task.seed, step)))
            step += 1
            if step % every == 0 or step == last:
                torch.distributed.all_reduce(sums)
                loss, correct = sums.tolist()
                sums.zero_()
                done, seen = step * config.batch, (1 + (step - 1) % every) * config.batch
                if loss != loss:  # the sum is the same on every rank, so all ranks raise
                    raise DivergedError(
                        f"the loss is not a number after {done:,} {task.view.inputs}, at a learning rate of {lr:g}: "
                        "lower the learning rate"
                    )
                curve.append({"images": done, "loss": loss / seen, "accuracy": correct / seen, "lr": lr})
                note = describe_step(loss / seen, correct / seen)
                if rank == 0:
                    show_training(_artifact(checkpoints), step, loss / seen)
            if validation and step in points:
                best = max((point["accuracy"] for point in validated), default=-1.0)
                accuracy = validation.accuracy(learner.evaluated(), device)
                validated.append({"images": step * config.batch, "accuracy": accuracy})
                if config.validate.keep_best and accuracy > best:
                    learner.keep_best()
            if rank == 0 and (step == last or time.monotonic() > reported + 1):
                measured = f"validation {validated[-1]['accuracy']:.1%}" if validated else ""
                notes = ", ".join(filter(None, (note, measured, writer.note)))
                agreement.report(step * config.batch, notes, (curve, validated))
                reported = time.monotonic()
            stop, save = agreement.after(step)
            if save or stop or step == last:
                of_ranks = [torch.empty_like(sums) for _ in range(world)]
                torch.distributed.all_gather(of_ranks, sums)
                if rank == 0:
                    state = {"step": step, "sums": torch.stack(of_ranks).tolist(), "passed_over": passed_over}
                    state["saved"] = time.time()
                    plain = {CURVE: curve, STATE: state} | ({VALIDATION: validated} if points else {})
                    writer.write(step, _snapshot(learner, plain))
            if stop or step == last:
                writer.wait()
            writer.check()
            yield step
            if stop:
                return


def _add_gradients(parallel: Any, batch: tuple[Any, Any, Any], task: TrainingTask, world: int) -> Any:
    """Adds the gradients of this worker's share of a batch: (images, targets, labels). Returns its summed loss and its
    number of correct images, [2]."""
    import torch

    config, measure = task.config, make_loss(task.config)
    sums = torch.zeros(2, dtype=torch.float64, device=batch[0].device)
    parts = list(zip(*(x.chunk(config.accumulate) for x in batch), strict=True))
    for number, (images, target, label) in enumerate(parts, 1):
        # The workers sum their gradients once, after the last part.
        with nullcontext() if number == len(parts) else parallel.no_sync():
            with torch.autocast(images.device.type, torch.bfloat16, enabled=task.precision == "bf16"):
                logits = parallel(images)
                losses, right = measure(logits, target, label)
            # DDP averages over workers, whose shares of the batch may differ by an image: weight by images instead.
            (losses * (world / config.batch)).backward()
        with torch.no_grad():
            sums += torch.stack([losses.detach(), right])
    return sums


def _artifact(checkpoints: Checkpoints) -> str:
    """The name of the training's folder."""
    return checkpoints.folder.split("/")[-3]  # checkpoints are in <artifact>/scratch/checkpoints


def _loaders() -> int:
    """Threads that decode for one worker: with GPUs, the CPUs of its node divided by the workers there; else one."""
    local = ray.train.get_context().get_local_world_size()
    return max(1, node_cpus() // local) if ray.get_gpu_ids() else 1


def _memory(device) -> Callable[[tuple[int, ...]], np.ndarray]:
    """A function that allocates memory for pixels of a shape. For a GPU it is pinned: copies are then asynchronous."""
    import torch

    if device.type != "cuda":
        return lambda shape: np.empty(shape, np.uint8)

    def pinned(shape: tuple[int, ...]) -> np.ndarray:
        with torch.cuda.device(device):  # set per thread; without it, each worker would also open the first GPU
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()

    return pinned


def _restore(
    checkpoints: Checkpoints, learner: Learner, sums, rank: int, world: int
) -> tuple[int, list[dict[str, float]], list[dict[str, float]], list[str]]:
    """Loads the newest checkpoint; returns its step, its curve, its points of validation and the damaged checkpoints
    that were skipped.

    Only rank 0 reads it, so that all ranks resume from the same one. The other ranks get the step, the sums, the
    points of validation and the state of the optimizer by broadcast here, and the weights from DDP; only rank 0 needs
    the rest.
    """
    import torch
    import torch.distributed

    found, curve, validated, passed_over, moments, saved = None, [], [], [], {}, sums[None]
    if rank == 0:
        found = checkpoints.newest()
        passed_over = list(found.passed_over)
        if found.step:
            state, curve = json.loads(found.files[STATE]), json.loads(found.files[CURVE])
            validated = json.loads(found.files.get(VALIDATION, b"[]"))
            moments = learner.load(found.files, checkpoints.folder, found.step)
            # Version 0.1 saved only those of all ranks together, and the number of images.
            of_ranks = state["sums"] if isinstance(state["sums"][0], list) else [state["sums"][:2]]
            saved = torch.tensor(of_ranks, dtype=sums.dtype, device=sums.device)
            passed_over += state["passed_over"]
    sizes = torch.tensor([found.step if found else 0, len(saved), len(validated)], device=sums.device)
    torch.distributed.broadcast(sizes, 0)
    step, ranks, points = sizes.tolist()
    if step:
        saved = saved if rank == 0 else sums.new_empty(ranks, len(sums))
        torch.distributed.broadcast(saved, 0)
        if ranks == world:
            sums.copy_(saved[rank])
        elif rank == 0:
            sums.copy_(saved.sum(0))
        learner.restore(moments, step)
    if points:  # the learning rate may depend on them
        rows = [list(point.values()) for point in validated] or [[0.0, 0.0]] * points
        table = torch.tensor(rows, dtype=torch.float64, device=sums.device)
        torch.distributed.broadcast(table, 0)
        validated = [{"images": int(images), "accuracy": accuracy} for images, accuracy in table.tolist()]
    return step, curve, validated, passed_over


def _snapshot(learner: Learner, plain: dict[str, Any]) -> Callable[[], Files]:
    """Copies all state to the host's memory now; the function makes the files of the checkpoint from the copies, among
    them those of the artifact. `plain`: those that have no tensors."""
    encoded = {file: json.dumps(value).encode() for file, value in plain.items()}
    copied = {
        file: {name: tensor.detach().to("cpu", copy=True) for name, tensor in some.items()}
        for file, some in learner.tensors().items()
    }
    return lambda: {file: save_tensors(some) for file, some in copied.items()} | encoded
