"""Where the samples of a shard are, as a user names them; found without reading media."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from raylabel.corpus.config import Corpus
from raylabel.corpus.lists import Entry, file_uri, split_line
from raylabel.corpus.share import rows_of


def addresses(corpus: Corpus, shard: Mapping[str, Any], rows: Sequence[int], names: Sequence[str]) -> Iterator[str]:
    """The addresses of some rows of a shard; `shard` is its row of SHARDS.

    A loose file is its URI, and a segment of one is `clip.mp4#t=1.5,3.0`, as in W3C's Media Fragments. A row of a
    parquet file is `a.parquet#12`, and a sample of a tar `a.tar#member`; `names` are its names, and used of tars only.
    """
    uri = shard["uri"]
    if shard["format"] == "webdataset":
        return (f"{uri}#{name}" for name in names)
    if shard["format"] == "parquet":
        return (f"{uri}#{row}" for row in rows_of(corpus.share, shard)[np.asarray(rows)].tolist())
    return map(_address, entries(corpus, shard, rows))


def entries(corpus: Corpus, shard: Mapping[str, Any], rows: Sequence[int]) -> Iterator[Entry]:
    """Some rows of a shard of loose files as a list has them, with the URIs of the files as their paths."""
    for row in rows_of(corpus.share, shard)[np.asarray(rows)].tolist():
        entry = split_line(shard["uri"], shard["paths"][row])
        yield replace(entry, path=file_uri(shard["uri"], entry.path))


def _address(entry: Entry) -> str:
    segment = f"{entry.start},{entry.end}" if entry.end else entry.start
    return entry.path + (f"#t={segment}" if segment else "")
