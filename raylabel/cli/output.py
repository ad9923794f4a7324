"""What happens when nobody reads the output of a command any more: its pipe or its terminal is closed.

Before the work begins (`--help | head -5`) the process ends silently, with the status of a program that SIGPIPE ended.
Once the work has begun it goes on: a run's results are in its root, and hours of work do not depend on who reads the
log. One line on stderr says so, later output is discarded, and the exit status is that of the work.
"""

import errno
import io
import os
import sys
from typing import Any

STATUS = 141
"""Of a process that SIGPIPE (13) ended, as a shell shows it: 128 + 13."""
NOTE = b"the output is closed: the work goes on, and what it would print is discarded\n"

_working = False


def guard_output() -> None:
    """From now on a reader of stdout or stderr that is gone raises no error in whoever prints."""
    for name, number in ("stdout", 1), ("stderr", 2):
        stream = getattr(sys, name)
        if stream is None:  # closed before the process began
            setattr(sys, name, open(os.devnull, "w"))
        elif stream is getattr(sys, f"__{name}__") and not isinstance(stream, _Guarded):
            stream.flush()
            setattr(sys, name, _Guarded(number, stream))


def work_begins() -> None:
    """From now on the process goes on when its output is closed."""
    global _working
    sys.stdout.flush()  # the last moment at which it may end
    _working = True


class _Guarded(io.TextIOWrapper):
    """A text stream like the given one, that discards what nobody reads."""

    def __init__(self, number: int, like: Any) -> None:
        raw: Any = _Raw(number, "w", closefd=False)
        super().__init__(
            raw if like.write_through else io.BufferedWriter(raw),  # as Python does it: unbuffered by python -u
            encoding=like.encoding,
            errors=like.errors,
            line_buffering=like.line_buffering,
            write_through=like.write_through,
        )


class _Raw(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # EIO: of a terminal that is gone
                raise
            if not _working:
                os._exit(STATUS)  # there is nothing to clean up yet
            _discard(self.fileno())
            return memoryview(data).nbytes


def _discard(number: int) -> None:
    """The file descriptor leads nowhere from now on, for C++ and for child processes too."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, number)
    os.close(nothing)
    if number == 1:
        try:
            os.write(2, NOTE)  # not by sys.stderr: another thread may hold its lock and wait for this one
        except OSError:
            _discard(2)
