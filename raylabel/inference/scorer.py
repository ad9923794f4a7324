"""The interface of a scorer, which ranks the classes of a sample or computes its feature, and what it is kept in.

Letters: B batch, P classes kept per sample, D numbers of a feature, M clips of a video.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import pyarrow as pa

from raylabel.media.sandbox.sandbox import Parser
from raylabel.schema import NAMES, REJECTS, SCORES

Found = tuple[np.ndarray, ...]
"""Of SCORES: classes int32, log-odds float32, logits float32, each [B, P], best class first; for videos also clips
int32 [B, M], the best class of each clip. Of FEATURES: features float16 [B, D], of unit length, and their norms before,
float32 [B]. Last, if they are kept, thumbnails uint8 [B, side * side * 3]; then those before are complete."""

Run = Callable[[Iterable[np.ndarray]], Iterator[Found]]
"""Batches uint8 [B, *shape] → `Found` of each, in order. A batch may be overwritten when the next is requested,
and must not be written to: its memory may be read-only."""


@dataclass(frozen=True)
class Kept:
    """The table that the results of a scorer are kept in."""

    name: str
    """Of the artifact, and of its files before their numbers."""
    schema: pa.Schema
    """key, digest and group of a sample, and a column for each array of `Found`; the last ones may be missing."""
    thumbnails: bool = False
    """Whether THUMBNAILS are kept beside it."""

    @property
    def arrays(self) -> list[str]:
        """The columns of the arrays of `Found`."""
        return self.schema.names[3:] + ["thumbnail"] * self.thumbnails

    def beside(self, names: bool) -> tuple[str, ...]:
        """Which of the tables of schema.BESIDE are kept. `names`: whether names are asked for."""
        return ("names",) * names + ("thumbnails",) * self.thumbnails

    @cached_property
    def rows(self) -> pa.Schema:
        """What an actor returns: a row per sample, scored (`reason` is empty) or rejected (its lists are empty). The
        name is empty if the task does not ask for names, the thumbnail if none is kept."""
        rejects = (field for field in REJECTS if field.name != "key")
        thumbnail = pa.field("thumbnail", pa.list_(pa.uint8()), nullable=False)
        return pa.schema([*map(_as_list, self.schema), *rejects, NAMES.field("name"), thumbnail])


def _as_list(field: pa.Field) -> pa.Field:
    """Of any length: that of a reject is 0."""
    fixed = pa.types.is_fixed_size_list(field.type)
    return pa.field(field.name, pa.list_(field.type.value_type), nullable=False) if fixed else field


class Scorer(Protocol):
    """Plain data that is sent to the actors; each calls `start` once."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one prepared sample, uint8."""
        ...

    @property
    def p(self) -> int:
        """Classes kept per sample, or numbers of a feature."""
        ...

    @property
    def kept(self) -> Kept:
        """The table of its results."""
        ...

    @property
    def parser(self) -> Parser:
        """Encoded bytes → uint8 [*shape], in the sandbox."""
        ...

    def start(self, gpu: bool) -> Run:
        """Loads the scorer onto the actor's device. Each row is ranked alone: no row affects another's result."""
        ...


RANKED = Kept("scores", SCORES)
"""The table of a scorer that ranks classes."""
