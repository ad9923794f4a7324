"""A scorer and a corpus → SCORES or FEATURES: every sample once, in parts that are committed one by one.

SCORES of a head are computed from stored FEATURES, if there are any, with the same bytes (stored.py).

What is computed depends on the corpus alone: a batch never crosses a unit, its shape never changes, and a part has the
same units on any cluster. So the bytes do not depend on the number of actors, the order of the work or crashes.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from raylabel.compute.autoscaler import ready
from raylabel.compute.progress import Progress
from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus, Shards, Units, unit_rows, verify_packed
from raylabel.errors import InputError
from raylabel.inference.batches import ScoringTask
from raylabel.inference.parts import Part
from raylabel.inference.pool import score
from raylabel.inference.reuse import Earlier, find_earlier, rejected_units
from raylabel.inference.scorer import RANKED, Scorer
from raylabel.inference.stored import score_stored
from raylabel.inference.subset import Subset, units_between
from raylabel.schema import THUMBNAIL_SIDE
from raylabel.store.artifact import Artifact, Built, Draft, Root
from raylabel.store.parts import committed_parts, files_of
from raylabel.store.reject_limit import RejectTally
from raylabel.store.reject_retry import NothingGainedError, make

PART = 64  # units that are committed together: about 8 MB of scores, which tasks write as one file


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What is scored, with which scorer and which resources."""

    scorer: Scorer
    source: Mapping[str, Any]
    """The scorer's identity: everything that affects its ranking."""
    shards: Artifact
    """SHARDS of the corpus."""
    corpus: Corpus
    batch: int
    """Samples per call of the scorer."""
    reject_limit: float
    """Share of samples that may be unreadable, 0 to 1."""
    resources: Resources
    retry_rejects: bool = False
    """Only score the rejects of earlier SCORES again."""
    by: str = ""
    """Name of the scorer in the progress line."""
    names: bool = False
    """Also write the NAMES of the samples, for a corpus of tars."""
    features: Artifact | None = None
    """FEATURES of the corpus by the trunk of the scorer's network: its head ranks them, and no sample is read."""
    subset: Artifact | None = None
    """A table with the keys of the samples that are scored, such as TAGS; None: all are."""


def make_scores(root: Root, scoring: Scoring, former: Sequence[Scoring] = ()) -> Artifact:
    """SCORES, the artifact `scores`: every sample of the corpus, or of a subset of it, as the scorer ranks it; or
    FEATURES, the artifact `features`, of a scorer that computes them.

    Shards that the same source scored as part of an earlier state of the corpus are reused, unless there is a subset;
    with `retry_rejects` everything except the rejects is (reject_retry.py). Files `scores-*` and `rejects-*`, one per
    part, and `names-*` and `thumbnails-*` if they are asked for. Info: samples, scored, rejected, reasons, groups (rows
    that have one), images (scored in the build that took `seconds`), earlier (reused in it), p. InputError if too many
    samples could not be read, or if a shard changed while it was scored.

    `former`: the same scoring as earlier versions of raylabel did it. SCORES that they made are returned, and those
    that they began are completed in the same way, so that no artifact has scores of two arithmetics.
    """
    choices, name = (scoring, *former), scoring.scorer.kept.name
    identities = [_identity(one) for one in choices]
    identity = dict(root.settle(name, identities[0], identities[1:]))
    scoring = choices[identities.index(identity)]
    cluster, shards, unit = ready(scoring.resources), scoring.shards, unit_rows(scoring.corpus)
    pool = cluster.teachers(scoring.resources)
    subset = scoring.subset
    whole = ScoringTask(scoring.scorer, scoring.corpus, Shards(shards), scoring.batch, pool, scoring.names)
    verb = {RANKED.name: "label", "pictures": "make thumbnails of"}.get(name, "compute features of")
    stage = shards.name.replace("shards-", f"{verb} ") + (scoring.by and f" by {scoring.by}")

    def build(draft: Draft, before: Artifact | None) -> Built:
        task = replace(whole, subset=Subset.of(subset, unit)) if subset else whole
        units = Units(task.shards.rows, unit)
        counts = task.subset.counts(units) if task.subset else None
        if before:
            part = functools.partial(_retried_part, before, frozenset(file.name for file in before.files("rejects-")))
        else:
            earlier = None if subset else find_earlier(root, name, identity, task.shards, unit, PART)
            part = functools.partial(_part, units, earlier, counts=counts)
        samples = task.shards.samples if counts is None else int(counts.sum())
        tally = RejectTally(samples, scoring.reject_limit, corpus=shards.name.removeprefix("shards-"))
        count, features = -(-len(units) // PART), scoring.features
        found = _build(draft, stage, task, count, part, tally, scoring.retry_rejects, features)
        if before and found.info["rejected"] == before.info["rejected"]:
            draft.discard()
            raise NothingGainedError
        folder = shards.uri.rpartition("/")[2]
        return Built(found.files, {**found.info, "shards": folder, "p": task.scorer.p, "hardware": cluster.name})

    return make(root, name, identity, build, scoring.retry_rejects)


def _identity(scoring: Scoring) -> dict[str, Any]:
    unit = [unit_rows(scoring.corpus), PART]
    found = {"source": dict(scoring.source), "shards": scoring.shards.info["content"], "unit": unit}
    found |= {"names": True} if scoring.names else {}
    found |= {"subset": scoring.subset.digest} if scoring.subset else {}
    return found | ({"thumbnails": THUMBNAIL_SIDE} if scoring.scorer.kept.thumbnails else {})


def _build(
    draft: Draft,
    stage: str,
    task: ScoringTask,
    count: int,
    part: Callable[[int], Part],
    tally: RejectTally,
    retry_rejects: bool,
    features: Artifact | None,
) -> Built:
    """SCORES of `count` parts; `part` returns a part by its number. With `retry_rejects`, parts with rejects that a
    stopped run committed are done again."""
    committed = committed_parts(draft.uri, retry_rejects)
    todo = [number for number in range(count) if number not in committed]
    parts = functools.partial(map, part, todo)
    for record in committed.values():
        tally.add_part(draft.uri, record, record["rows"])
        tally.check()
    before, done = tally.seen, 0
    with Progress(stage, tally.total, f"{task.corpus.kind}s", done=before) as progress:
        for record in score_stored(features, task, parts, draft.uri) if features else score(task, parts, draft.uri):
            committed[record["part"]] = record
            done += record["rows"] - record["earlier"]
            tally.add_part(draft.uri, record, record["rows"])
            tally.check()
            progress.update(tally.seen, rejects=tally.rejected)
    tally.close()
    try:
        if not features:
            verify_packed(task.shards)
    except InputError:  # a shard changed while it was read: these must not count as its scores once it is restored
        draft.discard()
        raise
    info = {
        "samples": tally.total,
        "images": done,
        "earlier": tally.seen - before - done,
        "scored": tally.total - tally.rejected,
        "rejected": tally.rejected,
        "reasons": dict(tally.reasons.most_common()),
        "groups": sum(record["groups"] for record in committed.values()),
    }
    return Built(files_of(committed), info)


def _part(units: Units, earlier: Earlier | None, number: int, counts: np.ndarray | None = None) -> Part:
    of_part = units_between(units, counts, number * PART, (number + 1) * PART)
    if not earlier:
        return Part(number, of_part)
    known = earlier.known[of_part.shard]
    return Part(number, of_part[~known], earlier.pieces(list(of_part[known])))


def _retried_part(before: Artifact, files: frozenset[str], number: int) -> Part:
    units = rejected_units(before.uri, number) if f"rejects-{number:06d}.parquet" in files else ()
    return Part(number, units, retried=before.uri)
