"""The teacher of the fault tests: its scores are a function of the pixels in integers, the same on any machine.

Letters: B batch, C classes, P classes kept per sample.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from poison import misbehave

from raylabel.inference.scorer import Ranked, Run
from raylabel.media.image_views import eval_pixels
from raylabel.media.sandbox.sandbox import Parser
from raylabel.media.view import View

CLASSES = 130  # three files of PICKS
P = 5
SIDE = 16  # pixels
CRASHING = np.arange(7, 247, 20, dtype=np.uint8)  # a picture that begins with these 12 values ends a teacher that crashes
_WEIGHTS = np.random.default_rng(20).integers(0, 2**64, SIDE * SIDE * 3, np.uint64) | np.uint64(1)


def rank(pixels: np.ndarray) -> Ranked:
    """The P best classes of pixels uint8 [B, SIDE, SIDE, 3]; of 256 values for the best, so that many tie."""
    # uint64 wraps around, which is meant.
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
    """What a batch takes."""
    crashes: bool = False
    """Whether the process of the teacher dies of a picture that begins with CRASHING."""
    commands: Sequence[str] = ()
    """What the parser does if media say so (poison.py)."""
    copies: int = 1
    """Of the pixels that the parser hands over: more make blocks of pixels large."""

    @property
    def p(self) -> int:
        return P

    @property
    def shape(self) -> tuple[int, ...]:
        return self.copies, SIDE, SIDE, 3

    @property
    def parser(self) -> Parser:
        return Parser.of(pictures, copies=self.copies, commands=list(self.commands))

    def start(self, gpu: bool) -> Run:
        return self._run

    def _run(self, batches: Iterable[np.ndarray]) -> Iterator[Ranked]:
        for batch in batches:
            time.sleep(self.seconds)
            starts = batch.reshape(len(batch), -1)[:, : len(CRASHING)]
            if self.crashes and (starts == CRASHING).all(axis=1).any():
                os.kill(os.getpid(), signal.SIGSEGV)
            if not (batch == batch[:, :1]).all():
                raise AssertionError("pixels did not arrive as they were sent")
            yield rank(batch[:, 0])


def pictures(copies: int, commands: Sequence[str]) -> Callable[[bytes, Sequence[int]], np.ndarray]:
    """`eval_pixels` of pictures whose short side is SIDE, so that nothing is resized; `copies` of them."""
    view, words = View(size=SIDE, resize=SIDE), {word.encode() for word in commands}

    def parse(data: bytes, _: Sequence[int]) -> np.ndarray:
        if data in words:
            misbehave(data)
        return np.broadcast_to(eval_pixels(data, view), (copies, SIDE, SIDE, 3))

    return parse
