"""Fault injection: faults that a driver of the fault tests enables in itself and in each of Ray's workers.

Every commit on a disk is a rename. So a process that dies while it writes the file to rename, right before the rename
or right after it leaves every possible state.
"""

import json
import os
import re
import signal
import time
from typing import Any

VARIABLE = "RAYLABEL_TEST_FAULTS"


def arm() -> None:
    """Injects the faults of the environment variable: {"driver": pid, "kill": [pattern, when], "slow": [...], ...}.

    "kill": kills the driver and the process that renames, at the first rename to a path that matches; `when` is
    "before", "after", or "torn", which is with half of the bytes written.
    "slow": [pattern, seconds that a rename to a matching path takes].
    "network", "training": [additional seconds for each batch that is scored or trained on, a file that ends this].
    """
    faults: dict[str, Any] = json.loads(os.environ[VARIABLE])
    rename = os.replace
    file, when = faults.get("kill") or (None, None)
    part, seconds = faults.get("slow") or (None, 0.0)

    def replace(source: Any, target: Any) -> None:
        hit = file is not None and re.search(file, str(target))
        if part is not None and re.search(part, str(target)):
            time.sleep(seconds)
        if hit and when == "torn":
            os.truncate(source, os.path.getsize(source) // 2)
        if hit and when != "after":
            _die(faults["driver"])
        rename(source, target)
        if hit and when == "after":
            _die(faults["driver"])

    os.replace = replace
    if "network" in faults:
        _slow_network(*faults["network"])
    if "training" in faults:
        _slow_training(*faults["training"])


def _slow_network(seconds: float, end: str) -> None:
    from raylabel.inference.network import Network

    forward = Network._forward

    def slow(self: Network, module: Any, pixels: Any) -> Any:
        time.sleep(0 if os.path.exists(end) else seconds)
        return forward(self, module, pixels)

    Network._forward = slow


def _slow_training(seconds: float, end: str) -> None:
    from raylabel.training.stream import Stream

    batches = Stream.batches

    def slow(self: Stream, *arguments: Any) -> Any:
        for batch in batches(self, *arguments):
            time.sleep(0 if os.path.exists(end) else seconds)
            yield batch

    for name, put in [("batches", slow)]:  # by setattr, because its type is narrower
        setattr(Stream, name, put)


def _die(driver: int) -> None:
    os.kill(driver, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
