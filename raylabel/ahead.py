"""An iterator that runs ahead of its consumer, in a thread of its own: reading goes on while somebody computes."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def ahead(source: Iterable[T], depth: int) -> Iterator[T]:
    """The values of `source`, in order, with up to `depth` of them ready before they are asked for.

    What it raises is raised here, in its turn. When the consumer stops, or drops this iterator, the thread ends with
    the value that it is at.
    """
    ready: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(value: tuple[T] | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put(value, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            for value in source:
                if not put((value,)):
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=produce, name="ahead", daemon=True)
    thread.start()
    try:
        while (value := ready.get()) is not None:
            if isinstance(value, BaseException):
                raise value
            yield value[0]
    finally:
        stopped.set()
        thread.join()
