"""What of a run's evaluation sets is also in its training data."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from raylabel.compute.progress import say
from raylabel.corpus import Shards
from raylabel.corpus.addresses import addresses
from raylabel.features.thumbnails import has_thumbnails
from raylabel.inference.pictures import make_pictures
from raylabel.labels.source import gives_scores
from raylabel.schema import split_key
from raylabel.selection.leaks import TEST, Leaking, find_leaks
from raylabel.selection.pairs import find_pairs, first_pairs
from raylabel.selection.references import Reference
from raylabel.store.artifact import Artifact
from raylabel.training.digests import find_digests

if TYPE_CHECKING:
    from raylabel.pipelines.semi_supervised import Run

MANY = 0.01
"""Share of the corpus above which samples that are in an evaluation set are a warning."""
EXAMPLES = 5  # pairs that it names
VALIDATION = "validation"  # the name of the validation set in PAIRS


def leaks_of(run: Run, pairs: Artifact | None) -> Leaking:
    """Those in the labeled set, and with the PAIRS of the corpus also those in it."""
    for text in leak_warnings(run) if pairs else ():  # now, not after days of training
        say(f"warning: {text}")
    start, tested = run.start, run.tested
    known = labeled_digests(run) if tested else None
    groups = start.groups["labeled"], start.groups["test"]
    return find_leaks(run.recipe.leaks, *groups, tested, known, pairs, run.labeled_pairs)


def labeled_digests(run: Run) -> pa.Table:
    """DIGESTS of the labeled set."""
    start, examples = run.start, run.labeled_examples
    return find_digests(run.root, start.labels, start.shards["labeled"], start.corpora["labeled"], examples)


def keeps_thumbnails(run: Run) -> bool:
    """Whether the samples of the run are large enough for near-duplicates to be found."""
    return has_thumbnails(run.recipe.compared_view.tested_size)


def tested_of(run: Run) -> Artifact | None:
    """SCORES of the test set by the teacher, or its PICTURES; None if the corpus is not compared with it."""
    return run.teacher_test or (_pictures(run, TEST) if run.recipe.pictured else None)


def seen_of(run: Run) -> Artifact | None:
    """SCORES of the corpus, or its PICTURES; None if only the media of picks are read."""
    if gives_scores(run.labels):
        return run.labels
    return _pictures(run, "unlabeled") if run.recipe.pictured else None


def labeled_pairs_of(run: Run) -> Artifact | None:
    """PAIRS of the labeled set with the evaluation sets; None if it has no thumbnails. Copies are found by DIGESTS."""
    tested = run.tested
    if not (tested and tested.files("thumbnails-")):
        return None
    return find_pairs(run.root, _pictures(run, "labeled"), _sets(run, tested), run.recipe.near)


def pairs_of(run: Run) -> Artifact | None:
    """PAIRS of the corpus with the evaluation sets; None if they are not compared."""
    tested = run.tested
    if not (tested and run.seen):
        return None
    sets = _sets(run, tested)
    if run.recipe.holdout and run.start.validation and tested.files("thumbnails-"):
        sets[VALIDATION] = Reference(_pictures(run, "labeled"), run.start.validation[1])
    return find_pairs(run.root, run.seen, sets, run.recipe.near)


def leak_warnings(run: Run) -> list[str]:
    """What the user should check if many samples of the corpus are in an evaluation set."""
    pairs = run.pairs
    if not (pairs and run.seen) or pairs.info["removed"] <= MANY * (samples := run.seen.info["scored"]):
        return []
    examples = " · ".join(_examples(run, pairs))
    share = f"{pairs.info['removed']:,} of {samples:,} samples of the corpus are also in an evaluation set"
    return [f"{share}, for example {examples}: if these are different pictures, raise --near"]


def _examples(run: Run, pairs: Artifact) -> Iterator[str]:
    """The first pairs, as a user names them."""
    for row in itertools.islice(first_pairs(pairs), EXAMPLES):
        mine, other = (
            place_of(run, corpus, key)
            for corpus, key in (("unlabeled", row["key"]), (corpus_of(run, row["set"]), row["reference"]))
        )
        similarity = "" if row["similarity"] is None else f" {row['similarity']:.3f}"
        yield f"{mine} = {other} ({row['kind']}{similarity})"


def corpus_of(run: Run, of_set: str) -> str:
    """The corpus that a set of PAIRS is of, or a part of: the validation set may be a part of the labeled set."""
    return run.start.validation[0] if of_set == VALIDATION and run.start.validation else of_set


def place_of(run: Run, corpus: str, key: int) -> str:
    """Where a sample is, as a user names it; of a tar, its row."""
    shard, row = split_key(key)
    found = Shards(run.start.shards[corpus]).row(shard)
    return next(addresses(run.start.corpora[corpus], found, [row], [f"row {row}"]))


def _sets(run: Run, tested: Artifact) -> dict[str, Reference]:
    """The evaluation sets, without the validation set if it is a part of the labeled set."""
    sets = {TEST: Reference(tested)}
    if tested.files("thumbnails-"):
        others = [name for name in run.recipe.corpora if name not in ("labeled", "unlabeled", TEST)]
        sets |= {name: Reference(_pictures(run, name)) for name in others}
    return sets


def _pictures(run: Run, corpus: str) -> Artifact:
    recipe, start = run.recipe, run.start
    return make_pictures(
        run.root,
        start.corpora[corpus],
        start.shards[corpus],
        recipe.compared_view,
        recipe.label.batch,
        recipe.resources,
        recipe.label.reject_limit,
        recipe.retry_rejects,
    )
