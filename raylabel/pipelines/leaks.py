"""What of a run's test set is also in its training data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from raylabel.selection.leaks import Leaks, find_leaks
from raylabel.store.artifact import Artifact
from raylabel.training.digests import find_digests

if TYPE_CHECKING:
    from raylabel.pipelines.semi_supervised import Run


def leaks_of(run: Run, scores: Artifact | None) -> Leaks:
    """Those in the labeled set, and with the SCORES of the corpus also those in it."""
    start, tested = run.start, run.teacher_test
    known = labeled_digests(run) if tested else None
    groups = start.groups["labeled"], start.groups["test"]
    return find_leaks(run.root, run.recipe.leaks, *groups, tested, known, scores)


def labeled_digests(run: Run) -> pa.Table:
    """DIGESTS of the labeled set."""
    start, examples = run.start, run.labeled_examples
    return find_digests(run.root, start.labels, start.shards["labeled"], start.corpora["labeled"], examples)
