"""What of a run's evaluation sets is also in its training data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from raylabel.features.thumbnails import has_thumbnails
from raylabel.inference.pictures import make_pictures
from raylabel.labels.source import gives_scores
from raylabel.selection.leaks import TEST, Leaking, find_leaks
from raylabel.selection.pairs import find_pairs
from raylabel.store.artifact import Artifact
from raylabel.training.digests import find_digests

if TYPE_CHECKING:
    from raylabel.pipelines.semi_supervised import Run


def leaks_of(run: Run, pairs: Artifact | None) -> Leaking:
    """Those in the labeled set, and with the PAIRS of the corpus also those in it."""
    start, tested = run.start, run.teacher_test
    known = labeled_digests(run) if tested else None
    groups = start.groups["labeled"], start.groups["test"]
    return find_leaks(run.recipe.leaks, *groups, tested, known, pairs, run.labeled_pairs)


def labeled_digests(run: Run) -> pa.Table:
    """DIGESTS of the labeled set."""
    start, examples = run.start, run.labeled_examples
    return find_digests(run.root, start.labels, start.shards["labeled"], start.corpora["labeled"], examples)


def keeps_thumbnails(run: Run) -> bool:
    """Whether the samples of the run are large enough for near-duplicates to be found."""
    return has_thumbnails(run.recipe.teacher_view.tested_size)


def labeled_pairs_of(run: Run) -> Artifact | None:
    """PAIRS of the labeled set with the evaluation sets; None if it has no thumbnails. Copies are found by DIGESTS."""
    tested = run.teacher_test
    if not (tested and tested.files("thumbnails-")):
        return None
    return find_pairs(run.root, _pictures(run, "labeled"), _sets(run, tested), run.recipe.near)


def pairs_of(run: Run) -> Artifact | None:
    """PAIRS of the corpus with the evaluation sets; None if no teacher labels it."""
    tested = run.teacher_test
    if not (tested and gives_scores(run.labels)):
        return None
    return find_pairs(run.root, run.labels, _sets(run, tested), run.recipe.near)


def _sets(run: Run, tested: Artifact) -> dict[str, Artifact]:
    """The test set, and the validation set if it is a corpus of its own."""
    sets = {TEST: tested}
    if run.recipe.validation and tested.files("thumbnails-"):
        sets["validation"] = _pictures(run, "validation")
    return sets


def _pictures(run: Run, corpus: str) -> Artifact:
    recipe, start = run.recipe, run.start
    view, limit = recipe.teacher_view, recipe.label.reject_limit
    retry = recipe.retry_rejects
    return make_pictures(run.root, start.corpora[corpus], start.shards[corpus], view, recipe.resources, limit, retry)
