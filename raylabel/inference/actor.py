"""What runs far from the driver while a corpus is labeled: units of encoded media → rows of SCORES and REJECTS.

Beside the teacher an actor reads and decodes for itself, and only small tables leave it. Elsewhere tasks read and
decode, and hand the actors whole batches of pixels. Either way a batch is of one unit, is padded to a fixed shape and
is scored alone, so the rows are the same bytes.
"""

import collections
import itertools
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from raylabel.compute.metrics import count_samples
from raylabel.compute.watchdog import beat
from raylabel.errors import InputError
from raylabel.inference.batches import BATCH, ROWS, Facts, ScoringTask, batches, units_of, unpack_batches
from raylabel.inference.crash_journal import LIVES, Journal
from raylabel.inference.scorer import Ranked
from raylabel.media.sandbox.sandbox import Sandbox, shared_sandbox


class Labeler:
    """Holds what a scorer loads, and scores: units where it decodes for itself, batches of pixels where others do."""

    def __init__(self, job: ScoringTask):
        self._job = job
        self._journal = Journal(_journal_path())
        self._threads = ThreadPoolExecutor(job.pool.threads) if job.pool.threads > 1 else None
        self._sandbox = Sandbox(job.scorer.parser, job.pool.threads) if job.pool.threads else None
        self._run = job.scorer.start(gpu=job.pool.gpus > 0)  # while the sandbox starts

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """Rows of ITEM, or of BATCH → tables of ROWS, in order."""
        if table.schema.names == BATCH.names:
            yield from self._score(unpack_batches(table, self._job))
        else:
            sandbox = self._sandbox or shared_sandbox(self._job.scorer.parser)
            for units in units_of(table):
                yield from self._score(batches(self._job, units, sandbox, self._threads))

    def _score(self, batches: Iterable[tuple["Facts", np.ndarray]]) -> Iterator[pa.Table]:
        if self._journal.hopeless:
            raise InputError(
                f"the teacher's process died {LIVES} times in a row and finished no batch: its machine lacks memory, "
                "or the network does not run there; try fewer --resources.teachers or a smaller --label.batch"
            )
        for accused, some in itertools.groupby(batches, lambda batch: self._journal.accuses(*_whole(batch[0]))):
            if accused:
                yield from (self._score_in_parts(*batch) for batch in some)
            else:
                yield from self._score_whole(some)

    def _score_whole(self, batches: Iterable[tuple["Facts", np.ndarray]]) -> Iterator[pa.Table]:
        waiting: collections.deque[Facts] = collections.deque()  # a scorer on a GPU answers one batch behind

        def pixels() -> Iterator[np.ndarray]:
            for facts, batch in batches:
                waiting.append(facts)
                key, rows = _whole(facts)
                self._journal.take((key, 0, rows))
                yield batch

        for ranked in self._run(pixels()):
            self._journal.give()
            beat()
            yield _rows(waiting.popleft(), ranked)

    def _score_in_parts(self, facts: "Facts", pixels: np.ndarray) -> pa.Table:
        """A batch that kills: the same rows, for each is ranked alone, but for the samples that are guilty."""
        key, rows = _whole(facts)
        found: list[np.ndarray] = []
        for first, last, guilty in self._journal.parts(key, rows):
            some = np.zeros_like(pixels)
            if guilty:
                if not facts.reason[first]:
                    facts.reject(first, "score", "teacher_crash", "its process died of it, also alone")
            else:
                some[first:last] = pixels[first:last]
                self._journal.take((key, first, last))
            ranked = next(iter(self._run([some])))
            if not guilty:
                self._journal.give()
            found = found or [np.zeros_like(values) for values in ranked]
            for values, new in zip(found, ranked, strict=True):
                values[first:last] = new[first:last]
        return _rows(facts, tuple(found))


def _whole(facts: "Facts") -> tuple[int, int]:
    """What a batch is known by: the key of its first sample, and how many it has."""
    return int(facts.key[0]), len(facts.key)


def _journal_path() -> str:
    """In the folder of this Ray on this machine, with which it goes."""
    import ray._private.worker  # there is no public way

    folder = ray._private.worker._global_node.get_session_dir_path()  # pyright: ignore
    return os.path.join(folder, f"raylabel-journal-{ray.get_runtime_context().get_actor_id()}")


def _rows(facts: Facts, ranked: Ranked) -> pa.Table:
    """ROWS of a batch. A score that is no number is a reject, never ranked."""
    n = len(facts.key)
    classes, log_odds, logits, *more = (values[:n] for values in ranked)
    clips = more[0] if more else np.empty((n, 0), np.int32)
    finite = np.isfinite(log_odds).all(axis=1) & np.isfinite(logits).all(axis=1)
    readable = np.fromiter((not reason for reason in facts.reason), bool, n)
    for slot in np.flatnonzero(readable & ~finite).tolist():
        facts.reject(slot, "score", "not_finite")
    keep = readable & finite
    count_samples(int(keep.sum()), filter(None, facts.reason))
    ends = np.zeros(n + 1, np.int32)
    np.cumsum(keep, out=ends[1:])
    found = {"classes": classes, "log_odds": log_odds, "logits": logits, "clips": clips}
    lists = {
        name: pa.ListArray.from_arrays(ends * np.int32(values.shape[1]), values[keep].ravel())
        for name, values in found.items()
    }
    uri = [uri if reason else "" for uri, reason in zip(facts.uri, facts.reason, strict=True)]  # only rejects tell it
    plain = {"key": facts.key, "digest": facts.digest, "group": facts.group, "uri": uri}
    plain |= {name: getattr(facts, name) for name in ("stage", "reason", "detail")}
    columns = [lists[f.name].cast(f.type) if f.name in lists else pa.array(plain[f.name], f.type) for f in ROWS]
    return pa.Table.from_arrays(columns, schema=ROWS)
