"""Reads units one after the other and ahead: the next shards are opened and requested before the current one is read.

A parquet file or tar on a local disk is read when it is its turn, because the system reads ahead there.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import chain, islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raylabel.corpus.config import Corpus
from raylabel.corpus.fingerprint import verify_open
from raylabel.corpus.loose import Files
from raylabel.corpus.ranges import RangeFile, parquet_ranges
from raylabel.corpus.read import read_rows
from raylabel.corpus.sample import Sample
from raylabel.corpus.shards import Shards
from raylabel.corpus.share import rows_of
from raylabel.corpus.tar_read import ranges
from raylabel.corpus.units import Unit
from raylabel.errors import InputError
from raylabel.store.fetch import Fetcher, Plan, Queue
from raylabel.store.files import is_local

AHEAD = 32  # units whose requests are planned: with tiny shards, so many are opened at a time

Prepared = tuple[dict[str, Any], "Future[RangeFile] | Files | None"]
"""The shard, and what is read ahead; None for a parquet file or tar on a local disk."""


class UnitReader:
    """Gives the Samples of units. Requests begin when it is made, after those of readers that were made before it.

    Adjacent units are read in one run: starting inside a row group of a parquet file costs as much as reading all of
    its earlier rows. The errors are those of `read_rows`.
    """

    def __init__(self, corpus: Corpus, shards: Shards, units: Sequence[Unit], fetcher: Fetcher) -> None:
        self._corpus, self._shards, self._fetcher = corpus, shards, fetcher
        self._queue = fetcher.queue()
        self._todo = _runs(units)
        self._prepared: deque[tuple[list[Unit], Sequence[int], Future[Prepared]]] = deque()
        self._prepare_more()

    def __iter__(self) -> Iterator[tuple[list[Unit], Iterator[Sample]]]:
        """Each run with its Samples, which must be read to their end."""
        try:
            while self._prepared:
                run, rows, prepared = self._prepared[0]
                shard, ahead = prepared.result()
                yield run, read_rows(self._corpus, shard, rows, ahead=ahead)
                self._prepared.popleft()
                self._prepare_more()
        finally:
            self.close()

    def close(self) -> None:
        self._queue.close()
        for _, _, prepared in self._prepared:
            prepared.cancel()
        self._prepared.clear()

    def _prepare_more(self) -> None:
        for run in islice(self._todo, AHEAD - len(self._prepared)):
            first, last, plan = run[0], run[-1], self._queue.plan()
            only = tuple(chain.from_iterable(unit.only for unit in run))
            rows = only or range(first.first, last.first + last.rows)
            prepared = self._fetcher.submit(self._prepare, first.shard, rows, self._queue, plan)
            self._prepared.append((run, rows, prepared))
        if len(self._prepared) < AHEAD:
            self._queue.end()

    def _prepare(self, number: int, rows: Sequence[int], queue: Queue, plan: Plan) -> Prepared:
        try:
            shard = self._shards.row(number)
            if self._corpus.share < 1:
                rows = rows_of(self._corpus.share, shard)[np.asarray(rows)].tolist()
            if shard["format"] == "files":
                return shard, Files(shard, rows, queue, plan)
            return shard, None if is_local(shard["uri"]) else _open(self._corpus, shard, rows, queue, plan)
        finally:
            if plan.blocks is None:
                plan.fill(())


def _runs(units: Sequence[Unit]) -> Iterator[list[Unit]]:
    run: list[Unit] = []
    for unit in units:
        if run and not _follows(run[-1], unit):
            yield run
            run = []
        run.append(unit)
    if run:
        yield run


def _follows(one: Unit, other: Unit) -> bool:
    """Whether both are of one shard, and other rows of it after those of the first, without a gap if all are read."""
    if one.shard != other.shard or bool(one.only) != bool(other.only):
        return False
    return one.only[-1] < other.only[0] if one.only else one.first + one.rows == other.first


def _open(
    corpus: Corpus, shard: Mapping[str, Any], rows: Sequence[int], queue: Queue, plan: Plan
) -> "Future[RangeFile] | None":
    """A parquet file or tar of which these rows will be read, or the error that `read_rows` will raise. None if it is
    not known what will be read of a tar."""
    opened: Future[RangeFile] = Future()
    try:
        if shard["format"] == "webdataset":
            if (found := ranges(corpus, shard, rows)) is None:
                return None
            file = RangeFile(shard["uri"], queue, partial(verify_open, shard))
            file.fill(plan, found, once=False)
        else:
            file = RangeFile(shard["uri"], queue, partial(verify_open, shard))
            with pq.ParquetFile(file, pre_buffer=False) as parquet:
                file.footer = parquet.metadata
            columns = {corpus.media_column, corpus.start, corpus.end, corpus.group} - {None}
            file.fill(plan, parquet_ranges(file.footer, rows, columns))
        opened.set_result(file)
    except (OSError, pa.ArrowException, InputError) as error:
        opened.set_exception(error)
    return opened
