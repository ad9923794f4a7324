"""Two ranks of the training loop, in two processes without Ray: interruptions change neither weights nor curve."""

import multiprocessing
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

STEPS, BATCH = 12, 16


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
            yield rng.integers(0, 256, (share, 8, 8, 3), np.uint8), rng.integers(0, 10, share)


def _run(rank: int, folder: str, stops: list[tuple[int, ...]], saves: tuple[int, ...]) -> None:
    """Rank `rank` of a training that starts again after it stopped at each of the steps."""
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
    from raylabel.training.schedule import Schedule

    wait = timedelta(seconds=60)
    torch.distributed.init_process_group("gloo", f"file://{folder}/group", wait, 2, rank)
    context = SimpleNamespace(
        get_world_rank=lambda: rank, get_world_size=lambda: 2, get_local_world_size=lambda: 2, get_node_rank=lambda: 0
    )
    after = Agreement.after
    task = loop.TrainingTask(
        model=Model(arch="resnet8x1"),
        classes=10,
        examples=SimpleNamespace(),  # pyright: ignore[reportArgumentType]
        config=Train(images=STEPS * BATCH, batch=BATCH, schedule=Schedule(lr=0.05)),
        view=DIGITS_VIEW,
        seed=1,
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
        patch.setattr(loop, "Stream", _Stream)
        patch.setattr(loop, "POINTS", 3)  # four steps between two points of the curve
        for stop in [*stops, ()]:
            decide = lambda self, step, stop=stop: after(self, step)._replace(stop=step in stop, save=step in saves)  # noqa: E731
            patch.setattr(Agreement, "after", decide)
            for _ in loop.steps(task, Checkpoints(f"{folder}/artifact/scratch/checkpoints")):
                pass


def _trained(folder: Path, stops: list[tuple[int, ...]], saves: tuple[int, ...]) -> dict[str, bytes]:
    """The files of the artifact."""
    from raylabel.models.trained import CURVE, WEIGHTS
    from raylabel.training.checkpoint import Checkpoints

    folder.mkdir()
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_run, args=(rank, str(folder), stops, saves)) for rank in (0, 1)]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join(200)
        one.kill()
    assert [one.exitcode for one in ranks] == [0, 0]
    found = Checkpoints(f"{folder}/artifact/scratch/checkpoints").newest()
    assert found.step == STEPS and not found.passed_over
    return {name: found.files[name] for name in (WEIGHTS, CURVE)}


@pytest.mark.slow
def test_interruptions_change_neither_weights_nor_curve(tmp_path):
    clean = _trained(tmp_path / "clean", [], ())
    assert _trained(tmp_path / "stopped", [(3,), (6,)], (2, 5, 9)) == clean
