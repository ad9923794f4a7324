"""The teacher of the fault tests: its scores are an integer function of the pixels, the same on any machine.

Letters: B batch, C classes, P classes kept per sample.
"""

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from poison import misbehave

from raylabel.inference.scorer import RANKED, Found, Kept, Run
from raylabel.media.image_views import eval_pixels
from raylabel.media.sandbox.sandbox import Parser
from raylabel.media.view import View

CLASSES = 130  # three files of PICKS
P = 5
SIDE = 16  # pixels
CRASHING = np.arange(
    7, 247, 20, dtype=np.uint8
)  # a teacher with `crashes` dies of an image that begins with these values
_WEIGHTS = np.random.default_rng(20).integers(0, 2**64, SIDE * SIDE * 3, np.uint64) | np.uint64(1)


def rank(pixels: np.ndarray) -> Found:
    """The P best classes of pixels uint8 [B, SIDE, SIDE, 3]. The best score has only 256 values, so there are many
    ties."""
    # The overflow of uint64 is intended.
    words = (pixels.reshape(len(pixels), -1).astype(np.uint64) * _WEIGHTS).sum(axis=1, dtype=np.uint64)
    first = (words % np.uint64(CLASSES)).astype(np.int64)[:, None]
    classes = ((first + CLASSES // P * np.arange(P)) % CLASSES).astype(np.int32)
    best = (words[:, None] >> np.uint64(56)).astype(np.float32) / np.float32(16)
    log_odds = best - np.arange(P, dtype=np.float32) / np.float32(2)
    return classes, log_odds, log_odds * np.float32(2)


@dataclass(frozen=True)
class GoldenTeacher:
    """A Scorer that ranks by `rank`."""

    seconds: float = 0.0
    """Seconds per batch."""
    crashes: bool = False
    """Whether the teacher's process dies of an image that begins with CRASHING."""
    commands: Sequence[str] = ()
    """The commands that the parser executes if a sample contains them (poison.py)."""
    copies: int = 1
    """Copies of the pixels that the parser returns; more make larger blocks."""

    @property
    def p(self) -> int:
        return P

    @property
    def kept(self) -> Kept:
        return RANKED

    @property
    def shape(self) -> tuple[int, ...]:
        return self.copies, SIDE, SIDE, 3

    @property
    def parser(self) -> Parser:
        return Parser.of(pictures, copies=self.copies, commands=list(self.commands))

    def start(self, gpu: bool) -> Run:
        return self._run

    def _run(self, batches: Iterable[np.ndarray]) -> Iterator[Found]:
        for batch in batches:
            time.sleep(self.seconds)
            starts = batch.reshape(len(batch), -1)[:, : len(CRASHING)]
            if self.crashes and (starts == CRASHING).all(axis=1).any():
                signal.raise_signal(signal.SIGSEGV)  # in this thread, as a crash of the network would be
            if not (batch == batch[:, :1]).all():
                raise AssertionError("the pixels differ from those that were sent")
            yield rank(batch[:, 0])


def pictures(copies: int, commands: Sequence[str]) -> Callable[[bytes, Sequence[int]], np.ndarray]:
    """`copies` of the `eval_pixels` of an image whose short side is SIDE, so that it is not resized."""
    view, encoded = View(size=SIDE, resize=SIDE), {command.encode() for command in commands}

    def parse(data: bytes, _: Sequence[int]) -> np.ndarray:
        if data in encoded:
            misbehave(data)
        return np.broadcast_to(eval_pixels(data, view), (copies, SIDE, SIDE, 3))

    return parse
