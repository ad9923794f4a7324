"""An iterator that runs ahead of its consumer, in a thread of its own: reading goes on while somebody computes."""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")


def ahead(source: Iterable[T], depth: int) -> Generator[T, None, None]:
    """The values of `source`, in order, with up to `depth` of them ready before they are asked for.

    What it raises is raised here, in its turn. When this iterator ends or is closed, the thread ends with the value
    that it is at, and a generator that is its source is closed by it.
    """
    ready: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def produce() -> None:
        try:
            for value in source:
                ready.put((value,))
                if stopped.is_set():
                    break
            end = None
        except BaseException as error:  # handed to the consumer, which raises it
            end = error
        if isinstance(source, Generator):
            source.close()
        ready.put(end)

    thread = threading.Thread(target=produce, name="ahead", daemon=True)
    thread.start()
    ended = False
    try:
        while not ended:
            value = ready.get()
            ended = not isinstance(value, tuple)
            if isinstance(value, BaseException):
                raise value
            if value is not None:
                yield value[0]
    finally:
        stopped.set()
        while not ended:  # the thread may wait for room; its last word is None or an error
            ended = not isinstance(ready.get(), tuple)
        thread.join()
