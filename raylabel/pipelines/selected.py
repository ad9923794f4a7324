"""Which samples of a run's corpus are selected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raylabel.labels.source import gives_scores
from raylabel.selection.copies import find_copies
from raylabel.selection.duplicates import find_duplicates
from raylabel.selection.select import select
from raylabel.store.artifact import Artifact

if TYPE_CHECKING:
    from raylabel.pipelines.semi_supervised import Run


def duplicates_of(run: Run) -> Artifact | None:
    """DUPLICATES; None if the source gives PICKS."""
    return find_duplicates(run.root, run.labels) if gives_scores(run.labels) else None


def copies_of(run: Run) -> Artifact | None:
    """COPIES; None unless they are asked for."""
    if run.recipe.copies == "bytes" or run.duplicates is None:
        return None
    return find_copies(run.root, run.labels, run.duplicates, run.recipe.near)


def picks_of(run: Run) -> Artifact:
    """PICKS: those of the source, or the K best samples of each class, without copies and, unless `recipe.leaks` is
    'report', without samples of the evaluation sets."""
    if run.duplicates is None:
        return run.labels
    pairs = None if run.recipe.leaks == "report" else run.pairs
    return select(run.root, run.labels, run.duplicates, run.recipe.select, run.start.classes, pairs, run.copies)
