"""Training on a GPU: one group of one worker of Ray Train runs all checks, since starting it is what takes time."""

import hashlib
import json
import logging
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import DIGITS_VIEW
from on_gpu import GPU, MARKS
from trainings import digits_examples

from raylabel.compute.progress import make_board
from raylabel.models import Model
from raylabel.models.trained import CURVE
from raylabel.store.artifact import Root
from raylabel.training.checkpoint import Checkpoints
from raylabel.training.config import Train
from raylabel.training.ray_train import fit
from raylabel.training.schedule import Schedule
from raylabel.training.stream import Stream
from raylabel.training.task import TrainingTask

pytestmark = [*MARKS, pytest.mark.timeout(400)]

STEPS = 12
SAVED, STOPPED = 4, 6  # the steps after which a training is saved, and ended as if it had crashed
CONFIG = Train(images=64 * STEPS, batch=64, schedule=Schedule(lr=0.05, warmup=0), precision="fp32")

# The largest relative error of a convolution of 64 channels is 1e-6 in float32 (Winograd's algorithm has more), and
# 3e-4 with TF32; that of the matrix product is 1e-6 and 7e-5.
CONVOLUTION, PRODUCT = 5e-5, 2e-5


class Recorder:
    """What reaches the device in a training: (sha256 of the batch as the stream gave it, sum of its pixels in the
    stream, their sum on the device)."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, int]] = []
        self.sums: list[Any] = []  # on the device: reading them waits

    def rows(self) -> list[list]:
        return [[*batch, int(total)] for batch, total in zip(self.batches, self.sums, strict=False)]


def train(task: TrainingTask, folder: str, stop: int = 0, recorder: Recorder | None = None, **patches: Any) -> dict:
    """Trains in this worker, up to step `stop` if it is given; returns {step, saved, curve}. A checkpoint is written
    after step SAVED, and one at the end. `patches`: names in the module of the loop."""
    import torch

    from raylabel.training import loop

    recorder = recorder or Recorder()
    batches, normalise, after = Stream.batches, loop.normalise, loop.Agreement.after

    def watched(*arguments: Any) -> Iterator[Any]:
        for pixels, labels, soft in (found := batches(*arguments)):
            digest = hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()
            recorder.batches.append((digest, int(pixels.sum(dtype=np.int64))))
            yield pixels, labels, soft
        found.close()

    def counted(pixels: Any, view: Any) -> Any:
        recorder.sums.append(pixels.sum(dtype=torch.int64))
        return normalise(pixels, view)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stream, "batches", watched)
        patch.setattr(loop, "normalise", counted)
        patch.setattr(loop.Agreement, "after", lambda self, step: after(self, step)._replace(save=step == SAVED))
        for name, value in patches.items():
            patch.setattr(loop, name, value)
        checkpoints, step = Checkpoints(f"{folder}/net/scratch/checkpoints"), 0
        training = loop.steps(task, checkpoints)
        for step in training:
            if step == stop:
                training.close()
        while not (found := checkpoints.newest()).step:  # it is written in a thread
            time.sleep(0.1)
        return {"step": step, "saved": found.step, "curve": json.loads(found.files[CURVE])}


# The checks. Each runs in the worker, and returns what the test of its name looks at.


def group(task: TrainingTask, folder: str) -> dict:
    import ray.train.torch
    import torch.distributed

    device = ray.train.torch.get_device()
    return {"backend": torch.distributed.get_backend(), "device": device.type}


def sequence(task: TrainingTask, folder: str) -> dict:
    whole, first, rest = Recorder(), Recorder(), Recorder()
    one = train(task, f"{folder}/whole", recorder=whole)
    stopped = train(task, f"{folder}/resumed", stop=STOPPED, recorder=first)
    other = train(task, f"{folder}/resumed", recorder=rest)
    rows = {"whole": whole.rows(), "first": first.rows(), "rest": rest.rows()}
    return {**rows, "one": one, "stopped": stopped, "other": other}


def waits(task: TrainingTask, folder: str) -> dict:
    """Trains without anything that waits for the device inside a step, except where all ranks agree to stop."""
    import torch

    from raylabel.training import loop

    after = loop.Agreement.after
    mode = torch.cuda.set_sync_debug_mode if GPU else lambda _: None
    strict, last = [False], 40

    def agreeing(self: Any, step: int) -> Any:
        mode("default")
        try:
            return after(self, step)
        finally:
            mode("error" if strict[0] else "default")

    task = replace(task, config=replace(task.config, images=64 * last))
    done = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Agreement, "after", agreeing)
        patch.setattr(loop, "POINTS", 1)  # one point of the curve, after the last step
        try:
            for step in loop.steps(task, Checkpoints(f"{folder}/net/scratch/checkpoints")):
                # The first steps copy constants to the device, and DDP arranges its buckets in the second.
                strict[0] = 3 <= step < last - 1
                mode("error" if strict[0] else "default")
                done += strict[0]
        finally:
            mode("default")
    return {"strict": done}


def waits_are_noticed(task: TrainingTask, folder: str) -> dict:
    """That the check above would notice: the loop's sum of the images used to wait in this way."""
    import torch

    if not GPU:
        return {"error": "synchronizing"}
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.zeros(1, device="cuda").new_tensor(3)
        return {"error": ""}
    except RuntimeError as error:
        return {"error": str(error)}
    finally:
        torch.cuda.set_sync_debug_mode("default")


def tf32(task: TrainingTask, folder: str) -> dict:
    """The largest relative error of a convolution on the device after a training in fp32."""
    import ray.train.torch
    import torch

    train(task, folder, stop=SAVED)
    device = ray.train.torch.get_device()
    images, weights = torch.randn(8, 64, 16, 16), torch.randn(64, 64, 3, 3)
    exact = torch.nn.functional.conv2d(images.double(), weights.double(), padding=1)
    found = torch.nn.functional.conv2d(images.to(device), weights.to(device), padding=1).cpu().double()
    product = (weights.flatten(1).to(device) @ weights.flatten(1).T.to(device)).cpu().double()
    true = weights.flatten(1).double() @ weights.flatten(1).T.double()
    return {
        "convolution": float((found - exact).abs().max() / exact.abs().max()),
        "product": float((product - true).abs().max() / true.abs().max()),
    }


def settings_of_torch(task: TrainingTask, folder: str) -> dict:
    """The curve with each setting of PyTorch that changes how a step is computed, and not what."""
    import torch

    from raylabel.training import loop

    def compiled(*arguments: Any) -> Any:
        module = start(*arguments)
        module.compile()  # in place, so that the names of the weights stay
        return module

    start = loop.start_network
    found = {"as it is": train(task, f"{folder}/0")["curve"]}
    torch.backends.cudnn.benchmark = True
    try:
        found["cudnn.benchmark"] = train(task, f"{folder}/1")["curve"]
    finally:
        torch.backends.cudnn.benchmark = False
    found["contiguous"] = train(task, f"{folder}/2", memory_format=lambda _: torch.contiguous_format)["curve"]
    if GPU:
        found["compiled"] = train(task, f"{folder}/3", start_network=compiled)["curve"]
    bf16 = replace(task, precision="bf16")
    found["bf16"] = train(bf16, f"{folder}/4")["curve"]
    return found


CHECKS = (group, sequence, waits, waits_are_noticed, tf32, settings_of_torch)


def run_checks(settings: dict[str, Any]) -> None:
    """The function of the worker. Each result is written when it is there, and an error does not stop the others."""
    from raylabel.training import loop

    if not GPU:  # the worker is this process
        loop.handle_sigterm = lambda: None
    for check in CHECKS:
        try:
            found = check(settings["task"], f"{settings['folder']}/{check.__name__}")
        except Exception:
            found = {"failed": traceback.format_exc()}
        Path(settings["folder"], f"{check.__name__}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def found(ray_gpu: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable], Any]:
    """The result of a check by its function."""
    folder = tmp_path_factory.mktemp("training")
    examples = digits_examples(Root.open(str(folder / "root")), folder)
    task = TrainingTask(
        model=Model(arch="resnet8x1"),
        classes=10,
        examples=examples,
        config=CONFIG,
        view=DIGITS_VIEW,
        seed=3,
        precision="fp32",
        board=make_board(),
    )
    if not GPU:
        import torch.distributed

        group = tempfile.mkdtemp()
        torch.distributed.init_process_group("gloo", f"file://{group}/group", world_size=1, rank=0)
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    outcome = fit(run_checks, {"task": task, "folder": str(folder)}, str(folder / "ray_train"), int(GPU), GPU)
    error = outcome.exception(350)

    def result(check: Callable) -> Any:
        path = folder / f"{check.__name__}.json"
        assert path.exists(), f"the worker ended before this check: {error}"
        read = json.loads(path.read_text())
        assert "failed" not in read, read["failed"]
        return read

    return result


def test_one_worker_trains_on_the_gpu_with_nccl(found):
    assert found(group) == ({"backend": "nccl", "device": "cuda"} if GPU else {"backend": "gloo", "device": "cpu"})


def test_a_training_that_is_resumed_sees_the_same_sequence(found):
    rows = found(sequence)
    assert len(rows["whole"]) == STEPS and rows["one"]["step"] == rows["other"]["step"] == STEPS
    assert rows["stopped"] == {"step": STOPPED, "saved": SAVED, "curve": rows["stopped"]["curve"]}
    assert rows["first"][:STOPPED] == rows["whole"][:STOPPED]  # the stream may have given more
    assert rows["rest"] == rows["whole"][SAVED:]  # from the checkpoint on
    one, other = ([point["loss"] for point in rows[name]["curve"]] for name in ("one", "other"))
    assert one == pytest.approx(other, rel=1e-3)  # kernels may add in another order
    assert [point["accuracy"] for point in rows["one"]["curve"]][-1] > 0.1


def test_what_reaches_the_gpu_is_what_the_stream_gave(found):
    """The copy to the GPU is asynchronous: the memory is not used again before it is done."""
    for name in ("whole", "rest"):
        assert all(there == here for _, here, there in found(sequence)[name])


def test_no_step_waits_for_the_gpu(found):
    assert found(waits)["strict"] == 36
    assert "synchronizing" in found(waits_are_noticed)["error"]


def test_fp32_is_not_tf32(found):
    errors = found(tf32)
    assert errors["convolution"] < CONVOLUTION and errors["product"] < PRODUCT


def test_settings_of_torch_change_no_result(found):
    curves = found(settings_of_torch)
    losses = {name: [point["loss"] for point in curve] for name, curve in curves.items()}
    for name, values in losses.items():
        assert len(values) == STEPS
        assert values == pytest.approx(losses["as it is"], rel=0.1 if name == "bf16" else 0.01), name
