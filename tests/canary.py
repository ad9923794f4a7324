"""A listener that nobody may reach."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def canary() -> Iterator[int]:
    """The port of a listener on 127.0.0.1; AssertionError at the end of the block if anybody connected to it."""
    reached: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen() -> None:
            while True:
                try:
                    connection, address = listener.accept()
                except OSError:  # shut down
                    return
                reached.append(address)
                connection.close()

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert reached == [], "somebody was told to connect, and did"
