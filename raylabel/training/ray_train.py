"""One run of Ray Train: a group of workers that execute a function."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import ray
import ray.train
import ray.train.torch

from raylabel.store.files import filesystem

SILENCE = 240  # seconds that a worker waits for the others in a collective operation before it fails

# Seconds that Ray Train itself waits for that room; then the room is computed again. Ray Train may have waited for a
# machine that was lost just before, when Ray did not know it yet.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "15")


def fit(
    loop: Callable[[dict[str, Any]], None],
    settings: dict[str, Any],
    storage: str,
    workers: int,
    gpu: bool,
    failures: int = 0,
    held: bool = False,
) -> Future[None]:
    """Runs the loop on that many workers, each with the settings. `failures`: how often Ray Train may restart them.
    `held`: they reserve their GPUs, but not their CPUs, which others use while these workers wait.

    `storage`: the folder in which Ray Train stores its state. No checkpoints are reported to Ray Train.
    """
    fs, path = filesystem(storage)
    needs: dict[str, Any] = _held(gpu) if held else {"resources_per_worker": {"CPU": 1}}
    trainer = ray.train.torch.TorchTrainer(
        loop,
        train_loop_config=settings,
        torch_config=ray.train.torch.TorchConfig(timeout_s=SILENCE),
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=gpu, **needs),
        run_config=ray.train.RunConfig(
            name="run",
            storage_path=path,
            storage_filesystem=fs,
            failure_config=ray.train.FailureConfig(
                max_failures=failures, max_preemption_failures=failures, controller_failure_limit=failures
            ),
        ),
    )
    # Not in the main thread: there Ray Train would install a handler of its own for Ctrl-C, and keep it.
    return in_thread(trainer.fit)


def _held(gpu: bool) -> dict[str, Any]:
    """Where workers are that reserve no CPU: a hundredth of one would leave no room for a task beside it on a machine
    with one. Without GPUs they are spread over the machines that have CPUs, which the head of a cluster may lack."""
    if gpu:
        return {"resources_per_worker": {"GPU": 1}}
    without = [node["NodeID"] for node in ray.nodes() if node["Alive"] and not node["Resources"].get("CPU")]
    selector = {"ray.io/node-id": f"!in({','.join(without)})"} if without else None
    # Ray takes no empty bundle, and each machine has memory.
    return {"resources_per_worker": {"memory": 1}, "placement_strategy": "SPREAD", "label_selector": selector}


def in_thread(call: Callable[[], Any]) -> Future[None]:
    """The end of a call in a thread of its own."""
    outcome: Future[None] = Future()

    def run() -> None:
        try:
            call()
        except BaseException as error:  # raised again where the result is read
            outcome.set_exception(error)
        else:
            outcome.set_result(None)

    threading.Thread(target=run, name="train", daemon=True).start()
    return outcome
