"""Where a bench runs: each measurement in a process of its own, with a Ray of its own where it needs one."""

import logging
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

CORES = len(os.sched_getaffinity(0))

_HERE = Path(__file__).resolve().parent
_PATHS = [str(_HERE), str(_HERE.parents[1])]
# The processes of Ray and of peers import the modules of the benches, and raylabel from beside them.
os.environ["PYTHONPATH"] = os.pathsep.join([*_PATHS, os.environ.get("PYTHONPATH", "")])
sys.path[:0] = [path for path in _PATHS if path not in sys.path]


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns in a new process that ends with it; nothing is warm there but the page cache.

    What it prints goes to stderr: stdout is for figures.
    """
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin) as pool:
        return pool.submit(function, *arguments).result()


def _begin() -> None:
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process, and with it its Ray, when the bench is killed: it would wait for work for ever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def connect() -> None:
    """Starts a Ray of this process's own, with all its cores and few words."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    ray.init(address="local", num_cpus=max(2, CORES), include_dashboard=False, **quiet)
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
