"""Reads the samples of loose files in a folder or a list."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import groupby, islice
from typing import Any

import pyarrow.fs as pafs

from raylabel.corpus.config import THREADS, Corpus
from raylabel.corpus.folders import folder_label
from raylabel.corpus.label_rule import clean
from raylabel.corpus.lists import Entry, file_uri, split_line
from raylabel.corpus.sample import Metadata, Sample, Unread, make_sample
from raylabel.corpus.segments import named_group, parse_segment
from raylabel.schema import MAX_BYTES, make_key
from raylabel.store.fetch import HELD, Block, Fetcher, Plan, Queue
from raylabel.store.files import filesystem, open_ranges, unreadable


def file_label(corpus: Corpus, uri: str, entry: Entry) -> str | None:
    """The label of a loose file: the name of a folder above it, or for a listed file the label in the list."""
    return clean(folder_label(corpus, uri, entry.path) if uri.endswith("/") else entry.label)


def file_group(corpus: Corpus, entry: Entry) -> str | None:
    """The group of a loose file: from the list if `corpus.group` names a column, else from the file's name."""
    return entry.group or None if corpus.group else named_group(corpus, entry.path)


class Files:
    """Loose files that are read ahead, each once: consecutive segments of one file share one read."""

    def __init__(self, shard: Mapping[str, Any], rows: Sequence[int], queue: Queue, plan: Plan) -> None:
        self.queue = queue
        size = shard["bytes"] // max(1, len(shard["paths"]))
        self.runs = [
            (location, len(list(run)), Block(size, partial(_read_file, location)))
            for location, run in groupby(file_uri(shard["uri"], entry.path) for entry in _entries(shard, rows))
        ]
        plan.fill(block for _, _, block in self.runs)


def read_files(
    corpus: Corpus, shard: Mapping[str, Any], rows: Sequence[int], labels: bool, ahead: Files | None = None
) -> Iterator[Sample]:
    """The Samples of these rows, as in `read_rows`. Files are read ahead, up to about HELD bytes."""
    if ahead is None:
        fetcher = Fetcher(THREADS, HELD)
        queue = fetcher.queue()
        try:
            yield from read_files(corpus, shard, rows, labels, Files(shard, rows, queue, queue.plan()))
        finally:
            queue.close()
            fetcher.close()
        return
    samples = zip(rows, _entries(shard, rows), strict=True)
    for location, count, block in ahead.runs:
        media, error = ahead.queue.take(block)
        for row, entry in islice(samples, count):
            label = file_label(corpus, shard["uri"], entry) if labels else None
            metadata = Metadata(label, parse_segment(entry.start, entry.end, location), file_group(corpus, entry))
            yield make_sample(make_key(shard["shard"], row), location, media, metadata, error)
        ahead.queue.release(block)


def _entries(shard: Mapping[str, Any], rows: Sequence[int]) -> list[Entry]:
    lines = shard["paths"]
    return [split_line(shard["uri"], lines[row]) for row in rows]


def _read_file(uri: str) -> tuple[bytes | None, Unread]:
    """(bytes, or None if they cannot be read; the reason). InputError if an object store does not answer."""
    fs, path = filesystem(uri)
    local = isinstance(fs, pafs.LocalFileSystem)
    if local and os.path.exists(path) and not os.path.isfile(path):
        return None, "unreadable"  # opening a pipe would block
    try:
        # A pa.PythonFile would take the interpreter's lock some ten times per file, and many threads wait for it.
        with closing(open_ranges(uri)) as file:
            if (size := file.size()) > MAX_BYTES:
                return None, "too_many_bytes"
            return file.read_at(size, 0), "empty"  # the reason if there are no bytes
    except FileNotFoundError:
        return None, "missing"
    except OSError as error:
        if not local:
            raise unreadable(uri, error) from error
        return None, "unreadable"
