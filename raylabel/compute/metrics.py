"""What Ray's metrics endpoint, and so Prometheus, hears of a run while it goes on. The tables are what counts.

Each process counts for itself (its tag is `WorkerId`: sum over it). Every `RAY_metrics_report_interval_ms` (10 s), and
when it ends, it tells its machine's agent, which puts `ray_` before each name and `_total` behind a counter's. What is
done again, since an actor died before its rows were committed, counts again, and a machine that vanishes takes along
what nobody had scraped.
"""

from collections import Counter as Tally
from collections.abc import Iterable

from ray.util.metrics import Counter, Gauge

_SCORED = Counter("raylabel_samples_scored", "Images or videos that a teacher or a network under test has ranked.")
_REJECTED = Counter("raylabel_samples_rejected", "Images or videos that could not be read or ranked.", ("reason",))
_WRITING = Gauge("raylabel_parts_writing", "Parts of SCORES that are scored and not yet committed.")
_STEP = Gauge("raylabel_training_step", "Steps that the training has done.", ("network",))
_LOSS = Gauge("raylabel_training_loss", "Loss of an image, mean since the last point of the curve.", ("network",))


def count_samples(scored: int, rejects: Iterable[str]) -> None:
    """So many samples were scored, and others rejected: the reason of each."""
    if scored:
        _SCORED.inc(scored)
    for reason, count in Tally(rejects).items():
        _REJECTED.inc(count, {"reason": reason})


def show_writing(parts: int) -> None:
    """So many parts of SCORES are scored and not yet committed."""
    _WRITING.set(parts)


def show_training(network: str, step: int, loss: float) -> None:
    """How far the training is of the network, by the name of its artifact, and its loss at that step."""
    _STEP.set(step, {"network": network})
    _LOSS.set(loss, {"network": network})
