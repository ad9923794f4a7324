"""Training on many machines: what checkpoints cost. See bench_cloud.py."""

import tempfile
import time
from collections.abc import Callable

import pytest
import torch
from figures import interleave, print_value

from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.trained import CURVE
from raylabel.training import checkpoint
from raylabel.training.checkpoint import STATE, Checkpoints, Files, Writer
from raylabel.training.config import Train
from raylabel.training.learner import Learner
from raylabel.training.loop import _snapshot
from raylabel.training.schedule import Schedule

UPLOAD = 2.0  # seconds that the store takes for a checkpoint
MINUTES = Train.checkpoint_minutes
# Seconds of 1,000 steps, after which version 0.1 wrote a checkpoint: a ResNet-50 at a batch of 1,536 on 64 H100 GPUs,
# as in Yalniz et al. 2019, at 2,500 images a second each.
THOUSAND_STEPS = 1000 * 1536 / (64 * 2500)


class _Counted(Checkpoints):
    """Counts the CPU time of the thread that writes."""

    def __init__(self, folder: str):
        super().__init__(folder)
        self.seconds = 0.0

    def save(self, step: int, files: Files, confirm: Callable[[], object] = lambda: None) -> None:
        super().save(step, files, confirm)
        self.seconds = time.thread_time()  # of a thread for this checkpoint alone


def row_7() -> None:
    """How long training stands still for a checkpoint of a ResNet-50: for all of it in the loop, as in version 0.1, or
    for the copy that a thread then writes. In CPU seconds and seconds of the store, so that other processes do not
    matter; the copy is one from memory to memory, as on a machine without a GPU."""
    module = build(Model(arch="resnet50"), 1000)
    learner = Learner(module, Train(images=1, schedule=Schedule(lr=0.1)), rank=0)
    module(torch.zeros(2, 3, 32, 32)).sum().backward()
    learner.step(0.1)

    def stands_still(waits: bool) -> float:
        with tempfile.TemporaryDirectory() as folder:
            checkpoints = _Counted(folder)
            writer = Writer(checkpoints, MINUTES, lambda: None)
            begin = time.thread_time()
            writer.write(1, _snapshot(learner, {CURVE: [], STATE: {"step": 1}}))
            assert not checkpoints.seconds, "training waited for the store"
            copying = time.thread_time() - begin
            writer.wait()
        return copying + UPLOAD + checkpoints.seconds if waits else copying

    write_file = checkpoint.write_file

    def slow(uri: str, data: bytes) -> None:
        time.sleep(UPLOAD / 5)  # four files and their checksums
        write_file(uri, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "write_file", slow)
        found = interleave({"in the loop": lambda: stands_still(True), "in a thread": lambda: stands_still(False)})
    for arm, values in found.items():
        print_value("cloud", f"row 7: training stands still for a checkpoint written {arm}", values, "s")
    before = [100 * one / (THOUSAND_STEPS + one) for one in found["in the loop"]]
    now = [100 * one / (60 * MINUTES + one) for one in found["in a thread"]]
    print_value("cloud", "row 7: time lost to checkpoints in the loop, every 1,000 steps", before, "%")
    print_value("cloud", f"row 7: time lost to checkpoints in a thread, every {MINUTES:g} minutes", now, "%")


if __name__ == "__main__":
    row_7()
