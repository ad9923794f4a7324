"""Metrics of a running run, for Ray's metrics endpoint and Prometheus. The exact numbers are in the tables.

Each process counts for itself, with the tag `WorkerId`: sum over this tag. Every `RAY_metrics_report_interval_ms`
(10 s), and when it ends, it reports to the agent of its node, which adds the prefix `ray_` to each name and the suffix
`_total` to the names of counters. Work that is done again because an actor died before its rows were committed is
counted again. Counts of a lost node that were not scraped are lost.
"""

from collections import Counter as Tally
from collections.abc import Iterable

from ray.util.metrics import Counter, Gauge

_SCORED = Counter("raylabel_samples_scored", "Images or videos that a teacher or a network under test has ranked.")
_REJECTED = Counter("raylabel_samples_rejected", "Images or videos that could not be read or ranked.", ("reason",))
_WRITING = Gauge("raylabel_parts_writing", "Parts of SCORES that are scored and not yet committed.")
_STEP = Gauge("raylabel_training_step", "Training steps done.", ("network",))
_LOSS = Gauge("raylabel_training_loss", "Mean loss per image since the last point of the curve.", ("network",))


def count_samples(scored: int, rejects: Iterable[str]) -> None:
    """Counts scored samples and rejected ones; `rejects` has the reason of each."""
    if scored:
        _SCORED.inc(scored)
    for reason, count in Tally(rejects).items():
        _REJECTED.inc(count, {"reason": reason})


def show_writing(parts: int) -> None:
    """Sets the number of parts of SCORES that are scored and not yet committed."""
    _WRITING.set(parts)


def show_training(network: str, step: int, loss: float) -> None:
    """Sets the step that a network's training has reached and its loss. `network`: the name of its artifact."""
    _STEP.set(step, {"network": network})
    _LOSS.set(loss, {"network": network})
