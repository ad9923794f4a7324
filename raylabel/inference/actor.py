"""The actors that score a corpus: units of encoded media → rows of SCORES and REJECTS.

Either an actor reads and decodes the media itself and returns only small tables, or Ray tasks read and decode the media
and send whole batches of pixels to the actor. In both cases a batch belongs to one unit, is padded to a fixed shape and
is scored alone, so the rows have the same bytes.
"""

import collections
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import ray

from raylabel.compute.gpu import is_device_error, is_out_of_memory
from raylabel.compute.metrics import count_samples
from raylabel.compute.ray_internals import session_folder
from raylabel.compute.watchdog import heartbeat
from raylabel.errors import InputError
from raylabel.inference.batches import BATCH, ROWS, Facts, ScoringTask, batches, units_of, unpack_batches
from raylabel.inference.crash_journal import MAX_CRASHES, CrashJournal
from raylabel.inference.scorer import Ranked
from raylabel.media.sandbox.sandbox import Sandbox, shared_sandbox
from raylabel.text import one_line


class ScoringActor:
    """Loads a scorer once, then scores units that it decodes itself, or batches of pixels that Ray tasks decoded."""

    def __init__(self, task: ScoringTask):
        self._task = task
        self._journal = CrashJournal(_journal_path())
        self._threads = ThreadPoolExecutor(task.pool.threads) if task.pool.threads > 1 else None
        self._sandbox = Sandbox(task.scorer.parser, task.pool.threads) if task.pool.threads else None
        self._error: InputError | None = None
        try:
            self._run = task.scorer.start(gpu=task.pool.gpus > 0)  # while the sandbox is starting
        except InputError as error:  # the first call raises it: Ray turns what a constructor raises into a long text
            self._error = error

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """Rows of ITEM, or of BATCH → tables of ROWS, in order."""
        if table.schema.names == BATCH.names:
            yield from self._score(unpack_batches(table, self._task))
        else:
            sandbox = self._sandbox or shared_sandbox(self._task.scorer.parser)
            for units in units_of(table):
                yield from self._score(batches(self._task, units, sandbox, self._threads))

    def _score(self, batches: Iterable[tuple["Facts", np.ndarray]]) -> Iterator[pa.Table]:
        if self._error:
            raise self._error
        if self._journal.exhausted:
            why = self._journal.why and f" ({self._journal.why})"
            raise InputError(
                f"the teacher's process crashed {MAX_CRASHES} times in a row and finished no batch{why}: its machine "
                "has too little memory, its GPU is defective, or the network does not run there; lower "
                "--resources.teachers or --label.batch, or replace the machine"
            )
        try:
            yield from self._score_all(batches)
        except Exception as error:
            if is_out_of_memory(error):
                raise InputError(
                    f"out of GPU memory in a batch of {self._task.batch} ({_line(error)}): lower --label.batch"
                ) from error
            if is_device_error(error):
                self._journal.end(_line(error))
                print(f"error: {_line(error)}: this process ends and is started again", file=sys.stderr, flush=True)
                os._exit(1)  # it cannot use the GPU any more; to Ray and to the journal this is a crash
            raise

    def _score_all(self, batches: Iterable[tuple["Facts", np.ndarray]]) -> Iterator[pa.Table]:
        for suspect, some in itertools.groupby(batches, lambda batch: self._journal.is_suspect(*_batch_id(batch[0]))):
            if suspect:
                yield from (self._score_in_spans(*batch) for batch in some)
            else:
                yield from self._score_whole(some)

    def _score_whole(self, batches: Iterable[tuple["Facts", np.ndarray]]) -> Iterator[pa.Table]:
        waiting: collections.deque[Facts] = collections.deque()  # a scorer on a GPU returns each batch one batch late

        def pixels() -> Iterator[np.ndarray]:
            for facts, batch in batches:
                waiting.append(facts)
                key, rows = _batch_id(facts)
                self._journal.start((key, 0, rows))
                yield batch

        for ranked in self._run(pixels()):
            self._journal.finish()
            heartbeat()
            yield _rows(waiting.popleft(), ranked)

    def _score_in_spans(self, facts: "Facts", pixels: np.ndarray) -> pa.Table:
        """The rows of a suspect batch. Each row is ranked alone, so the rows of samples that do not crash the teacher
        are the same as when the batch is scored whole."""
        key, rows = _batch_id(facts)
        found: list[np.ndarray] = []
        for first, last, reject in self._journal.spans(key, rows):
            some = np.zeros_like(pixels)
            if reject:
                if not facts.reason[first]:
                    facts.reject(first, "score", "teacher_crash", "its process crashed, also on this sample alone")
            else:
                some[first:last] = pixels[first:last]
                self._journal.start((key, first, last))
            ranked = next(iter(self._run([some])))
            if not reject:
                self._journal.finish()
            found = found or [np.zeros_like(values) for values in ranked]
            for values, new in zip(found, ranked, strict=True):
                values[first:last] = new[first:last]
        return _rows(facts, tuple(found))


def _batch_id(facts: "Facts") -> tuple[int, int]:
    """Identifies a batch in the journal: (key of its first sample, number of its samples)."""
    return int(facts.key[0]), len(facts.key)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)[:200]}"


def _journal_path() -> str:
    """A file in Ray's session folder on this node: it is removed together with that folder."""
    return os.path.join(session_folder(), f"raylabel-journal-{ray.get_runtime_context().get_actor_id()}")


def _rows(facts: Facts, ranked: Ranked) -> pa.Table:
    """ROWS of a batch. A sample with a score that is not finite is a reject."""
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
    uri = [uri if reason else "" for uri, reason in zip(facts.uri, facts.reason, strict=True)]  # only rejects need it
    plain = {"key": facts.key, "digest": facts.digest, "group": facts.group, "uri": uri}
    plain |= {name: getattr(facts, name) for name in ("stage", "reason", "detail")}
    columns = [lists[f.name].cast(f.type) if f.name in lists else pa.array(plain[f.name], f.type) for f in ROWS]
    return pa.Table.from_arrays(columns, schema=ROWS)
