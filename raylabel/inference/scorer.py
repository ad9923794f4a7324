"""Who ranks the classes of a sample: what an actor pool needs to know of it.

Letters: B batch, P classes kept per sample, M clips of a video.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np

from raylabel.media.sandbox.sandbox import Parser

Ranked = tuple[np.ndarray, ...]
"""classes int32, log-odds float32, logits float32, each [B, P], best class first; of videos also clips int32 [B, M],
the best class of each clip."""

Run = Callable[[Iterable[np.ndarray]], Iterator[Ranked]]
"""Batches uint8 [B, *shape] → what it makes of each, in order; a batch is the caller's again when the next is asked."""


class Scorer(Protocol):
    """Plain data that travels to the actors; `start` makes it ready there, once."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one prepared sample, uint8."""
        ...

    @property
    def p(self) -> int:
        """Classes kept per sample."""
        ...

    @property
    def parser(self) -> Parser:
        """Makes uint8 [*shape] of encoded bytes, in the sandbox."""
        ...

    def start(self, gpu: bool) -> Run:
        """Loads what it takes onto the actor's device. Rows are ranked alone: no row shows in another's result."""
        ...
