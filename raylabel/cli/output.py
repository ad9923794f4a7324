"""What a command does when its output is closed, because the reader of a pipe or the terminal is gone.

Before the work begins (`--help | head -5`) the process ends silently, with the status of a program that SIGPIPE ended.
Once the work has begun, it continues: the results of a run are in its root, and hours of work must not depend on the
reader of the log. One line on stderr says so, later output is discarded, and the exit status is that of the work.
"""

import errno
import io
import os
import sys
from typing import Any

STATUS = 141
"""Of a process that SIGPIPE (13) ended, as a shell shows it: 128 + 13."""
NOTE = b"the output is closed: the work continues, and later output is discarded\n"

_working = False


def guard_output() -> None:
    """From now on a closed stdout or stderr raises no error where something is printed."""
    for name, number in ("stdout", 1), ("stderr", 2):
        stream = getattr(sys, name)
        if stream is None:  # closed before the process started
            setattr(sys, name, open(os.devnull, "w"))
        elif stream is getattr(sys, f"__{name}__") and not isinstance(stream, _Guarded):
            stream.flush()
            setattr(sys, name, _Guarded(number, stream))


def work_begins() -> None:
    """From now on the process continues when its output is closed."""
    global _working
    sys.stdout.flush()  # may end the process, for the last time
    _working = True


class _Guarded(io.TextIOWrapper):
    """A text stream like the given one. If it is closed, what is written to it is discarded."""

    def __init__(self, number: int, like: Any) -> None:
        raw: Any = _Raw(number, "w", closefd=False)
        super().__init__(
            raw if like.write_through else io.BufferedWriter(raw),  # as Python does: python -u makes it unbuffered
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
            if error.errno not in (errno.EPIPE, errno.EIO):  # EIO: the terminal is gone
                raise
            if not _working:
                os._exit(STATUS)  # nothing to clean up yet
            _discard(self.fileno())
            return memoryview(data).nbytes


def _discard(number: int) -> None:
    """From now on what is written to the file descriptor is discarded, also what C++ and child processes write."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, number)
    os.close(nothing)
    if number == 1:
        try:
            os.write(2, NOTE)  # not by sys.stderr: another thread may hold its lock and wait for this one
        except OSError:
            _discard(2)
