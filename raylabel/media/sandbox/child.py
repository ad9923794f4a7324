"""The far side of the sandbox: a process that sees no media and forks the children, and what a child does.

It has imported all that parsing takes, so a child that died is replaced in milliseconds, and none has to open a file.
A child reads encoded media and writes what it made of them in memory that it shares with the parent (a file without a
name); beside that it has one socket, on which it gets lines of JSON and answers by such.
"""

import contextlib
import importlib
import json
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
from raylabel.media.sandbox.seccomp import filter_calls
from raylabel.schema import MAX_BYTES

MEMORY = 1 << 30  # bytes of address space that a child may take beyond what it is forked with
COPIES = 2  # of the encoded bytes that it may take besides: as they come, and once more
CPU_SECONDS = 10  # of one sample, unless its parser says otherwise; a picture of MAX_PIXELS takes 1 to 3
FEW = 1 << 20  # bytes of a sample that count for nothing
_SOCKET, _SHARED = 3, 4  # the only files of a child besides 0, 1 and 2, which are /dev/null

OUT_OF_MEMORY = 64  # exit status of a child
READY = b"ready"  # the first word of every process

Parse = Callable[[bytes, Sequence[float]], np.ndarray | bytes]
"""(encoded media, numbers that the sample comes with) → what is made of it; Reject if they are no such media."""


def load(function: str, settings: dict[str, Any]) -> Parse:
    """What `module:name` makes of its settings; lists in them become tuples, as configs want them."""
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)(**{k: _frozen(v) for k, v in settings.items()})


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _frozen(v) for k, v in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def main(control: socket.socket) -> None:
    """Loads the parser, then forks and reaps children at the parent's word, until the parent is gone."""
    word = json.loads(control.recv(1 << 16))
    cpu_seconds = word.pop("cpu_seconds")
    parse = load(**word)
    control.sendall(READY)
    alive: set[int] = set()
    while True:
        word, files, _, _ = socket.recv_fds(control, 64, 2)
        if not word:
            break
        if word == b"fork":
            pid = os.fork()
            if pid == 0:
                control.close()
                _become_child(files, parse, cpu_seconds)
            for file in files:
                os.close(file)
            alive.add(pid)
            control.sendall(str(pid).encode())
        else:  # how did it end? It is dead already, or about to be
            pid = int(word)
            alive.discard(pid)
            control.sendall(str(os.waitpid(pid, 0)[1]).encode())
    for pid in alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _become_child(files: Sequence[int], parse: Parse, cpu_seconds: int) -> None:
    status = 1
    try:
        os.dup2(files[0], 10)  # out of the way: either may stand where the other has to be
        os.dup2(files[1], 11)
        os.dup2(10, _SOCKET)
        os.dup2(11, _SHARED)
        os.dup2(0, 1)
        os.dup2(0, 2)
        os.closerange(_SHARED + 1, 1 << 16)
        parent = socket.socket(fileno=_SOCKET)
        try:
            memory = _limit()
        except Exception as error:
            parent.sendall(f"{type(error).__name__}: {error}".encode())
            raise
        parent.sendall(READY)
        _serve(parent, parse, cpu_seconds, memory)
        status = 0
    except MemoryError:
        status = OUT_OF_MEMORY
    finally:
        os._exit(status)


def _limit() -> int:
    """From here on no file is opened, no socket made and no program started, and memory is bounded.

    The bytes of address space for a sample of few bytes; 0 where that is not bounded.
    """
    limits = {
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_NOFILE: (_SHARED + 1,) * 2,  # so no more can be opened, not even where there is no seccomp
        resource.RLIMIT_FSIZE: (4 << 30,) * 2,  # of the shared memory
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


def _serve(parent: socket.socket, parse: Parse, cpu_seconds: int, memory: int) -> None:
    """Answers requests until the parent closes.

    A request: {"media": [[offset, bytes, numbers], ...], "out": offset, "size": bytes of each result, 0 for any}. The
    answer has for each the bytes that were written from `out` on, one behind the other, or [reason, detail]; where one
    was rejected, `size` bytes are left out. Before each, its number is written at 0, so that the parent knows whom a
    dead child held.
    """
    requests = parent.makefile("rb")
    allowed, raised = 0, 0
    while line := requests.readline():
        request = json.loads(line)
        out, size, answer = request["out"], request["size"], []
        for number, (offset, length, numbers) in enumerate(request["media"]):
            os.pwrite(_SHARED, number.to_bytes(4, "little"), 0)
            if (due := int(time.process_time()) + cpu_seconds + 1) > allowed:
                allowed = due
                resource.setrlimit(resource.RLIMIT_CPU, (allowed, resource.RLIM_INFINITY))
            more = COPIES * length if length > FEW else 0
            if memory and more != raised:
                resource.setrlimit(resource.RLIMIT_AS, (memory + more, memory + COPIES * MAX_BYTES))
                raised = more
            try:
                made = parse(os.pread(_SHARED, length, offset), numbers)
            except MemoryError:
                raise
            except Exception as error:  # also what nobody foresaw: it is of this sample alone
                unforeseen = Reject("decoder_crash", f"{type(error).__name__}: {error}")
                reject = error if isinstance(error, Reject) else unforeseen
                answer.append([reject.reason, reject.detail])
                out += size
                continue
            data = np.ascontiguousarray(made).data.cast("B") if isinstance(made, np.ndarray) else memoryview(made)
            if size and len(data) != size:
                raise ValueError(f"{len(data)} bytes, expected {size}")
            os.pwrite(_SHARED, data, out)
            out += len(data)
            answer.append(len(data))
        parent.sendall(json.dumps(answer).encode() + b"\n")
