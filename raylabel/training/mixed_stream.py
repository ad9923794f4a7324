"""Two streams of EXAMPLES as one, for a training on both: every batch has the same number of items of each.

In a batch of B items of which A are of the other EXAMPLES, item i is one of them if i * A // B < (i + 1) * A // B: they
are spread evenly over the batch. The items of each stream keep their order, and each stream is shared by the workers as
if its part of the batch were the whole. So, as in a training on one stream, the order depends neither on the number of
workers nor on restarts.
"""

import contextlib
import heapq
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from raylabel.store.artifact import Artifact
from raylabel.training.stream import Item, Stream


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """EXAMPLES that are mixed into those of a training."""

    examples: Artifact
    share: float
    """Their share of each batch, above 0 and below 1."""

    def count(self, batch: int) -> int:
        """Their number in a batch."""
        return round(self.share * batch)


@dataclass(frozen=True)
class _Part:
    """One of the streams."""

    stream: Stream
    places: np.ndarray
    """The places in a batch of its items, ascending, int64."""

    def at(self, position: int, batch: int) -> int:
        """The number of items of this stream before a position in the mixed stream, the first one of a batch."""
        return position // batch * len(self.places)


class MixedStream(Stream):
    """The items of EXAMPLES, and of others that are mixed into them, in order, for one worker."""

    def __init__(self, examples: Artifact, mixture: Mixture, seed: int):
        super().__init__(examples, seed)
        self._mixture, self._streams = mixture, (Stream(examples, seed), Stream(mixture.examples, seed))

    def least(self, world: int, batch: int) -> int:
        return sum(len(part.places) // world for part in self._parts(batch))

    def positions(self, start: int, end: int, stop: int, rank: int, world: int, batch: int) -> np.ndarray:
        """As `Stream.positions`. `start`, `end` and `stop` are multiples of `batch`."""
        found = []
        for part in self._parts(batch):
            begin, until, last = (part.at(position, batch) for position in (start, end, stop))
            numbers = part.stream.positions(begin, until, last, rank, world, len(part.places))
            found.append(numbers // len(part.places) * batch + part.places[numbers % len(part.places)])
        return np.sort(np.concatenate(found))

    def items(
        self, start: int, stop: int, rank: int = 0, world: int = 1, batch: int = 1
    ) -> Generator[Item, None, None]:
        """As `Stream.items`. `start` and `stop` are multiples of `batch`."""
        with contextlib.ExitStack() as opened:
            parts = []
            for part in self._parts(batch):
                begin, end = part.at(start, batch), part.at(stop, batch)
                items = part.stream.items(begin, end, rank, world, len(part.places))
                parts.append(_moved(opened.enter_context(contextlib.closing(items)), part.places, batch))
            yield from heapq.merge(*parts, key=lambda item: item[0])

    def examples_at(self, position: int, batch: int) -> Artifact:
        return next(part.stream.examples for part in self._parts(batch) if position % batch in part.places)

    def _parts(self, batch: int) -> list[_Part]:
        places, count = np.arange(batch), self._mixture.count(batch)
        others = places * count // batch < (places + 1) * count // batch
        own, mixed = self._streams
        return [_Part(own, places[~others]), _Part(mixed, places[others])]


def _moved(items: Iterable[Item], places: np.ndarray, batch: int) -> Iterator[Item]:
    """The items of one of the streams, with their positions in the mixed stream."""
    count = len(places)
    for number, key, media, label, soft in items:
        yield number // count * batch + int(places[number % count]), key, media, label, soft
