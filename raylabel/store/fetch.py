"""Reads ahead of its use: many requests at a time, in the order of use, within a limit of bytes.

An object store answers a request after tens of milliseconds, and then sends some 80 MB per second. So one stream is
slow, and the requests of the next shards must be on their way before the current one is read.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from raylabel.compute.watchdog import heartbeat

HELD = 128 << 20  # bytes that are in flight or held, at most
# In flight, for each thread that decodes. A small file takes two requests of 30 ms, so 128 read 2,100 files a second,
# more than a core decodes; 64 would read 1,050. Large blocks reach HELD with some 40, and start no more threads.
REQUESTS = 128


class Block:
    """Bytes that are read by one call of `read`. They are held from its start until `Queue.release`."""

    def __init__(self, size: int, read: Callable[[], Any]) -> None:
        """`size`: bytes, estimated if they are not known."""
        self.size, self.read = size, read
        self.future: Future[Any] | None = None
        self.released = False


class Plan:
    """The blocks of one shard, in the order of their use."""

    def __init__(self, queue: "Queue") -> None:
        self._queue = queue
        self.blocks: deque[Block] | None = None
        """Those that were not requested yet; None until they are known."""

    def fill(self, blocks: Iterable[Block]) -> None:
        """Says what the blocks are; they are requested when it is their turn."""
        self.blocks = deque(blocks)
        self._queue.fetcher.advance()


class Queue:
    """A sequence of plans. What an earlier queue needs is requested first."""

    def __init__(self, fetcher: "Fetcher") -> None:
        self.fetcher = fetcher
        self.plans: deque[Plan] = deque()
        self.complete = False
        """Whether no more plans follow."""
        self._held: set[Block] = set()

    def plan(self) -> Plan:
        """Adds a plan, which `Plan.fill` completes, from any thread. Later plans wait for that."""
        plan = Plan(self)
        with self.fetcher.lock:
            self.plans.append(plan)
        return plan

    def end(self) -> None:
        """Says that there are no more plans."""
        self.complete = True
        self.fetcher.advance()

    def take(self, block: Block) -> Any:
        """The block's bytes; waits for them. An error of `read` is raised here."""
        with self.fetcher.lock:
            if block.future is None:  # its turn has not come, but it is needed now
                self.request(block)
        assert block.future is not None
        return block.future.result()

    def release(self, block: Block) -> None:
        """Says that the block will not be used again. It need not have been requested."""
        with self.fetcher.lock:
            block.released = True
            if block in self._held:
                self._held.remove(block)
                self.fetcher.held -= block.size
                if block.future:
                    block.future.cancel()
                block.future = None
        self.fetcher.advance()

    def request(self, block: Block) -> None:
        """Starts to read the block. The caller has the lock."""
        self._held.add(block)
        self.fetcher.held += block.size
        block.future = self.fetcher.submit(block.read)

    def close(self) -> None:
        """Releases all blocks."""
        with self.fetcher.lock:
            self.plans.clear()
            if self in self.fetcher.queues:
                self.fetcher.queues.remove(self)
            held = list(self._held)
        for block in held:
            self.release(block)
        self.end()


class Fetcher:
    """The threads of a process that read ahead, and the bytes that they hold."""

    def __init__(self, requests: int = REQUESTS, limit: int = HELD) -> None:
        self.lock = threading.Lock()
        self.queues: list[Queue] = []
        self.held = 0
        self._limit = limit
        self._pool = ThreadPoolExecutor(requests, "fetch")

    def queue(self) -> Queue:
        queue = Queue(self)
        with self.lock:
            self.queues.append(queue)
        return queue

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Calls the function in one of the threads. Each call that ends is progress."""

        def call() -> Any:
            result = function(*arguments)
            heartbeat()
            return result

        return self._pool.submit(call)

    def advance(self) -> None:
        """Requests the next blocks, as far as the limit allows."""
        with self.lock:
            for queue in self.queues:
                while queue.plans:
                    blocks = queue.plans[0].blocks
                    if blocks is None:
                        return
                    while blocks:
                        block = blocks[0]
                        if not block.released and block.future is None:
                            if self.held and self.held + block.size > self._limit:
                                return
                            queue.request(block)
                        blocks.popleft()
                    queue.plans.popleft()
                if not queue.complete:
                    return

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
