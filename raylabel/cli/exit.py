"""How a failed command ends: one readable block on stderr, and an exit status.

2: an error that the user can fix (InputError). 130 and 143: stopped, by Ctrl-C or by SIGTERM. 1: anything else.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from raylabel.errors import RESUME, find_input_error
from raylabel.text import printable

GRACE = 25.0
"""Seconds for an orderly end: a spot machine is gone 30 seconds after its notice."""
STOPPING = f"stopping, which takes up to {GRACE:.0f} s: if it is cut short, {RESUME} too"

_terminated = False


@contextmanager
def readable() -> Iterator[None]:
    """If the block fails or is stopped, ends the process with a message and the exit status."""
    stop_on_sigterm()
    try:
        yield
    except KeyboardInterrupt:
        _leave(143 if _terminated else 130, f"stopped: {RESUME}")
    except Exception as error:
        if known := find_input_error(error):
            _leave(2, f"error: {printable(str(known))}")
        from raylabel.cli.explain import explain  # imports Ray, which some commands do without

        _leave(1, explain(error))


def stop_on_sigterm() -> None:
    """From now on SIGTERM, sent before a machine is taken away or when a job is stopped, interrupts as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(signum: int, frame: FrameType | None) -> None:
    global _terminated
    if not _terminated:  # printed first: SIGKILL may follow soon
        with suppress(OSError):  # stderr may be closed
            os.write(2, f"{STOPPING}\n".encode())  # a signal may come in the middle of a print
    _terminated = True
    _end_within_grace(143)
    raise KeyboardInterrupt


def _leave(status: int, text: str) -> NoReturn:
    # It contains file names and output of other processes, which must not control the terminal.
    print("\n".join(map(printable, text.split("\n"))), file=sys.stderr, flush=True)
    _end_within_grace(status)
    sys.exit(status)


def _end_within_grace(status: int) -> None:
    """Ends the process after GRACE seconds, even if its orderly end hangs: what is committed is complete."""
    guard = threading.Timer(GRACE, os._exit, (status,))
    guard.daemon = True
    guard.start()
