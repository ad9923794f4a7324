"""The samples of loose files, of a folder or a list."""

import os
import posixpath
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, islice
from typing import Any

import pyarrow.fs as pafs

from raylabel.corpus.config import THREADS, Corpus
from raylabel.corpus.lists import Entry, file_uri, split_line
from raylabel.corpus.sample import HELD, Said, Sample, Unread, make_sample
from raylabel.corpus.segments import named_group, parse_segment
from raylabel.schema import MAX_BYTES, make_key
from raylabel.store.files import filesystem, unreadable


def file_label(place: str, uri: str, entry: Entry) -> str | None:
    """The name of the file's folder; for a listed file, the label in the list."""
    if uri.endswith("/"):
        return posixpath.basename(posixpath.dirname(place)) or None
    return entry.label or None


def file_group(corpus: Corpus, entry: Entry) -> str | None:
    """The group in the list if it has such a column, else according to the file's name."""
    return entry.group or None if corpus.group else named_group(corpus, entry.path)


def read_files(corpus: Corpus, shard: Mapping[str, Any], rows: Sequence[int], labels: bool) -> Iterator[Sample]:
    """The Samples of these rows, as in `read_rows`. A file is read once for consecutive segments of it, and few files
    are read ahead."""
    uri, every = shard["uri"], shard["paths"]
    entries = [split_line(uri, every[row]) for row in rows]
    places = [file_uri(uri, entry.path) for entry in entries]
    runs = [(place, len(list(run))) for place, run in groupby(places)]
    most = max(1, HELD * len(every) // max(1, shard["bytes"]))
    pool = ThreadPoolExecutor(THREADS)
    reading: deque[Future[tuple[bytes | None, Unread]]] = deque()
    try:
        todo, about = iter(runs), zip(rows, entries, strict=True)
        for place, count in runs:
            reading.extend(pool.submit(_read_file, ahead) for ahead, _ in islice(todo, most - len(reading)))
            media, error = reading.popleft().result()
            for row, entry in islice(about, count):
                label = file_label(place, uri, entry) if labels else None
                said = Said(label, parse_segment(entry.start, entry.end, place), file_group(corpus, entry))
                yield make_sample(make_key(shard["shard"], row), place, media, said, error)
    finally:
        pool.shutdown(cancel_futures=True)


def _read_file(uri: str) -> tuple[bytes | None, Unread]:
    """(bytes or None, why there are none). InputError if an object store does not answer."""
    fs, path = filesystem(uri)
    local = isinstance(fs, pafs.LocalFileSystem)
    if local and os.path.exists(path) and not os.path.isfile(path):
        return None, "unreadable"  # opening a pipe would block
    try:
        with fs.open_input_file(path) as file:
            if file.size() > MAX_BYTES:
                return None, "too_many_bytes"
            return file.read(), "empty"  # the error if there are no bytes
    except FileNotFoundError:
        return None, "missing"
    except OSError as error:
        if not local:
            raise unreadable(uri, error) from error
        return None, "unreadable"
