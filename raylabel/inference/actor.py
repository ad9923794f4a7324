"""The actors that score a corpus: units of encoded media → rows of SCORES or FEATURES, and of REJECTS.

Either an actor reads and decodes the media itself and returns only small tables, or Ray tasks read and decode the media
and send whole batches of pixels to the actor. In both cases a batch belongs to one unit, is padded to a fixed shape and
is scored alone, so the rows have the same bytes.
"""

import collections
import itertools
import os
import queue
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
from raylabel.corpus.ahead import UnitReader
from raylabel.errors import InputError
from raylabel.inference.batches import BATCH, Facts, ScoringTask, batches, scored_units, unpack_batches
from raylabel.inference.crash_journal import MAX_CRASHES, CrashJournal
from raylabel.inference.scorer import Found, Kept
from raylabel.media.sandbox.sandbox import Sandbox, shared_sandbox
from raylabel.store.fetch import REQUESTS, Fetcher
from raylabel.store.files import CONNECTIONS
from raylabel.text import one_line

CALLS = 2  # of an actor at a time: the second one reads ahead while the first one is scored


class ScoringActor:
    """Loads a scorer once, then scores units that it decodes itself, or batches of pixels that Ray tasks decoded.

    Calls may run in several threads. One thread scores their batches, call after call, without a pause between them.
    """

    def __init__(self, task: ScoringTask):
        self._task = task
        self._journal = CrashJournal(_journal_path())
        self._threads = ThreadPoolExecutor(task.pool.threads) if task.pool.threads > 1 else None
        self._sandbox = Sandbox(task.scorer.parser, task.pool.threads) if task.pool.threads else None
        self._fetcher = Fetcher(min(CONNECTIONS, REQUESTS * max(1, task.pool.threads)))
        self._scoring = ThreadPoolExecutor(1, "score")
        self._waiting: collections.deque[_Call] = collections.deque()
        self._begun: list[_Call] = []
        self._error: InputError | None = None
        try:
            start = self._scoring.submit(task.scorer.start, gpu=task.pool.gpus > 0)
            self._run = start.result()  # while the sandbox is starting
        except InputError as error:  # the first call raises it: Ray turns what a constructor raises into a long text
            self._error = error

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """Rows of ITEM, or of BATCH → tables of `Kept.rows`, in order."""
        if self._error:
            raise self._error
        if self._journal.exhausted:
            why = self._journal.why and f" ({self._journal.why})"
            raise InputError(
                f"the teacher's process crashed {MAX_CRASHES} times in a row and finished no batch{why}: its machine "
                "has too little memory, its GPU is defective, or the network does not run there; lower "
                "--resources.teachers or --label.batch, or replace the machine"
            )
        if table.schema.names == BATCH.names:
            call = _Call(unpack_batches(table, self._task))
        else:
            units = [unit for units in scored_units(self._task, table) for unit in units]
            reader = UnitReader(self._task.corpus, self._task.shards, units, self._fetcher)
            sandbox = self._sandbox or shared_sandbox(self._task.scorer.parser)
            call = _Call(batches(self._task, reader, sandbox, self._threads), reader)
        self._waiting.append(call)
        self._scoring.submit(self._score_waiting)
        yield from call.results()

    def _score_waiting(self) -> None:
        """Scores the calls that wait, and those that begin to wait meanwhile."""
        while self._waiting:
            try:
                for suspect, some in itertools.groupby(self._batches(), lambda batch: self._is_suspect(batch[1])):
                    if suspect:
                        for call, facts, pixels in some:
                            call.give(self._score_in_spans(facts, pixels))
                    else:
                        self._score_whole(some)
            except BaseException as error:  # passed to the threads that called, which raise it
                found = self._explain(error)
                for call in self._begun:
                    call.end(found)

    def _explain(self, error: BaseException) -> BaseException:
        """The error to raise. Ends this process if its GPU failed."""
        if is_out_of_memory(error):
            found = InputError(
                f"out of GPU memory in a batch of {self._task.batch} ({_line(error)}): lower --label.batch"
            )
            found.__cause__ = error
            return found
        if is_device_error(error):
            self._journal.end(_line(error))
            print(f"error: {_line(error)}: this process ends and is started again", file=sys.stderr, flush=True)
            os._exit(1)  # it cannot use the GPU any more; to Ray and to the journal this is a crash
        return error

    def _batches(self) -> Iterator["_Batch"]:
        """The batches of all calls, until none waits."""
        while self._waiting:
            self._begun = [call for call in self._begun if not call.ended]
            self._begun.append(call := self._waiting.popleft())
            yield from call.batches()

    def _is_suspect(self, facts: Facts) -> bool:
        return self._journal.is_suspect(*_batch_id(facts))

    def _score_whole(self, batches: Iterable["_Batch"]) -> None:
        late: collections.deque[tuple[_Call, Facts]] = collections.deque()  # a GPU returns each batch one batch late

        def pixels() -> Iterator[np.ndarray]:
            for call, facts, batch in batches:
                late.append((call, facts))
                key, rows = _batch_id(facts)
                self._journal.start((key, 0, rows))
                yield batch

        for ranked in self._run(pixels()):
            self._journal.finish()
            heartbeat()
            call, facts = late.popleft()
            call.give(self._rows(facts, ranked))

    def _score_in_spans(self, facts: Facts, pixels: np.ndarray) -> pa.Table:
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
        return self._rows(facts, tuple(found))

    def _rows(self, facts: Facts, found: Found) -> pa.Table:
        return _rows(self._task.scorer.kept, facts, found)


class _Call:
    """A call of the actor. `results` is for the thread that called, the rest for the one that scores."""

    def __init__(self, batches: Iterator[tuple[Facts, np.ndarray]], reader: UnitReader | None = None) -> None:
        """`reader`: is closed when the call ends."""
        self._source, self._reader = batches, reader
        self._results: queue.SimpleQueue[pa.Table | BaseException | None] = queue.SimpleQueue()
        self._missing, self._whole = 0, False
        self.ended = False

    def results(self) -> Iterator[pa.Table]:
        try:
            while (result := self._results.get()) is not None:
                if isinstance(result, BaseException):
                    raise result
                yield result
        finally:
            self.ended = True  # nobody waits for the rest

    def batches(self) -> Iterator["_Batch"]:
        """What is to be scored. An error of the source ends this call, not those that are scored with it."""
        try:
            for facts, pixels in self._source:
                if self.ended:
                    break
                self._missing += 1
                yield self, facts, pixels
            self._whole = True
            self._end_if_complete()
        except Exception as error:
            self.end(error)
        finally:
            if self._reader:
                self._reader.close()

    def give(self, rows: pa.Table) -> None:
        """The rows of the oldest batch without any."""
        self._missing -= 1
        self._results.put(rows)
        self._end_if_complete()

    def _end_if_complete(self) -> None:
        if self._whole and not self._missing:
            self.end()

    def end(self, error: BaseException | None = None) -> None:
        self.ended = True
        self._results.put(error)


_Batch = tuple[_Call, Facts, np.ndarray]


def _batch_id(facts: Facts) -> tuple[int, int]:
    """Identifies a batch in the journal: (key of its first sample, number of its samples)."""
    return int(facts.key[0]), len(facts.key)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)[:200]}"


def _journal_path() -> str:
    """A file in Ray's session folder on this node: it is removed together with that folder."""
    return os.path.join(session_folder(), f"raylabel-journal-{ray.get_runtime_context().get_actor_id()}")


def _rows(kept: Kept, facts: Facts, results: Found) -> pa.Table:
    """Rows of a batch. A sample with a score that is not finite is a reject."""
    n = len(facts.key)
    found = {name: np.empty((n, 0)) for name in dict.fromkeys([*kept.arrays, "thumbnail"])}
    found |= {name: values[:n] for name, values in zip(found, results, strict=False)}
    finite = np.ones(n, bool)
    for values in found.values():
        finite &= np.isfinite(values).reshape(n, -1).all(axis=1)
    readable = np.fromiter((not reason for reason in facts.reason), bool, n)
    for slot in np.flatnonzero(readable & ~finite).tolist():
        facts.reject(slot, "score", "not_finite")
    keep = readable & finite
    count_samples(int(keep.sum()), filter(None, facts.reason))
    ends = np.zeros(n + 1, np.int32)
    np.cumsum(keep, out=ends[1:])
    columns = {
        name: pa.ListArray.from_arrays(ends * np.int32(values.shape[1]), values[keep].ravel())
        for name, values in found.items()
        if values.ndim > 1
    }
    plain = {name: np.where(keep, values, 0) for name, values in found.items() if values.ndim == 1}
    uri = [uri if reason else "" for uri, reason in zip(facts.uri, facts.reason, strict=True)]  # only rejects need it
    plain |= {"key": facts.key, "digest": facts.digest, "group": facts.group, "uri": uri}
    plain |= {name: getattr(facts, name) for name in ("stage", "reason", "detail", "name")}
    columns |= {name: pa.array(values, kept.rows.field(name).type) for name, values in plain.items()}
    return pa.Table.from_arrays([columns[f.name].cast(f.type) for f in kept.rows], schema=kept.rows)
