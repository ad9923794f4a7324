"""Made-up trainings, as a tracker gets them."""

from raylabel.tracking.snapshot import Snapshot
from raylabel.training.watch import Points


def points(count: int, every: int = 0, seed: int = 0) -> Points:
    """The first points of a training; `every` so many of the curve one of validation, if that is not 0."""
    steps = range(1, count + 1)
    curve = [{"images": 64 * i, "loss": 1 / (i + seed), "accuracy": i / 500, "lr": 0.1 / i} for i in steps]
    validated = [{"images": 64 * i, "accuracy": i / 400} for i in steps if every and i % every == 0]
    return Points(curve, validated)


def snapshot(**of: Points) -> Snapshot:
    return Snapshot(recipe="digits", run="digits-0", settings={"select": {"k": 50}, "name": "ünï"}, points=of)
