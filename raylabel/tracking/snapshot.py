"""What is tracked of a run, declared once: TensorBoard, MLflow and W&B all get the same rows and scalars."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from raylabel.evaluate.results import Metric
from raylabel.store.artifact import Artifact
from raylabel.training.watch import Points

State = Literal["running", "stopped", "finished"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """Values of one training after a number of images."""

    images: int
    values: Mapping[str, float]
    """loss, accuracy and lr, or validation_accuracy."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All that is known of a run at one time. A backend adds what it does not have yet."""

    recipe: str
    """Name of the recipe."""
    run: str
    """Name of the run: the recipe's, and a digest of its settings and inputs."""
    settings: Mapping[str, Any]
    """The recipe, nested, as plain JSON."""
    points: Mapping[str, Points] = field(default_factory=dict)
    """Those of each training that has begun, by the id of its network in METRICS."""
    state: State = "running"
    metrics: Sequence[Metric] = ()
    """METRICS, once the run is finished."""
    report: Artifact | None = None
    """The artifact with report.html and summary.json, once the run is finished."""

    @property
    def rows(self) -> dict[str, list[Row]]:
        """The rows of each training. Later snapshots only add rows, unless a training resumes."""
        return {name: list(_rows(points)) for name, points in self.points.items()}

    @property
    def values(self) -> dict[str, dict[int, float]]:
        """Values by name and images, for backends that have no folders: student/loss; METRICS after 0 images."""
        found: dict[str, dict[int, float]] = {name: {0: value} for name, value in self.scalars.items()}
        for training, rows in self.rows.items():
            for row in rows:
                for name, value in row.values.items():
                    found.setdefault(f"{training}/{name}", {})[row.images] = value
        return found

    @property
    def scalars(self) -> dict[str, float]:
        """METRICS by name, for example test_top1/student, with the ends of the interval where there is one."""
        found: dict[str, float] = {}
        for row in self.metrics:
            name = f"{row.split}_{row.metric}/{row.model}"
            if name in found:  # the same split of another dataset
                name = f"{name} on {row.dataset}"
            ends = {} if row.low is None or row.high is None else {f"{name}_low": row.low, f"{name}_high": row.high}
            found |= {name: row.value, **ends}
        return found


def _rows(points: Points) -> Iterator[Row]:
    names = ("loss", "accuracy", "lr")
    rows = [Row(images=int(one["images"]), values={name: one[name] for name in names}) for one in points.curve]
    for one in points.validated:
        rows.append(Row(images=int(one["images"]), values={"validation_accuracy": one["accuracy"]}))
    yield from sorted(rows, key=lambda row: row.images)  # stable: of equal images, the curve's first


def flat(settings: Any, name: str = "") -> dict[str, str]:
    """Settings by the names that they have on the command line: {'select.k': '50'}."""
    if isinstance(settings, Mapping):
        parts = [flat(value, f"{name}.{key}".lstrip(".")) for key, value in settings.items()]
        return {key: value for part in parts for key, value in part.items()}
    return {name: str(settings)}
