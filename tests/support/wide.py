"""A cheap scorer of large images: its input is large, and its output is very small."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from raylabel.inference.scorer import RANKED, Found, Kept, Run
from raylabel.media.parsers import eval_parser
from raylabel.media.sandbox.sandbox import Parser
from raylabel.media.view import View

VIEW = View(size=224, resize=224)


@dataclass(frozen=True)
class Wide:
    """Two classes: bright and dark images."""

    @property
    def kept(self) -> Kept:
        return RANKED

    @property
    def shape(self) -> tuple[int, ...]:
        return VIEW.size, VIEW.size, 3

    @property
    def p(self) -> int:
        return 2

    @property
    def parser(self) -> Parser:
        return Parser.of(eval_parser, view=VIEW)

    def start(self, gpu: bool) -> Run:
        def run(batches: Iterable[np.ndarray]) -> Iterator[Found]:
            for batch in batches:
                bright = batch.reshape(len(batch), -1).sum(1, dtype=np.int64).astype(np.float32) - 2**24
                order = np.where(bright[:, None] >= 0, [[0, 1]], [[1, 0]]).astype(np.int32)
                values = np.stack([np.abs(bright), -np.abs(bright)], 1)
                yield order, values, values

        return run
