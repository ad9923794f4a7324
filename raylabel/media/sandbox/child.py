"""The code of the sandbox's processes: the zygote, which forks children and never reads media, and the children.

The zygote has imported everything that parsing needs, so a child is replaced in milliseconds and opens no file. A child
reads encoded media from memory that it shares with the parent and writes results there (memory.py). Its only open file
is a socket, for requests and answers as lines of JSON.
"""

import contextlib
import importlib
import json
import mmap
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from raylabel.media.rejects import Reject
from raylabel.media.sandbox.memory import map_shared
from raylabel.media.sandbox.seccomp import filter_calls
from raylabel.schema import MAX_BYTES

MEMORY = 1 << 30  # bytes of address space that a child may add to those of the zygote
COPIES = 2  # copies of the encoded bytes that a child may hold in addition
CPU_SECONDS = 10  # limit for one sample, unless its parser has another; a picture of MAX_PIXELS takes 1 to 3
SMALL = 1 << 20  # a sample of at most this many bytes gets no more than MEMORY
_SOCKET = 3  # the only open file of a child besides 0, 1 and 2, which are /dev/null

OUT_OF_MEMORY = 64  # exit status of a child
READY = b"ready"  # the first message of every process

Parse = Callable[[bytes, Sequence[float]], np.ndarray | bytes]
"""(encoded media, the sample's numbers) → the result, a uint8 array or bytes; raises Reject if the media cannot be
used."""


def load(function: str, settings: dict[str, Any]) -> Parse:
    """The parser that the function `module:name` returns for its settings. Lists become tuples, as in configs."""
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)(**{k: _frozen(v) for k, v in settings.items()})


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _frozen(v) for k, v in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def main(control: socket.socket) -> None:
    """The zygote: loads the parser, then forks and reaps children on request until the parent closes the socket."""
    settings = json.loads(control.recv(1 << 16))
    cpu_seconds = settings.pop("cpu_seconds")
    parse = load(**settings)
    try:
        control.sendall(READY)
    except BrokenPipeError:  # the parent has ended, or had nothing to parse after all
        return
    alive: set[int] = set()
    while True:
        request, files, _, _ = socket.recv_fds(control, 64, 2)
        if not request:
            break
        if request == b"fork":
            pid = os.fork()
            if pid == 0:
                control.close()
                _become_child(files, parse, cpu_seconds)
            for file in files:
                os.close(file)
            alive.add(pid)
            control.sendall(str(pid).encode())
        else:  # the exit status of a child that has ended or is about to end
            pid = int(request)
            alive.discard(pid)
            control.sendall(str(os.waitpid(pid, 0)[1]).encode())
    for pid in alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _become_child(files: Sequence[int], parse: Parse, cpu_seconds: int) -> None:
    status = 1
    try:
        shared = map_shared(files[1])  # it needs no open file from here on
        os.dup2(files[0], _SOCKET)
        os.dup2(0, 1)
        os.dup2(0, 2)
        os.closerange(_SOCKET + 1, 1 << 16)
        parent = socket.socket(fileno=_SOCKET)
        try:
            memory = _limit()
        except Exception as error:
            parent.sendall(f"{type(error).__name__}: {error}".encode())
            raise
        parent.sendall(READY)
        _serve(parent, shared, parse, cpu_seconds, memory)
        status = 0
    except MemoryError:
        status = OUT_OF_MEMORY
    finally:
        os._exit(status)


def _limit() -> int:
    """Limits memory, and stops this process from opening files, creating sockets and starting programs.

    Returns the limit of address space for a small sample in bytes, or 0 if there is no limit.
    """
    limits = {
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_NOFILE: (_SOCKET + 1,) * 2,  # no file can be opened, even without seccomp
        resource.RLIMIT_FSIZE: (0, 0),
    }
    memory = 0
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:
            memory = int(file.read().split()[0]) * resource.getpagesize() + MEMORY
        limits[resource.RLIMIT_AS] = (memory, memory + COPIES * MAX_BYTES)
    for kind, values in limits.items():
        resource.setrlimit(kind, values)
    filter_calls(os.getpid())
    return memory


def _serve(parent: socket.socket, shared: mmap.mmap, parse: Parse, cpu_seconds: int, memory: int) -> None:
    """Answers requests until the parent closes the socket.

    A request is {"media": [[offset, bytes, numbers], ...], "out": offset, "size": bytes of each result, 0 for any}. The
    answer lists for each sample the number of bytes written, or [reason, detail]. Results are written from `out` on,
    one after another; a rejected sample leaves a gap of `size` bytes. Before each sample its index is written at
    offset 0, so that the parent can tell which one a child was parsing when it ended.
    """
    requests, pixels = parent.makefile("rb"), np.frombuffer(shared, np.uint8)
    allowed, raised = 0, 0
    while line := requests.readline():
        request = json.loads(line)
        out, size, answer = request["out"], request["size"], []
        for number, (offset, length, numbers) in enumerate(request["media"]):
            shared[:4] = number.to_bytes(4, "little")
            if (due := int(time.process_time()) + cpu_seconds + 1) > allowed:
                allowed = due
                resource.setrlimit(resource.RLIMIT_CPU, (allowed, resource.RLIM_INFINITY))
            more = COPIES * length if length > SMALL else 0
            if memory and more != raised:
                resource.setrlimit(resource.RLIMIT_AS, (memory + more, memory + COPIES * MAX_BYTES))
                raised = more
            try:
                made = parse(shared[offset : offset + length], numbers)
            except MemoryError:
                raise
            except Exception as error:  # an unexpected error rejects this sample only
                unexpected = Reject("decoder_crash", f"{type(error).__name__}: {error}")
                reject = error if isinstance(error, Reject) else unexpected
                answer.append([reject.reason, reject.detail])
                out += size
                continue
            made = made if isinstance(made, np.ndarray) else np.frombuffer(made, np.uint8)
            if size and made.nbytes != size:
                raise ValueError(f"the parser returned {made.nbytes} bytes, expected {size}")
            pixels[out : out + made.nbytes].reshape(made.shape)[...] = made  # the only copy, also of a crop
            out += made.nbytes
            answer.append(made.nbytes)
        parent.sendall(json.dumps(answer).encode() + b"\n")
