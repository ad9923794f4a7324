"""Ranks of the training loop, in processes without Ray: interruptions change neither weights nor curve, and the weights
are those of a plain loop in one process."""

import json
import multiprocessing
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from raylabel.models.init import Init
from raylabel.training.config import Validate
from raylabel.training.schedule import Schedule, lr_at
from raylabel.training.soft import Soft

STEPS, BATCH, SEED = 12, 16, 1
PLAIN: dict[str, Any] = {"schedule": Schedule(lr=0.05)}
EVERYTHING: dict[str, Any] = {
    "schedule": Schedule(lr=0.01, warmup=0.1, decay="cosine", final_lr=0.001),
    "optimizer": "adamw",
    "beta2": 0.99,
    "decay_norms": False,
    "label_smoothing": 0.1,
    "soft": 0.6,
    "mixup": 0.2,
    "cutmix": 1.0,
    "ema": 0.7,
    "accumulate": 2,
    "steps_per_gradient": 2,
    "validate": Validate(on="validation", points=5, keep_best=True),
    "init": Init(frozen=("conv1", "bn1", "layer1"), frozen_until=0.4, first_lr=0.3),
}


PLATEAU: dict[str, Any] = {
    "schedule": Schedule(lr=0.05, warmup=0.1, decay="plateau", factor=0.5, patience=0, final_lr=0.01),
    "validate": Validate(on="labeled", points=STEPS),
    "ema": 0.5,
}


class _Board:
    """Answers like the actor: rank 0 only passes its answers on."""

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *_: False)


class _Stream:
    """Random pictures, the same for each step and rank."""

    def __init__(self, examples: Any, seed: int):
        pass

    def batches(self, view: Any, batch: int, first: int, total: int, rank: int, world: int, *_: Any):
        for step in range(first // batch, total // batch):
            rng = np.random.default_rng((step, rank))
            share = batch // world
            pixels, labels = rng.integers(0, 256, (share, 8, 8, 3), np.uint8), rng.integers(0, 10, share)
            classes = rng.permuted(np.tile(np.arange(10, dtype=np.int32), (share, 1)), axis=1)[:, :3]
            yield (
                pixels,
                labels,
                Soft(classes, np.sort(rng.normal(-1, 1, (share, 3)).astype(np.float32))[:, ::-1].copy()),
            )


class _Validation:
    """Fixed random pictures, of which each rank has its own."""

    def __init__(self, examples: Any, view: Any, precision: str, rank: int, world: int, threads: int):
        rng = np.random.default_rng(100 + rank)
        self.pixels = rng.standard_normal((64, 3, 8, 8), np.float32)
        self.labels = rng.integers(0, 2, 64)  # so that a network often gets more of them right by its bias

    def accuracy(self, module: Any, device: Any) -> float:
        import torch
        import torch.distributed

        modes = [each.training for each in module.modules()]
        with torch.no_grad():
            right = (module.eval()(torch.from_numpy(self.pixels)).argmax(1) == torch.from_numpy(self.labels)).sum()
        for each, mode in zip(module.modules(), modes, strict=True):
            each.training = mode
        torch.distributed.all_reduce(right)
        return right.item() / len(self.labels) / torch.distributed.get_world_size()

    def close(self) -> None:
        pass


def _run(
    rank: int, world: int, folder: str, fields: dict[str, Any], stops: list[tuple[int, ...]], saves: tuple[int, ...]
) -> None:
    """Rank `rank` of `world` in a training that starts again after it stopped at each of the steps."""
    import ray
    import ray.train
    import ray.train.torch
    import torch
    import torch.distributed
    from helpers import DIGITS_VIEW

    from raylabel.models import Model
    from raylabel.training import loop
    from raylabel.training.checkpoint import Checkpoints
    from raylabel.training.config import Train
    from raylabel.training.preemption import Agreement
    from raylabel.training.task import TrainingTask

    wait = timedelta(seconds=60)
    torch.distributed.init_process_group("gloo", f"file://{folder}/group", wait, world, rank)
    context = SimpleNamespace(
        get_world_rank=lambda: rank,
        get_world_size=lambda: world,
        get_local_world_size=lambda: world,
        get_node_rank=lambda: 0,
    )
    after = Agreement.after
    task = TrainingTask(
        model=Model(arch="resnet8x1"),
        classes=10,
        examples=SimpleNamespace(),  # pyright: ignore[reportArgumentType]
        validation=SimpleNamespace(),  # pyright: ignore[reportArgumentType]
        config=Train(images=STEPS * BATCH, batch=BATCH, **fields),
        view=DIGITS_VIEW,
        seed=SEED,
        precision="fp32",
        board=_Board(),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray.train, "get_context", lambda: context)
        patch.setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))
        patch.setattr(ray, "get", lambda answer: answer)
        patch.setattr(ray, "wait", lambda answers, timeout: (answers, []))
        patch.setattr(ray, "get_gpu_ids", list)
        patch.setattr(loop, "handle_sigterm", lambda: None)
        patch.setattr(loop, "show_training", lambda *_: None)
        patch.setattr("raylabel.training.task.Stream", _Stream)
        patch.setattr(loop, "Validation", _Validation)
        patch.setattr(loop, "POINTS", 3)  # four steps between two points of the curve
        for stop in [*stops, ()]:
            decide = lambda self, step, stop=stop: after(self, step)._replace(stop=step in stop, save=step in saves)  # noqa: E731
            patch.setattr(Agreement, "after", decide)
            for _ in loop.steps(task, Checkpoints(f"{folder}/artifact/scratch/checkpoints")):
                pass


def _trained(
    folder: Path, fields: dict[str, Any], stops: list[tuple[int, ...]], saves: tuple[int, ...], world: int = 2
) -> dict[str, bytes]:
    """The files of the last checkpoint that the artifact is made of."""
    from raylabel.models.trained import CURVE, WEIGHTS
    from raylabel.training.checkpoint import Checkpoints
    from raylabel.training.learner import AVERAGE, BEST
    from raylabel.training.validation import VALIDATION

    folder.mkdir()
    context = multiprocessing.get_context("forkserver")  # only the server imports torch and Ray: 10 s of CPU time
    context.set_forkserver_preload(["helpers", "ray.train.torch", "raylabel.training.loop"])
    arguments = (world, str(folder), fields, stops, saves)
    ranks = [context.Process(target=_run, args=(rank, *arguments)) for rank in range(world)]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join(200)
        one.kill()
    assert [one.exitcode for one in ranks] == [0] * world
    found = Checkpoints(f"{folder}/artifact/scratch/checkpoints").newest()
    assert found.step == STEPS and not found.passed_over
    return {name: found.files[name] for name in (WEIGHTS, CURVE, AVERAGE, BEST, VALIDATION) if name in found.files}


@pytest.mark.long
@pytest.mark.parametrize(
    ("fields", "world"),
    [
        pytest.param(PLAIN, 2, marks=pytest.mark.slow),
        pytest.param(PLAIN, 4, marks=pytest.mark.slow),
        pytest.param(EVERYTHING, 1, marks=pytest.mark.slow),
        (EVERYTHING, 2),
        pytest.param(EVERYTHING, 4, marks=pytest.mark.slow),
    ],
)
def test_interruptions_change_neither_weights_nor_curve(fields: dict[str, Any], world: int, tmp_path: Path):
    clean = _trained(tmp_path / "clean", fields, [], (), world)
    assert _trained(tmp_path / "stopped", fields, [(3,), (6,)], (2, 5, 9), world) == clean
    _check_against_a_plain_loop(fields, clean, world)


@pytest.mark.slow
def test_a_plateau_goes_on_after_interruptions(tmp_path: Path):
    import torch

    from raylabel.models.trained import CURVE
    from raylabel.training.validation import VALIDATION

    clean = _trained(tmp_path / "clean", PLATEAU, [], ())
    assert _trained(tmp_path / "stopped", PLATEAU, [(3,), (6,)], (2, 5, 9)) == clean
    points = json.loads(clean[VALIDATION])
    assert [point["images"] for point in points] == [BATCH * (step + 1) for step in range(STEPS)]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.05)
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, "max", factor=0.5, patience=0, threshold=0, threshold_mode="abs", min_lr=0.01
    )
    rates = []
    for point in points:
        rates.append(optimizer.param_groups[0]["lr"])
        torchs.step(point["accuracy"])
    curve = json.loads(clean[CURVE])
    assert [each["lr"] for each in curve] == [rates[each["images"] // BATCH - 1] for each in curve]
    assert len(set(rates)) >= 3


def _check_against_a_plain_loop(fields: dict[str, Any], found: dict[str, bytes], world: int) -> None:
    """The loop as a user of torch and torchvision would write it. BatchNorm sees a part of a rank's share at a time."""
    import safetensors.torch
    import torch
    from helpers import DIGITS_VIEW
    from torch.nn.functional import cross_entropy
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
    from torchvision.transforms import v2

    from raylabel.media.image_views import normalise
    from raylabel.models import Model
    from raylabel.models.build import build
    from raylabel.models.trained import WEIGHTS
    from raylabel.training.learner import AVERAGE

    torch.manual_seed(SEED)
    module = build(Model(arch="resnet8x1"), 10).train()
    parameters = list(module.parameters())
    if fields.get("optimizer") == "adamw":
        groups = [{"params": [p], "weight_decay": 1e-4 if p.ndim > 1 else 0.0} for p in parameters]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, fields["beta2"]))
    else:
        optimizer = torch.optim.SGD(module.parameters(), momentum=0.9, weight_decay=1e-4)
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(fields.get("ema", 0)), use_buffers=True)
    mix = None
    if fields.get("mixup"):
        kinds = v2.MixUp(alpha=fields["mixup"], num_classes=10), v2.CutMix(alpha=fields["cutmix"], num_classes=10)
        mix = v2.RandomChoice(kinds)
    ranks = (_Stream(None, SEED).batches(None, BATCH, 0, STEPS * BATCH, rank, world) for rank in range(world))
    for step, shares in enumerate(zip(*ranks, strict=True)):
        frozen = ("conv1", "bn1", "layer1") if "init" in fields and step < 5 else ()
        for name, layer in module.named_children():
            layer.train(name not in frozen).requires_grad_(name not in frozen)
        kernels = sum(p.ndim > 1 for p in parameters)
        for number, group in enumerate(optimizer.param_groups):
            group["lr"] = lr_at(fields["schedule"], step * BATCH, STEPS * BATCH)
            if "init" in fields:  # of each parameter; those of a layer follow its kernel
                after = sum(p.ndim > 1 for p in parameters[number + 1 :])
                group["lr"] *= 0.3 ** (after / (kernels - 1))
        optimizer.zero_grad()
        for rank, (pixels, labels, soft) in enumerate(shares):
            images, targets = normalise(torch.from_numpy(pixels), DIGITS_VIEW), torch.from_numpy(labels)
            if "soft" in fields:
                p = 1 / (1 + np.exp(-soft.log_odds.astype(np.float64)))
                teacher = np.repeat((1 - p.sum(1, keepdims=True)).clip(0) / 7, 10, axis=1)
                np.put_along_axis(teacher, soft.classes, p, axis=1)
                hard = fields["soft"] * teacher + (1 - fields["soft"]) * np.eye(10)[labels]
                targets = torch.from_numpy(hard.astype(np.float32))
            torch.manual_seed(hash((SEED, step, rank)))
            if mix:
                images, targets = mix(images, targets)
            parts = fields.get("accumulate", 1)
            for part, target in zip(images.chunk(parts), targets.chunk(parts), strict=True):
                smoothing = fields.get("label_smoothing", 0.0)
                (cross_entropy(module(part), target, reduction="sum", label_smoothing=smoothing) / BATCH).backward()
        for _ in range(fields.get("steps_per_gradient", 1)):
            optimizer.step()
            average.update_parameters(module)
    pairs = [(WEIGHTS, module), (AVERAGE, average.module)]
    assert (AVERAGE in found) == bool(fields.get("ema"))
    for file, expected in [pair for pair in pairs if pair[0] in found]:
        tensors = safetensors.torch.load(found[file])
        for name, parameter in expected.named_parameters():
            # Where a gradient is almost zero, Adam's step has the size of the learning rate and the sign of a rounding,
            # which depends on the CPU.
            off = (tensors[name] - parameter.detach()).abs()
            few = max(1, off.numel() // 1000)
            assert off.max() < 1e-3 and (off > 1e-4).sum() <= few, (file, name)
