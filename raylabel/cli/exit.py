"""How a job ends when it does not end well: one readable block on stderr, and a status that says whose turn it is.

2: input that a person can mend. 130 and 143: stopped, by Ctrl-C or by SIGTERM. 1: everything else.
"""

import errno
import glob
import os
import re
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from ray import exceptions as of_ray

from raylabel.compute.ray_internals import logs_folder, spill_folder
from raylabel.errors import causes, find_input_error
from raylabel.media.sandbox.sandbox import SandboxError
from raylabel.text import printable

GRACE = 25.0
"""Seconds that it may take to end in order: a machine that is taken away is gone after 30."""
LINES = 15  # of a dead process's last words
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
AGAIN = "the same command goes on from what is committed"
STOPPING = f"stopping, which takes up to {GRACE:.0f} s: if it is cut short, {AGAIN} too"

_terminated = False


@contextmanager
def readable() -> Iterator[None]:
    """Ends the process with a readable block and the status if the block fails in whatever way, or is stopped."""
    stop_on_sigterm()
    try:
        yield
    except KeyboardInterrupt:
        _leave(143 if _terminated else 130, f"stopped: {AGAIN}")
    except Exception as error:
        if mendable := find_input_error(error):
            _leave(2, f"error: {printable(str(mendable))}")
        _leave(1, explain(error))


def stop_on_sigterm() -> None:
    """From now on SIGTERM, the word that a machine is taken away or a job is stopped, interrupts as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(signum: int, frame: FrameType | None) -> None:
    global _terminated
    if not _terminated:  # at once, for it may be the last word: whoever sends SIGTERM may soon send SIGKILL
        with suppress(OSError):  # stderr may be closed
            os.write(2, f"{STOPPING}\n".encode())  # a signal may come in the middle of a print
    _terminated = True
    _end_within_grace(143)
    raise KeyboardInterrupt


def _leave(status: int, text: str) -> NoReturn:
    # Names of files and words of other processes are in it: nothing of them steers the terminal.
    print("\n".join(map(printable, text.split("\n"))), file=sys.stderr, flush=True)
    _end_within_grace(status)
    sys.exit(status)


def _end_within_grace(status: int) -> None:
    """Whatever is committed is whole, so an ending that hangs may be cut short."""
    guard = threading.Timer(GRACE, os._exit, (status,))
    guard.daemon = True
    guard.start()


def explain(error: BaseException) -> str:
    """What happened and what to do, in words; where nobody foresaw it, the traceback that says where."""
    found = causes(error)
    remote = [COLOURS.sub("", str(one)) for one in found if isinstance(one, of_ray.RayTaskError)]  # its traceback
    place = re.search(r"\bip=([^\s,)]+)", remote[-1]) if remote else None
    machine = f" on {place[1]}" if place else ""
    for one in reversed(found):
        if words := _known(one, machine):
            return f"error: {words}. Then {AGAIN}"
    where = remote[-1] if remote else "".join(traceback.format_exception(error))
    what = f"{type(found[-1]).__name__}: {found[-1]}".partition("\n")[0]
    told = "this is not foreseen; the lines above say where it happened"
    return f"{where.rstrip()}\nerror: {what}: {told}. Once it is mended {AGAIN}"


def _known(error: BaseException, machine: str) -> str:
    """What is known of an error of this kind, and the mend; empty if nothing is."""
    if isinstance(error, of_ray.OutOfDiskError):
        return f"the disk of Ray's spill folder is full{machine}{_spill_folder()}. {SPILL}"
    if isinstance(error, of_ray.ObjectStoreFullError):
        return f"Ray's object store is full{machine}. {STORE}"
    if isinstance(error, of_ray.OutOfMemoryError):
        return f"out of memory: {_first_lines(error)}. {MEMORY}"
    if isinstance(error, of_ray.NodeDiedError | of_ray.LocalRayletDiedError | of_ray.ObjectLostError):
        return f"a machine of the cluster was lost too often: {_first_lines(error)}. Bring it back or take another"
    if isinstance(error, of_ray.RayActorError | of_ray.WorkerCrashedError):
        return f"a process died too often: {_first_lines(error)}. {_last_words(str(error))}"
    if isinstance(error, SandboxError):
        return f"the sandbox that decodes media does not work{machine}: {error}. Its own words are in {_logs()}"
    if isinstance(error, of_ray.RaySystemError | of_ray.RpcError | of_ray.RuntimeEnvSetupError):
        return f"Ray itself failed: {_first_lines(error)}. Its logs are in {_logs()}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left{machine}: {error}. Free some there"
    if type(error).__name__ == "OutOfMemoryError":  # of torch, on a GPU
        return f"out of GPU memory: {_first_lines(error)}. Lower --label.batch, or the batch of the training it was in"
    return ""


SPILL = (
    "What does not fit the object store is written there. Free some space, or name another folder when Ray is started: "
    "--object-spilling-directory of `ray start`, RAY_object_spilling_directory where this job starts its own"
)
STORE = (
    "Give it more memory when Ray is started: --object-store-memory of `ray start`, "
    "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES where this job starts its own"
)
MEMORY = "Ask for fewer processes a machine (--resources.teachers, --resources.workers) or a smaller --label.batch"


def _first_lines(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines[:6]).rstrip(".")


def _spill_folder() -> str:
    folder = spill_folder()
    if not folder or not os.path.isdir(folder):
        return ""  # known to the machine that it is on
    usage = shutil.disk_usage(folder)
    return f": {folder} ({usage.free / 1e6:,.0f} of {usage.total / 1e6:,.0f} MB free)"


def _logs() -> str:
    return logs_folder() or "the logs of Ray"


def _last_words(text: str) -> str:
    """What the process whose pid stands in Ray's report wrote last, if that was on this machine; where its log is."""
    pid = next((line.split()[-1] for line in text.splitlines() if line.strip().startswith("pid:")), "")
    found = glob.glob(f"{_logs()}/worker-*-{pid}.err") if pid else []
    if not found:
        return f"Its log is in {_logs()} on its machine"
    with open(found[0], errors="replace") as file:
        words = "".join(file.readlines()[-LINES:]).strip()
    return f"The end of its log, {found[0]}:\n{words}\n" if words else f"It wrote nothing to {found[0]}"
