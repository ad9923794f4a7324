"""The training loop, compared with a plain PyTorch loop, and its result after a SIGKILL, which must be the same."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import DIGITS_VIEW, contents
from paths import PYTHONPATH
from torch.nn import functional
from trainings import MODEL, digits_examples, fit, in_this_process

from raylabel.errors import InputError
from raylabel.media.image_views import normalise
from raylabel.models.build import build
from raylabel.models.trained import CURVE, WEIGHTS, load_model
from raylabel.store.artifact import RECIPE, Artifact, Root, digest, identity_of
from raylabel.training import checkpoint, loop, preemption
from raylabel.training.checkpoint import STATE, Checkpoints, Writer
from raylabel.training.config import Train
from raylabel.training.learner import MOMENTUM, Learner
from raylabel.training.preemption import Agreement, Decision
from raylabel.training.schedule import Schedule, lr_at
from raylabel.training.stream import Stream


def plain_loop(
    examples: Artifact,
    config: Train,
    module: torch.nn.Module,
    world: int = 1,
    optimizer: torch.optim.SGD | None = None,
) -> torch.nn.Module:
    """Computes in one process what `world` workers should: BatchNorm sees only each worker's share of the batch."""
    module = module.to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    decay = config.weight_decay
    optimizer = optimizer or torch.optim.SGD(module.parameters(), 1, momentum=config.momentum, weight_decay=decay)
    parts = [
        Stream(examples, 3).batches(DIGITS_VIEW, config.batch, 0, config.processed, r, world) for r in range(world)
    ]
    for step, shares in enumerate(zip(*parts, strict=True)):
        optimizer.param_groups[0]["lr"] = lr_at(config.schedule, step * config.batch, config.processed)
        optimizer.zero_grad()
        for pixels, labels, _ in shares:
            logits = module(normalise(torch.from_numpy(pixels), DIGITS_VIEW))
            loss = functional.cross_entropy(logits, torch.tensor(labels), reduction="sum")
            (loss / sum(len(labels) for _, labels, _ in shares)).backward()
        optimizer.step()
    return module


def distance(a: torch.nn.Module, b: torch.nn.Module) -> float:
    """Largest absolute difference of a parameter. Buffers are left out: BatchNorm's are those of rank 0."""
    return max((x - y).abs().max().item() for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_trainings_that_continue_each_other_keep_the_momentum(ray_local, tmp_path):
    root = Root.open(str(tmp_path / "root"))
    examples = digits_examples(root, tmp_path)
    config = Train(images=192, batch=64, schedule=Schedule(lr=0.05, warmup=0, drops=0), precision="fp32")
    with in_this_process(tmp_path):
        first, alone = (fit(root, examples, config, continued=one) for one in (True, False))
        found = [fit(root, examples, config, init=first, continued=one) for one in (True, False)]
    assert first.read(WEIGHTS) == alone.read(WEIGHTS)
    assert [bool(one.files(MOMENTUM)) for one in (first, alone, *found)] == [True, False, True, False]
    module = load_model(first)
    optimizer = torch.optim.SGD(module.parameters(), 1, momentum=config.momentum, weight_decay=config.weight_decay)
    momentum = safetensors.torch.load(first.read(MOMENTUM))
    for name, parameter in module.named_parameters():
        optimizer.state[parameter]["momentum_buffer"] = momentum[name].clone()
    expected = plain_loop(examples, config, module, optimizer=optimizer)
    assert distance(load_model(found[0]), expected) < 1e-5 < distance(load_model(found[1]), expected)


@pytest.mark.slow
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


@pytest.fixture(scope="module")
def alone(ray_local, tmp_path_factory) -> Iterator[tuple[Artifact, Artifact]]:
    """EXAMPLES, and a network that one worker in this process trained on them without an interruption.

    Points of the curve are two steps apart.
    """
    folder = tmp_path_factory.mktemp("alone")
    root = Root.open(str(folder / "root"))
    examples = digits_examples(root, folder)
    with in_this_process(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "POINTS", 15)
        yield examples, fit(root, examples, SHORT)


SHORT = Train(images=30 * 64, batch=64, schedule=Schedule(lr=0.05), precision="fp32", checkpoint_minutes=1e-6)


@pytest.mark.slow
def test_curve_and_weights_do_not_depend_on_when_checkpoints_are_written(alone, tmp_path, monkeypatch):
    examples, clean = alone
    after = Agreement.after

    def stop_twice(self: Agreement, step: int) -> Decision:
        return after(self, step)._replace(stop=step in (7, 12), save=step in (3, 5, 20))

    monkeypatch.setattr(Agreement, "after", stop_twice)
    made = fit(Root.open(str(tmp_path)), examples, SHORT)
    assert contents(made) == contents(clean)


def test_training_goes_on_while_a_checkpoint_is_written(alone, tmp_path, monkeypatch):
    examples, clean = alone
    later, saved, write_file = threading.Event(), list[int](), checkpoint.write_file
    after, write = Agreement.after, Writer.write

    def slow(uri: str, data: bytes) -> None:
        assert later.wait(30), "training waits for the checkpoint"
        write_file(uri, data)

    def counted(self: Agreement, step: int) -> Decision:
        if step > 20:
            later.set()
        return after(self, step)

    monkeypatch.setattr(checkpoint, "write_file", slow)
    monkeypatch.setattr(preemption, "AGREE", 0.0)  # rank 0 says after each step that a checkpoint is due
    monkeypatch.setattr(Agreement, "after", counted)
    monkeypatch.setattr(Writer, "write", lambda self, step, make: saved.append(step) or write(self, step, make))
    made = fit(Root.open(str(tmp_path)), examples, SHORT)
    assert contents(made) == contents(clean)
    assert saved[0] == 1 and saved[1] > 20 and saved[-1] == 30  # none while the first was being written


def test_a_checkpoint_does_not_depend_on_later_steps():
    module = build(MODEL, 10)
    learner = Learner(module, SHORT, rank=0)

    def step() -> None:
        module(torch.randn(4, 3, 8, 8)).sum().backward()
        learner.step(0.1)

    step()
    curve, state = [{"loss": 1.0}], {"step": 1}
    make = loop._snapshot(learner, {CURVE: curve, STATE: state})
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    step()
    curve.append({"loss": 2.0})
    files = make()
    assert files == make() and json.loads(files[CURVE]) == [{"loss": 1.0}] and json.loads(files[STATE])["step"] == 1
    for name, tensor in safetensors.torch.load(files[WEIGHTS]).items():
        assert torch.equal(tensor, weights[name]), name
    kept = safetensors.torch.load(files[MOMENTUM])
    now = learner.tensors()[MOMENTUM]
    assert kept.keys() == now.keys() and not torch.equal(kept["fc.weight"], now["fc.weight"])


def test_a_checkpoint_that_cannot_be_written_ends_the_training(alone, tmp_path, monkeypatch):
    steps: list[int] = []
    after = Agreement.after

    def full(uri: str, data: bytes) -> None:
        raise InputError("cannot write here: the disk is full")

    def slowly(self: Agreement, step: int) -> Decision:
        steps.append(step)
        time.sleep(0.05)
        return after(self, step)

    monkeypatch.setattr(checkpoint, "write_file", full)
    monkeypatch.setattr(Agreement, "after", slowly)
    with pytest.raises(InputError, match="the disk is full"):
        fit(Root.open(str(tmp_path)), alone[0], SHORT)
    assert len(steps) < 10


@pytest.mark.slow
def test_an_unfinished_training_of_version_0_1_is_continued(alone, tmp_path, monkeypatch):
    examples, clean = alone
    after = Agreement.after

    def end(self: Agreement, step: int) -> Decision:
        if step == 8:
            raise KeyError("the driver was killed")
        return after(self, step)._replace(save=step == 7)

    with monkeypatch.context() as patch:
        patch.setattr(Agreement, "after", end)
        patch.setattr(Writer, "due", lambda self: False)
        patch.setattr(Writer, "check", Writer.wait)
        with pytest.raises(Exception, match="the driver was killed"):
            fit(Root.open(str(tmp_path)), examples, SHORT)
    (draft,) = tmp_path.glob("net-*")
    recipe = json.loads((draft / RECIPE).read_text())
    recipe["identity"]["view"] = identity_of(DIGITS_VIEW)
    (draft / RECIPE).write_text(json.dumps(recipe))
    old = draft.rename(tmp_path / f"net-{digest(recipe['identity'])}")
    checkpoints = Checkpoints(f"{old}/scratch/checkpoints")
    found = checkpoints.newest()
    assert found.step == 7 and old.name != draft.name
    state = json.loads(found.files[STATE])
    ((loss, correct),) = state["sums"]
    assert loss > 0  # of one step since the last point of the curve
    before = {"step": 7, "sums": [loss, correct, 64.0], "passed_over": []}
    checkpoints.save(7, {**found.files, STATE: json.dumps(before).encode()})
    made = fit(Root.open(str(tmp_path)), examples, SHORT)
    assert made.uri == str(old) and made.info["images"] == 23 * 64
    assert contents(made) == contents(clean)
    assert fit(Root.open(str(tmp_path)), examples, SHORT) == made  # found, and not trained again


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
