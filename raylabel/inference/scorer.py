"""The interface of a scorer, which ranks the classes of a sample.

Letters: B batch, P classes kept per sample, M clips of a video.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np

from raylabel.media.sandbox.sandbox import Parser

Ranked = tuple[np.ndarray, ...]
"""classes int32, log-odds float32, logits float32, each [B, P], best class first; for videos also clips int32 [B, M],
the best class of each clip."""

Run = Callable[[Iterable[np.ndarray]], Iterator[Ranked]]
"""Batches uint8 [B, *shape] → `Ranked` of each, in order. A batch may be overwritten when the next is requested,
and must not be written to: its memory may be read-only."""


class Scorer(Protocol):
    """Plain data that is sent to the actors; each calls `start` once."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one prepared sample, uint8."""
        ...

    @property
    def p(self) -> int:
        """Classes kept per sample."""
        ...

    @property
    def parser(self) -> Parser:
        """Encoded bytes → uint8 [*shape], in the sandbox."""
        ...

    def start(self, gpu: bool) -> Run:
        """Loads the scorer onto the actor's device. Each row is ranked alone: no row affects another's result."""
        ...
