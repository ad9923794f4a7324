"""What a failed command says about an error that is no InputError: what happened, where, and how to fix it."""

import errno
import glob
import os
import re
import shutil
import traceback

from ray import exceptions as of_ray

from raylabel.compute.ray_internals import logs_folder, spill_folder
from raylabel.errors import RESUME, causes
from raylabel.media.sandbox.sandbox import SandboxError

LINES = 15  # of the log of a dead process that are shown
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def explain(error: BaseException) -> str:
    """What happened and how to fix it; for an unknown error, its traceback."""
    found = causes(error)
    remote = [COLOURS.sub("", str(one)) for one in found if isinstance(one, of_ray.RayTaskError)]  # its traceback
    place = re.search(r"\bip=([^\s,)]+)", remote[-1]) if remote else None
    machine = f" on {place[1]}" if place else ""
    for one in reversed(found):
        if known := _known(one, machine):
            return f"error: {known}. Then {RESUME}"
    where = remote[-1] if remote else "".join(traceback.format_exception(error))
    what = f"{type(found[-1]).__name__}: {found[-1]}".partition("\n")[0]
    return f"{where.rstrip()}\nerror: {what}: unexpected, see the traceback above. Once it is fixed, {RESUME}"


def _known(error: BaseException, machine: str) -> str:
    """What an error of a known type means, and the fix; empty for other types."""
    if isinstance(error, of_ray.OutOfDiskError):
        return f"the disk of Ray's spill folder is full{machine}{_spill_folder()}. {SPILL}"
    if isinstance(error, of_ray.ObjectStoreFullError):
        return f"Ray's object store is full{machine}. {STORE}"
    if isinstance(error, of_ray.OutOfMemoryError):
        return f"out of memory: {_first_lines(error)}. {MEMORY}"
    if isinstance(error, of_ray.NodeDiedError | of_ray.LocalRayletDiedError | of_ray.ObjectLostError):
        return f"a machine of the cluster was lost too often: {_first_lines(error)}. Bring it back or take another"
    if isinstance(error, of_ray.RayActorError | of_ray.WorkerCrashedError):
        return f"a process died too often: {_first_lines(error)}. {_end_of_log(str(error))}"
    if isinstance(error, SandboxError):
        return f"the sandbox that decodes media does not work{machine}: {error}. Its output is in {_logs()}"
    if isinstance(error, of_ray.RaySystemError | of_ray.RpcError | of_ray.RuntimeEnvSetupError):
        return f"Ray itself failed: {_first_lines(error)}. Its logs are in {_logs()}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left{machine}: {error}. Free some there"
    if type(error).__name__ == "OutOfMemoryError":  # of torch, on a GPU
        return f"out of GPU memory: {_first_lines(error)}. Lower --label.batch, or the batch of the training it was in"
    return ""


SPILL = (
    "Objects that do not fit into the object store are written there. Free some space, or name another folder when Ray "
    "is started: --object-spilling-directory of `ray start`, RAY_object_spilling_directory if this command starts it"
)
STORE = (
    "Give it more memory when Ray is started: --object-store-memory of `ray start`, "
    "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES if this command starts it"
)
MEMORY = "Ask for fewer processes a machine (--resources.teachers, --resources.workers) or a smaller --label.batch"


def _first_lines(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines[:6]).rstrip(".")


def _spill_folder() -> str:
    folder = spill_folder()
    if not folder or not os.path.isdir(folder):
        return ""  # it is on another machine
    usage = shutil.disk_usage(folder)
    return f": {folder} ({usage.free / 1e6:,.0f} of {usage.total / 1e6:,.0f} MB free)"


def _logs() -> str:
    return logs_folder() or "the logs of Ray"


def _end_of_log(text: str) -> str:
    """The last lines of the log of the process whose pid is in Ray's report, if it ran on this machine; else where the
    log is."""
    pid = next((line.split()[-1] for line in text.splitlines() if line.strip().startswith("pid:")), "")
    found = glob.glob(f"{_logs()}/worker-*-{pid}.err") if pid else []
    if not found:
        return f"Its log is in {_logs()} on its machine"
    with open(found[0], errors="replace") as file:
        words = "".join(file.readlines()[-LINES:]).strip()
    return f"The end of its log, {found[0]}:\n{words}\n" if words else f"It wrote nothing to {found[0]}"
