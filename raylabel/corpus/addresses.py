"""Where the samples of a shard are, as a user names them; found without reading media."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from raylabel.corpus.config import Corpus
from raylabel.corpus.lists import file_uri, split_line
from raylabel.corpus.share import rows_of


def addresses(corpus: Corpus, shard: Mapping[str, Any], rows: Sequence[int], names: Sequence[str]) -> Iterator[str]:
    """The addresses of some rows of a shard; `shard` is its row of SHARDS.

    A loose file is its URI, and a segment of one is `clip.mp4#t=1.5,3.0`, as in W3C's Media Fragments. A row of a
    parquet file is `a.parquet#12`, and a sample of a tar `a.tar#member`; `names` are its names, and used of tars only.
    """
    uri = shard["uri"]
    if shard["format"] == "webdataset":
        return (f"{uri}#{name}" for name in names)
    whole = rows_of(corpus.share, shard)[np.asarray(rows)].tolist()
    if shard["format"] == "parquet":
        return (f"{uri}#{row}" for row in whole)
    return (_of_file(uri, shard["paths"][row]) for row in whole)


def _of_file(uri: str, line: str) -> str:
    entry = split_line(uri, line)
    segment = f"{entry.start},{entry.end}" if entry.end else entry.start
    return file_uri(uri, entry.path) + (f"#t={segment}" if segment else "")
