"""A listener to which no process may connect."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def canary() -> Iterator[int]:
    """The port of a listener on 127.0.0.1; AssertionError at the end of the block if a process connected to it."""
    reached: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen() -> None:
            while not reached or reached[-1] != last:
                connection, address = listener.accept()
                connection.close()
                reached.append(address)

        with socket.socket() as closing:  # the last connection; earlier ones are recorded before it
            closing.bind(("127.0.0.1", 0))
            last = closing.getsockname()
            thread = threading.Thread(target=listen, daemon=True)
            thread.start()
            try:
                yield listener.getsockname()[1]
            finally:
                closing.connect(listener.getsockname())
                thread.join()
    assert reached == [last], "a process connected to the canary"
