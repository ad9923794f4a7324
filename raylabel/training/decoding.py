"""Stored samples → pixels in the evaluation view, some chunks ahead of their use."""

import contextlib
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from raylabel.media.parsers import eval_parser
from raylabel.media.sandbox.sandbox import Parser, Sandbox
from raylabel.media.view import View
from raylabel.prefetch import ahead
from raylabel.store.artifact import Artifact
from raylabel.training.examples import undecodable
from raylabel.training.row_groups import RowGroup

CHUNK = {"images": 64, "clips": 4}  # samples that pass the network together; a video has several clips
AHEAD = 2  # chunks that are decoded ahead


class Chunk(NamedTuple):
    """Items of a group that pass the network together."""

    group: RowGroup
    items: np.ndarray
    """int64 [b]: which of its items."""
    pixels: np.ndarray
    """uint8 [b, *view.eval_shape]"""


class Decoder:
    """Decodes groups of EXAMPLES in threads. To be closed."""

    def __init__(self, examples: Artifact, view: View, threads: int):
        """`examples`: what an error names."""
        self._examples, self._view, self._threads = examples, view, threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="evaluation-decode")
        self._sandbox = Sandbox(Parser.of(eval_parser, view.cpu_seconds, view=view), threads)

    def chunks(self, groups: Iterable[RowGroup]) -> Generator[Chunk, None, None]:
        """The items of each group, in order. A chunk never crosses a group."""
        with contextlib.closing(ahead(self._submitted(groups), AHEAD)) as chunks:
            for filling, chunk in chunks:
                for each in filling:
                    each.result()
                yield chunk

    def close(self) -> None:
        self._pool.shutdown()
        self._sandbox.close()

    def _submitted(self, groups: Iterable[RowGroup]) -> Iterator[tuple[list[Future[None]], Chunk]]:
        """Each chunk as soon as its decoding is submitted, with the calls that fill its pixels."""
        size = CHUNK[self._view.inputs]
        for group in groups:
            for first in range(0, len(group.sample), size):
                items = np.arange(first, min(first + size, len(group.sample)))
                pixels = np.empty((len(items), *self._view.eval_shape), np.uint8)
                runs = np.array_split(np.arange(len(items)), min(self._threads, len(items)))
                filling = [self._pool.submit(self._fill, pixels[r[0] : r[-1] + 1], group, items[r]) for r in runs]
                yield filling, Chunk(group, items, pixels)

    def _fill(self, pixels: np.ndarray, group: RowGroup, items: np.ndarray) -> None:
        samples = group.sample[items].tolist()
        media = [value if isinstance(value := group.media[sample], bytes) else value.as_py() for sample in samples]
        rejects = self._sandbox.fill(pixels, media, [()] * len(media))
        for sample, reject in zip(samples, rejects, strict=True):
            if reject:
                raise undecodable(self._examples, int(group.key[sample]), reject)
