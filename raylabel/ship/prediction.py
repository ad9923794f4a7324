"""A prediction: the contents of its summary, and SCORES → PREDICTIONS.

Letters: N samples, C classes, P classes per sample.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from raylabel.schema import PREDICTIONS
from raylabel.ship.output import Contents


@dataclass(frozen=True, kw_only=True)
class Prediction(Contents):
    """What was predicted: the contents of the summary."""

    KIND: ClassVar[str] = "prediction"
    TABLE: ClassVar[str] = "predictions"

    prediction: str
    """Identifies what the files have: the network, the corpus and where it is, the columns."""
    network: str
    """Folder of the network."""
    corpus: list[str]
    classes: list[str]
    """Names of the classes, in the order of their indices."""
    p: int
    """Classes per sample."""
    passed_over: list[dict[str, Any]]
    """Files beside the samples that are none, as in summary.json of a run."""
    scores: str = ""
    """Folder of the SCORES in the root."""
    samples: int = 0
    predicted: int = 0
    rejected: int = 0
    reasons: dict[str, int] = dataclasses.field(default_factory=dict)
    """Rejects by reason, most frequent first."""
    per_class: list[int] = dataclasses.field(default_factory=list)
    """Samples whose best class is this one, in the order of `classes`."""
    files: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def made_of(self) -> str:
        return f"by {self.network} of {', '.join(self.corpus)}"


def predictions(scores: pa.Table, uris: list[str], classes: pa.Array) -> pa.Table:
    """PREDICTIONS of SCORES; `uris`: the addresses of the N samples, `classes`: the C names."""
    index, odds = (scores.column(name).combine_chunks() for name in ("classes", "log_odds"))
    ends = index.offsets
    index, odds = index.flatten(), odds.flatten().to_numpy().astype(np.float64)
    # Each class against all others: exactly softmax for images, and its mean over the clips of a video.
    probability = pa.array(np.exp(-np.logaddexp(0.0, -odds)))
    lists = [pa.ListArray.from_arrays(ends, values) for values in (classes.take(index), index, probability)]
    best = [values.flatten().take(ends[:-1]) for values in lists]
    return pa.Table.from_arrays([pa.array(uris, pa.string()), *best, *lists], schema=PREDICTIONS)
