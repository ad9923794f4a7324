"""Processes of a bench: each measurement runs in its own process, with its own Ray if it needs one."""

import argparse
import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

CORES = len(os.sched_getaffinity(0))

_HERE = Path(__file__).resolve().parent
_PATHS = [str(_HERE), str(_HERE.parents[1])]
# The processes of Ray and of peers import the modules of the benches, and raylabel from this repository.
os.environ["PYTHONPATH"] = os.pathsep.join([*_PATHS, os.environ.get("PYTHONPATH", "")])
sys.path[:0] = [path for path in _PATHS if path not in sys.path]


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls the function in a new process and returns its result. Only the page cache is warm there.

    Its output goes to stderr, because stdout is for figures.
    """
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin) as pool:
        return pool.submit(function, *arguments).result()


def _begin() -> None:
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process, and so its Ray, when the bench is killed; otherwise it would wait for work forever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


# stdin has (module, function, arguments); it stays open until the bench ends. The result goes to the original stdout.
_OTHER = """
import importlib, os, pickle, sys, threading, traceback
out = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
module, function, arguments = pickle.load(sys.stdin.buffer)
threading.Thread(target=lambda: (os.read(0, 1), os._exit(3)), daemon=True).start()
try:
    pickle.dump(getattr(importlib.import_module(module), function)(*arguments), out)
    out.flush()  # not closed before the end: the bench then closes stdin
except BaseException:
    traceback.print_exc()
    os._exit(1)
os._exit(0)
"""


def in_other_environment(python: str, module: str, function: str, *arguments: Any) -> Any:
    """`in_fresh_process` for a function of a module of the benches, by the interpreter of another environment.

    RuntimeError if the process fails.
    """
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([python, "-c", _OTHER], env=os.environ, **pipes) as process:
        assert process.stdin and process.stdout
        process.stdin.write(pickle.dumps((module, function, arguments)))
        process.stdin.flush()
        found = process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"{function} failed with status {process.returncode} in {python}")
    return pickle.loads(found)


def accuracy_arguments(
    doc: str | None, dataset: str = "", sets: Iterable[str] = (), longer: bool = False
) -> argparse.Namespace:
    """The command line of a bench of accuracies on one of the data sets of the tests; `doc` is its docstring. Or on
    several, of which the user may choose some: then `data` is the folder of all. `longer`: with an option `times`."""
    data, names = Path(__file__).resolve().parents[3] / "shared" / "data" / dataset, tuple(sets)
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(data))
    if names:
        parser.add_argument("--sets", nargs="+", choices=names, default=names, help="some of them; default: all")
    parser.add_argument(
        "--root", help="folder of the results, from which a later run resumes; default: a temporary folder"
    )
    parser.add_argument("--workers", type=int, default=2, help="training workers")
    if longer:
        parser.add_argument("--times", type=int, default=1, help="trainings so many times as long; default: 1")
    parser.add_argument("--quick", action="store_true", help="one seed and short trainings")
    return parser.parse_args()


def connect() -> None:
    """Starts a Ray for this process, with all cores and little output."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    ray.init(address="local", num_cpus=max(2, CORES), include_dashboard=False, **quiet)
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
