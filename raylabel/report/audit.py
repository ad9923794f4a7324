"""What is shown of the audit of a run's selection: lines of a chart, and labels that are likely wrong."""

import math
from collections.abc import Sequence

import numpy as np

from raylabel.corpus import Shards
from raylabel.pipelines.leaks import place_of
from raylabel.pipelines.semi_supervised import Run
from raylabel.report.page import Suspect
from raylabel.report.previews import read_previews
from raylabel.schema import AUDIT, SUSPECTS

SHOWN = 12
"""Labeled samples that are likely wrong, at most."""


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


def shown_suspects(run: Run) -> list[Suspect]:
    """The labeled samples whose labels are likeliest wrong."""
    if not run.audit:
        return []
    corpus = run.start.validation[0] if run.start.validation else "labeled"
    rows = run.audit.table("suspects", SUSPECTS).slice(0, SHOWN).to_pylist()
    shards, limit = Shards(run.start.shards[corpus]), run.recipe.max_jpeg_pixels
    jpegs = read_previews(run.start.corpora[corpus], shards, sorted(row["key"] for row in rows), limit)
    names = run.start.classes
    return [
        Suspect(
            address=place_of(run, corpus, row["key"]),
            label=names[row["label"]],
            found=names[row["best"]],
            probability=1 / (1 + math.exp(-max(-700.0, row["log_odds"]))),
            jpeg=jpegs[row["key"]][0],
        )
        for row in rows
        if row["key"] in jpegs
    ]
