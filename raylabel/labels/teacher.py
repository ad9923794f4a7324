"""label → SCORES: a trained model ranks every class for every sample of a corpus, once.

What is computed is fixed by the corpus: a batch never crosses a unit, its shape never changes, and a part holds the
same units on any cluster. So any number of actors, any order and any crash gives the same bytes.
"""

import collections
import itertools
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from raylabel.artifact import Artifact, Built, Draft, Root, committed_parts, files_of, identity_of
from raylabel.corpus import Corpus, units, verify_packed
from raylabel.errors import InputError
from raylabel.labels.pool import UNIT, Job, Label, Part, score
from raylabel.media.views import View
from raylabel.report.terminal import Progress
from raylabel.resources import Cluster, Resources
from raylabel.schema import SHARDS

PART = 16  # units that are committed together: some 2 MB of scores, and what a crash can cost one part's worth of work


def label(
    root: Root, model: Artifact, shards: Artifact, corpus: Corpus, view: View, config: Label, resources: Resources
) -> Artifact:
    """SCORES of every sample of the corpus by the model, with REJECTS for those that could not be read.

    Log-odds and not probabilities: near p = 1 a float32 softmax has ties where a billion samples need an order
    (Yalniz et al. 2019 §3.2 ranks by softmax; the order is the same). InputError if too many samples are rejected.
    """
    cluster = Cluster.now()
    precision = cluster.precision(config.precision)
    identity = {
        "model": model.digest,
        "shards": shards.info["content"],
        "view": _evaluation_identity(view),
        "label": identity_of(config) | {"precision": precision},
        "unit": [UNIT, PART],
    }
    job = Job(model, corpus, view, config, precision, cluster.teachers(resources), bool(cluster.gpus))

    def build(draft: Draft) -> Built:
        return _build(draft, job, shards.table("shards", SHARDS), cluster)

    return root.make("scores", identity, build)


def _evaluation_identity(view: View) -> dict[str, Any]:
    """What of a view shows in evaluation pixels: its training crop does not."""
    return {name: identity_of(getattr(view, name)) for name in ("size", "resize", "dct_scale", "mean", "std")}


def _parts(shards: pa.Table) -> Iterator[Part]:
    stream = units(shards, UNIT)
    for number in itertools.count():
        if not (some := tuple(itertools.islice(stream, PART))):
            return
        yield Part(number, some)


def _build(draft: Draft, job: Job, shards: pa.Table, cluster: Cluster) -> Built:
    committed = committed_parts(draft.uri)
    todo = [part for part in _parts(shards) if part.number not in committed]
    total = sum(shards.column("rows").to_pylist())
    tally = _Tally(total, job.config.reject_limit)
    for record in committed.values():
        tally.add(record)
    before = tally.seen
    with Progress(f"label with {job.model.name}", total, done=before) as progress:
        for record in score(job, todo, shards, draft.uri):
            committed[record["part"]] = record
            tally.add(record)
            progress.update(tally.seen, rejects=tally.rejected)
    tally.close()
    try:
        verify_packed(shards)
    except InputError:  # it changed while it was read: none of these scores may pass for those of the restored corpus
        draft.discard()
        raise
    info = {
        "samples": total,
        "images": total - before,  # in the build that took `seconds`
        "scored": total - tally.rejected,
        "rejected": tally.rejected,
        "reasons": dict(tally.reasons.most_common()),
        "p": job.p,
        "hardware": cluster.name,
    }
    return Built(files_of(committed), info)


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
