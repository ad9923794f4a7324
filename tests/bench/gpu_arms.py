"""What `bench_gpu.py` runs in other processes: a network that notes when each batch was scored, and all trainings."""

import functools
import gc
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from raylabel.inference.network import Network
from raylabel.inference.scorer import Found, Run
from raylabel.training.checkpoint import Checkpoints

WARM = 8  # batches or steps that are not timed, at least: pipelines fill, and networks are compiled


@dataclass(frozen=True)
class Timed(Network):
    """Appends the time of each batch to a file."""

    path: str = ""
    gpu: bool = True
    """False: on the CPU, whatever the pool has."""

    def start(self, gpu: bool) -> Run:
        run = super().start(self.gpu)

        def timed(batches: Iterable[np.ndarray]) -> Iterator[Found]:
            for ranked in run(batches):
                with open(self.path, "a") as file:  # some 30 a second
                    file.write(f"{time.time()}\n")
                yield ranked

        return timed


def batches_per_second(path: str) -> float:
    """In the steady state of `Timed`: from a quarter of the batches on, to the last but WARM."""
    times = sorted(map(float, Path(path).read_text().split()))
    first, last = max(1, len(times) // 4), len(times) - min(WARM, len(times) // 4) - 1
    return (last - first) / (times[last] - times[first])


class Trainer:
    """The steps of a training, on one worker of Ray Train."""

    def __init__(self, settings: dict[str, Any]):
        import ray.train.torch

        self.task, self.folder, self.size = settings["task"], settings["folder"], settings["size"]
        self.device = ray.train.torch.get_device()
        self.count = 0

    def now(self) -> float:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def stream(self) -> float:
        """Images per second of the training loop as it is: from the stream, with curve and agreements."""
        from raylabel.training import loop

        self.count += 1
        last, batch, begin, end = WARM + self.size.steps + 1, self.task.config.batch, 0.0, 0.0
        task = replace(self.task, config=replace(self.task.config, images=last * batch))
        for step in loop.steps(task, Checkpoints(f"{self.folder}/{self.count}/scratch/checkpoints")):
            if step == WARM:
                begin = self.now()
            elif step == last - 1:  # a checkpoint follows the last step
                end = self.now()
        self._free()
        return self.size.steps * batch / (end - begin)

    def resident(self, benchmark: bool = False, compiled: bool = False, channels_last: bool = True) -> float:
        """Images per second of the same step on pixels that are on the device already."""
        import torch
        from torch.nn import functional
        from torch.nn.parallel import DistributedDataParallel

        from raylabel.media.image_views import normalise
        from raylabel.models.build import build, memory_format

        task, batch = self.task, self.task.config.batch
        torch.backends.cudnn.benchmark = benchmark
        torch.manual_seed(0)
        module = build(task.model, task.classes)
        layout = memory_format(module) if channels_last else torch.contiguous_format
        module = module.to(self.device, memory_format=layout).train()  # pyright: ignore[reportCallIssue]
        if compiled:
            module.compile()
        ids = [self.device] if self.device.type == "cuda" else None
        parallel = DistributedDataParallel(module, device_ids=ids)
        optimizer = torch.optim.SGD(module.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
        pixels = torch.randint(0, 256, (batch, *task.view.train_shape), dtype=torch.uint8, device=self.device)
        target = torch.randint(0, task.classes, (batch,), device=self.device)
        begin, images, loss = 0.0, None, None
        for step in range(WARM + self.size.steps):
            if step == WARM:
                begin = self.now()
            images = normalise(pixels, task.view)
            if not channels_last:
                images = images.contiguous()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=task.precision == "bf16"):
                loss = functional.cross_entropy(parallel(images), target, reduction="sum")
            (loss / batch).backward()
            optimizer.step()
            optimizer.zero_grad()
        rate = self.size.steps * batch / (self.now() - begin)
        torch.backends.cudnn.benchmark = False
        del module, parallel, optimizer, pixels, target, images, loss  # a graph holds the activations
        self._free()
        return rate

    def _free(self) -> None:
        import torch

        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def run_trainings(settings: dict[str, Any]) -> None:
    """The function of the worker. Appends [name, images per second] of each arm to `figures` in the folder at once."""
    from raylabel.training import loop

    if settings["here"]:  # the worker is the process of the bench
        loop.handle_sigterm = lambda: None
    trainer = Trainer(settings)
    arms: dict[str, Callable[[], float]] = {
        "stream": trainer.stream,
        "resident": trainer.resident,
        "cudnn.benchmark": functools.partial(trainer.resident, benchmark=True),
        "contiguous": functools.partial(trainer.resident, channels_last=False),
        "compiled": functools.partial(trainer.resident, compiled=True),
        "compiled, cudnn.benchmark": functools.partial(trainer.resident, benchmark=True, compiled=True),
    }
    for name in settings["arms"]:
        with open(f"{settings['folder']}/figures", "a") as file:
            file.write(json.dumps([name, arms[name]()]) + "\n")
