"""Scorers that take no time or that sleep, for benches of everything but the network."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scale_corpus import NullScorer, rank

from raylabel.inference.scorer import Found, Run
from raylabel.media.sandbox.sandbox import Parser


def first_bytes() -> Callable[[bytes, Sequence[int]], bytes]:
    """The first 16 bytes of a sample are its pixels."""
    return lambda data, _: data[:16]


class CheapScorer(NullScorer):
    """Ranks by the first bytes of a sample: neither decoding nor scoring takes time."""

    @property
    def parser(self) -> Parser:
        return Parser.of(first_bytes)


@dataclass(frozen=True)
class SleepingScorer(CheapScorer):
    """As CheapScorer, and sleeps for each batch as a GPU would take."""

    seconds: float = 0.1

    def start(self, gpu: bool) -> Run:
        def run(batches: Iterable[np.ndarray]) -> Iterator[Found]:
            for batch in batches:
                time.sleep(self.seconds)
                yield rank(batch.view(np.uint64), self.p)

        return run
