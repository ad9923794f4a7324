"""The training loop, compared with a plain PyTorch loop, and its result after a SIGKILL, which must be the same."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import DIGITS_VIEW, contents
from paths import PYTHONPATH
from torch.nn import functional
from trainings import MODEL, digits_examples, fit, in_this_process

from raylabel.errors import InputError
from raylabel.media.image_views import normalise
from raylabel.models.build import build
from raylabel.models.trained import CURVE, load_model
from raylabel.store.artifact import Artifact, Root
from raylabel.training.config import Train
from raylabel.training.schedule import Schedule, lr_at
from raylabel.training.stream import Stream


def plain_loop(examples: Artifact, config: Train, module: torch.nn.Module, world: int = 1) -> torch.nn.Module:
    """Computes in one process what `world` workers should: BatchNorm sees only each worker's share of the batch."""
    module = module.to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.SGD(module.parameters(), 1, momentum=config.momentum, weight_decay=config.weight_decay)
    parts = [
        Stream(examples, 3).batches(DIGITS_VIEW, config.batch, 0, config.processed, r, world) for r in range(world)
    ]
    for step, shares in enumerate(zip(*parts, strict=True)):
        optimizer.param_groups[0]["lr"] = lr_at(config.schedule, step * config.batch, config.processed)
        optimizer.zero_grad()
        for pixels, labels in shares:
            logits = module(normalise(torch.from_numpy(pixels), DIGITS_VIEW))
            loss = functional.cross_entropy(logits, torch.tensor(labels), reduction="sum")
            (loss / sum(len(labels) for _, labels in shares)).backward()
        optimizer.step()
    return module


def distance(a: torch.nn.Module, b: torch.nn.Module) -> float:
    """Largest absolute difference of a parameter. Buffers are left out: BatchNorm's are those of rank 0."""
    return max((x - y).abs().max().item() for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_trainings_match_a_plain_loop_and_write_a_curve(ray_local, tmp_path):
    root = Root.open(str(tmp_path / "root"))
    examples = digits_examples(root, tmp_path)
    # Few steps at a low rate, because the order of sums and so the rounding differs, and SGD amplifies it.
    config = Train(images=330, batch=64, schedule=Schedule(lr=0.01), precision="fp32")
    torch.manual_seed(3)
    reference = plain_loop(examples, config, build(MODEL, 10), world=3)
    made = fit(root, examples, config, workers=3)  # shares of 24, 24 and 16 images
    assert made.info["workers"] == 3
    assert distance(load_model(made), reference) < 1e-4
    torch.manual_seed(3)
    assert distance(load_model(made), plain_loop(examples, config, build(MODEL, 10))) > 1e-3  # BatchNorm is per worker
    curve = json.loads(made.read(CURVE))
    assert [point["images"] for point in curve] == [64, 128, 192, 256, 320, 384]
    assert all(np.isfinite(point["loss"]) and 0 <= point["accuracy"] <= 1 for point in curve)
    with in_this_process(tmp_path):
        again = fit(root, examples, config, init=made)  # one worker, from the weights of `made`
    assert distance(load_model(again), plain_loop(examples, config, load_model(made))) < 1e-4


def test_a_loss_that_is_not_a_number_is_an_error(ray_local, tmp_path):
    root = Root.open(str(tmp_path / "root"))
    wild = Train(images=6_400, batch=64, schedule=Schedule(lr=1e30, warmup=0), precision="fp32")
    with pytest.raises(InputError, match="loss is not a number.*lower the learning rate"):
        fit(root, digits_examples(root, tmp_path), wild)
    assert root.named("net") == []


SCRIPT = """
import logging, sys
import ray
from pathlib import Path
from raylabel.store.artifact import Root
from trainings import fit, digits_examples
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
root = Root.open({root!r})
fit(root, digits_examples(root, Path({root!r})))
"""


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_bytes(tmp_path):
    def start(root: Path) -> subprocess.Popen:
        root.mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT.format(root=str(root))],
            env={**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{PYTHONPATH}"},
        )

    clean, killed = tmp_path / "clean", tmp_path / "killed"
    assert start(clean).wait(200) == 0

    process = start(killed)
    deadline = time.monotonic() + 200
    while not list(killed.glob("net-*/scratch/checkpoints/*/checksums.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(killed.glob("net-*/manifest.json")), "the run ended before it was killed"

    assert start(killed).wait(200) == 0
    (one,), (two,) = (Root.open(str(r)).named("net") for r in (clean, killed))
    assert contents(one) == contents(two) and one.digest == two.digest
    assert two.info["images"] < one.info["images"]  # it resumed and did not start again
