"""A label source and a corpus → SCORES: every sample ranked once, in parts that stand once they are committed.

What is computed is fixed by the corpus: a batch never crosses a unit, its shape never changes, and a part holds the
same units on any cluster. So any number of actors, any order and any crash gives the same bytes.
"""

import collections
import functools
from collections.abc import Callable, Mapping
from typing import Any

from raylabel.compute.autoscaler import ready
from raylabel.compute.progress import Progress
from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus, Shards, Units, verify_packed
from raylabel.errors import InputError
from raylabel.inference.batches import ScoringTask
from raylabel.inference.pool import Part, score
from raylabel.inference.reuse import Earlier, find_earlier, rejected_units
from raylabel.inference.scorer import Scorer
from raylabel.store.artifact import Artifact, Built, Draft, Root, committed_parts, files_of
from raylabel.store.reject_retry import NothingGainedError, make

UNIT = 1024  # rows of a unit of work, if they are pictures
VIDEO = 32  # times as many pictures as videos are in one: ten clips of a video are the work of a hundred pictures
PART = 64  # units that are committed together: some 8 MB of scores, which tasks write as one file


def unit_rows(corpus: Corpus) -> int:
    """Rows of a unit of the corpus."""
    return UNIT if corpus.kind == "image" else max(1, UNIT // VIDEO)


def make_scores(
    root: Root,
    scorer: Scorer,
    source: Mapping[str, Any],
    shards: Artifact,
    corpus: Corpus,
    batch: int,
    reject_limit: float,
    resources: Resources,
    retry_rejects: bool = False,
    by: str = "",
) -> Artifact:
    """SCORES, the artifact `scores`: every sample of the corpus as the scorer ranks it, in batches of `batch`.

    `source` is the scorer's identity: all that shows in its ranking. Shards that the same source scored as part of an
    earlier state of the corpus are taken over; with `retry_rejects` so is all but the rejects (retry.py). Files
    `scores-*` and `rejects-*`, one per part. Info: samples, scored, rejected, reasons, groups (rows that have one),
    images (scored in the build that took `seconds`), earlier (taken over in it), p. InputError if more than
    `reject_limit` of the samples could not be read, or a shard changed meanwhile. `by`: who ranks them, for whoever
    watches.
    """
    cluster = ready(resources)
    job, unit = ScoringTask(scorer, corpus, Shards(shards), batch, cluster.teachers(resources)), unit_rows(corpus)
    stage = shards.name.replace("shards-", "label ") + (by and f" by {by}")
    identity = {"source": dict(source), "shards": shards.info["content"], "unit": [unit, PART]}

    def build(draft: Draft, before: Artifact | None) -> Built:
        units = Units(job.shards.rows, unit)
        if before:
            part = functools.partial(_retried_part, before, frozenset(file.name for file in before.files("rejects-")))
        else:
            part = functools.partial(_part, units, find_earlier(root, identity, job.shards, unit, PART))
        found = _build(draft, stage, job, -(-len(units) // PART), part, reject_limit)
        if before and found.info["rejected"] == before.info["rejected"]:
            draft.discard()
            raise NothingGainedError
        place = shards.uri.rpartition("/")[2]
        return Built(found.files, {**found.info, "shards": place, "p": scorer.p, "hardware": cluster.name})

    return make(root, "scores", identity, build, retry_rejects)


def _build(
    draft: Draft, stage: str, job: ScoringTask, count: int, part: Callable[[int], Part], reject_limit: float
) -> Built:
    """SCORES of `count` parts; `part` makes each of its number."""
    committed = committed_parts(draft.uri)
    todo = [number for number in range(count) if number not in committed]
    parts = functools.partial(map, part, todo)
    tally = _Tally(job.shards.samples, reject_limit)
    for record in committed.values():
        tally.add(record)
    before, done = tally.seen, 0
    with Progress(stage, tally.total, f"{job.corpus.kind}s", done=before) as progress:
        for record in score(job, parts, draft.uri):
            committed[record["part"]] = record
            done += record["rows"] - record["earlier"]
            tally.add(record)
            progress.update(tally.seen, rejects=tally.rejected)
    tally.close()
    try:
        verify_packed(job.shards)
    except InputError:  # it changed while it was read: none of these scores may pass for those of the restored corpus
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


def _part(units: Units, earlier: Earlier | None, number: int) -> Part:
    all_of_it = [units[i] for i in range(number * PART, min((number + 1) * PART, len(units)))]
    pieces = {unit: earlier.find(unit) if earlier else None for unit in all_of_it}
    new = tuple(unit for unit, piece in pieces.items() if piece is None)
    return Part(number, new, tuple(piece for piece in pieces.values() if piece))


def _retried_part(before: Artifact, files: frozenset[str], number: int) -> Part:
    units = rejected_units(before.uri, number) if f"rejects-{number:06d}.parquet" in files else ()
    return Part(number, units, retried=before.uri)


class _Tally:
    """Counts samples and rejects, and stops a run whose input is mostly unreadable."""

    ENOUGH = 10_000  # samples after which the share so far is believed

    def __init__(self, total: int, limit: float):
        self.total, self.limit = total, limit
        self.seen = self.rejected = 0
        self.reasons: collections.Counter[str] = collections.Counter()

    def add(self, record: dict[str, Any]) -> None:
        self.seen += record["rows"]
        self.rejected += sum(record["reasons"].values())
        self.reasons.update(record["reasons"])
        if self.seen >= min(self.total, self.ENOUGH):
            self._judge()

    def close(self) -> None:
        if self.seen != self.total:
            raise AssertionError(f"{self.total} samples in, {self.seen} out")
        if self.rejected == self.total:
            self._stop()

    def _judge(self) -> None:
        if self.rejected > self.limit * self.seen:
            self._stop()

    def _stop(self) -> None:
        top = ", ".join(f"{reason} {count:,}" for reason, count in self.reasons.most_common(3))
        raise InputError(
            f"{self.rejected:,} of {self.seen:,} samples could not be read, over the limit of {self.limit:.0%} "
            f"(top reasons: {top}): mend the corpus, or raise --label.reject-limit"
        )
