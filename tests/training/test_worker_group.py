"""The loss of workers is distinguished from an error of the loop itself."""

import multiprocessing
import os
import pickle
import signal
from datetime import timedelta
from pathlib import Path

import pytest
import ray.exceptions
import ray.train
import torch
import torch.distributed

from raylabel.compute.resources import Cluster, Node, Resources
from raylabel.training.worker_group import Workers, _lost


def _wait(rank: int, folder: str, end: str) -> None:
    """Rank 1 is killed or stopped. Rank 0 waits for it, fails, and writes its error to a file."""
    wait = timedelta(seconds=5 if end == "stopped" else 100)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", wait, 2, rank)
    torch.distributed.all_reduce(torch.ones(1))
    if rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP if end == "stopped" else signal.SIGKILL)
    try:
        torch.distributed.all_reduce(torch.ones(1))
    except Exception as error:
        Path(folder, "error").write_bytes(pickle.dumps(error))


@pytest.mark.slow
@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_a_worker_that_waited_for_a_lost_worker_counts_as_lost(end, tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_wait, args=(rank, str(tmp_path), end)) for rank in (0, 1)]
    for process in processes:
        process.start()
    processes[0].join(100)
    processes[1].kill()
    processes[1].join(10)
    error = pickle.loads((tmp_path / "error").read_bytes())
    assert "lost worker 0" in _lost(ray.train.WorkerGroupError("", {0: error}))
    assert not _lost(ray.train.WorkerGroupError("", {0: error, 1: ValueError("a bug")}))
    dead = ray.exceptions.ActorDiedError()
    assert "lost worker 1 (ActorDiedError" in _lost(ray.train.WorkerGroupError("", {0: error, 1: dead}))
    assert not _lost(ray.train.WorkerGroupError("", {0: ValueError("a bug")}))


@pytest.mark.parametrize("kind", [torch.AcceleratorError, RuntimeError])
def test_a_worker_whose_gpu_failed_counts_as_lost(kind: type[RuntimeError]):
    failed = pickle.loads(pickle.dumps(kind("CUDA error: uncorrectable ECC error encountered\nDebug with ...")))
    waited = torch.distributed.DistBackendError("NCCL communicator was aborted on rank 0")
    found = _lost(ray.train.WorkerGroupError("", {0: waited, 1: failed}))
    assert found == f"lost worker 1 ({kind.__name__}: CUDA error: uncorrectable ECC error encountered Debug with ...)"
    assert not _lost(ray.train.WorkerGroupError("", {0: torch.OutOfMemoryError("CUDA out of memory.")}))


@pytest.mark.parametrize(
    "batch, count, room, faster",
    [(256, 63, 64, True), (256, 64, 85, False), (256, 64, 86, True), (96, 48, 64, False), (96, 32, 31, False)],
)
def test_a_training_restarts_only_if_more_workers_have_smaller_shares(batch, count, room, faster):
    class Stream:
        def check_workers(self, *_):
            pass

    workers = Workers(Resources(workers=count), Cluster((Node(count, count),)), batch, Stream(), None)  # pyright: ignore
    assert workers._faster(room) == faster == (-(-batch // room) < -(-batch // count))
