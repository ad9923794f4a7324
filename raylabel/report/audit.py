"""The audit of a run's selection as the lines of a chart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from raylabel.schema import AUDIT

if TYPE_CHECKING:
    from raylabel.pipelines.semi_supervised import Run


def shown_precision(run: Run) -> dict[str, Sequence[tuple[int, float]]]:
    """Name of a line → (rank, expected precision): over the classes that have so many picks, the lowest one, the median
    and the highest one. Of some classes with fewer picks, the lines end where half of the classes end."""
    if not run.audit or not run.audit.files("audit-"):
        return {}
    table = run.audit.table("audit-", AUDIT, ["rank", "precision"])
    rank, precision = table.column("rank").to_numpy(), table.column("precision").to_numpy()
    grid, counts = np.unique(rank, return_counts=True)
    of_rank = {int(r): precision[rank == r] for r in grid[counts >= max(1, counts.max() / 2)]}
    lines = {"highest class": np.max, "median class": np.median, "lowest class": np.min}
    if len(np.unique(precision[rank == grid[0]])) == 1 and counts.max() == 1:
        lines = {"class": np.median}
    return {name: [(r, float(of(values))) for r, values in of_rank.items()] for name, of in lines.items()}
