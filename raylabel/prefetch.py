"""An iterator that prefetches in a background thread, so that reading overlaps with computing."""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")


def ahead(source: Iterable[T], depth: int) -> Generator[T, None, None]:
    """The values of `source`, in order; up to `depth` of them are prefetched.

    An error of `source` is raised here after the values before it. When this iterator ends or is closed, the thread
    ends after its current value, and closes `source` if that is a generator.
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
        except BaseException as error:  # passed to the consumer, which raises it
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
        while not ended:  # the thread may wait for space in the queue; its last item is None or an error
            ended = not isinstance(ready.get(), tuple)
        thread.join()
