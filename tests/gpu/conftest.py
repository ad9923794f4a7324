"""What the tests on a GPU share. One GPU with 16 cores runs all of them in about seven minutes:

    python -m pytest tests/gpu

They need no network and no more than raylabel's dependencies and pytest. Without a GPU each is skipped. With
RAYLABEL_GPU_TESTS=cpu they run on a CPU instead, with nothing compiled: that finds mistakes in the tests themselves.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from on_gpu import DEVICE, GPU


@pytest.fixture(scope="session")
def gpu() -> None:
    if GPU and not torch.cuda.is_available():
        pytest.skip("no GPU on this machine (torch.cuda.is_available() is false)")


@pytest.fixture(scope="session")
def compiled(gpu: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], set[str]]]:
    """An empty folder for compiled networks, which other processes find too; the call returns what is in it."""
    folder = tmp_path_factory.mktemp("compiled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
        yield lambda: {path.name for path in folder.glob("fxgraph/*/*")}


@pytest.fixture(scope="session")
def ray_gpu(compiled: object) -> Iterator[None]:
    """A local Ray with this machine's GPU."""
    import ray

    ray.init(
        address="local",
        num_cpus=None if GPU else 4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=1_000_000_000,
    )
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    yield
    ray.shutdown()


@pytest.fixture
def released(ray_gpu: None) -> Callable[[], None]:
    """Asserts that the GPU is free again: for Ray, and its memory, as before the test."""
    import ray

    total = ray.cluster_resources().get("GPU", 0)
    before = used()

    def check() -> None:
        deadline = time.monotonic() + 30  # Ray updates its counts with a delay
        while (free := ray.available_resources().get("GPU", 0)) < total or used() > before + (100 << 20):
            assert time.monotonic() < deadline, f"{free} of {total} GPUs are free, {used() - before} bytes are held"
            time.sleep(0.2)

    return check


def used() -> int:
    """Bytes of the GPU's memory that all processes hold, except what this one has cached."""
    if not GPU:
        return 0
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(DEVICE)
    return total - free


@pytest.fixture(autouse=True)
def _seconds(request: pytest.FixtureRequest) -> Iterator[None]:
    """Shows how long each test took, also if the run is cut off."""
    begin = time.monotonic()
    yield
    name = Path(request.node.nodeid).name
    capture: Any = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f" {name}: {time.monotonic() - begin:.0f} s", flush=True)


assert os.environ.get("RAYLABEL_GPU_TESTS", "cuda") in ("cuda", "cpu")
