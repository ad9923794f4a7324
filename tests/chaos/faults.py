"""Faults inside the processes of a run: what a driver of the fault tests arms in itself and in each of Ray's workers.

Every commit on a disk is a rename, so a process that dies while it writes what it is going to rename, right before it
does or right after leaves every state there is.
"""

import json
import os
import re
import signal
import time
from typing import Any

VARIABLE = "RAYLABEL_TEST_FAULTS"


def arm() -> None:
    """Wraps os.replace as the environment says: {"driver": pid, "kill": [pattern, when], "slow": [...]}.

    "kill": the driver and the process that renames, at the first rename to a path that matches; `when` is "before",
    "after", or "torn": with half of the bytes written.
    "slow": [pattern, seconds that such a rename takes].
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


def _die(driver: int) -> None:
    os.kill(driver, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
