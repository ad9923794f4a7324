"""Reads the labels and groups of a corpus without its media, and maps labels to classes."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raylabel.corpus.columns import plain
from raylabel.corpus.config import THREADS, Corpus, locate, read_lines
from raylabel.corpus.lists import file_uri, split_line
from raylabel.corpus.loose import file_group, file_label
from raylabel.corpus.read import check_label_column, label_text, row_count_changed, tar_group, tar_text
from raylabel.corpus.shards import Shards
from raylabel.corpus.tar import TarReader
from raylabel.errors import InputError
from raylabel.schema import make_key, split_key
from raylabel.text import listed

LABELS = pa.schema([pa.field("key", pa.int64(), nullable=False), pa.field("label", pa.string(), nullable=False)])
GROUPS = pa.schema([pa.field("key", pa.int64(), nullable=False), pa.field("group", pa.string())])


def read_labels(corpus: Corpus, shards: Shards) -> pa.Table:
    """(key int64, label string) of every row of SHARDS, in key order, without reading the media.

    InputError naming the column or the row if the label column is missing or a row has no label.
    """
    return _by_key(shards, lambda shard: pa.array(_read_labels(corpus, shard), pa.string()), LABELS)


def read_groups(corpus: Corpus, shards: Shards) -> pa.Table:
    """(key int64, group string) of every row of SHARDS, in key order, without reading the media; null where the corpus
    does not give the source video."""
    return _by_key(shards, lambda shard: _read_groups(corpus, shard), GROUPS)


def _by_key(shards: Shards, read: Callable[[dict[str, Any]], pa.Array], schema: pa.Schema) -> pa.Table:
    """The keys of all rows of SHARDS, each with its string; `read` returns the strings of one shard."""
    numbers, rows = range(len(shards)), shards.rows.tolist()
    with ThreadPoolExecutor(THREADS) as pool:
        chunks = list(pool.map(lambda number: read(shards.row(number)), numbers))
    keys = [make_key(number, 0) + np.arange(rows[number], dtype=np.int64) for number in numbers]
    return pa.table(
        [pa.array(np.concatenate([*keys, np.empty(0, np.int64)])), pa.chunked_array(chunks, pa.string())], schema=schema
    )


def _read_groups(corpus: Corpus, shard: dict[str, Any]) -> pa.Array:
    uri, form = shard["uri"], shard["format"]
    if not corpus.group and (corpus.kind == "image" or form == "parquet"):
        return pa.nulls(shard["rows"], pa.string())
    try:
        if form == "parquet":
            fs, path, _ = locate(uri)
            with fs.open_input_file(path) as source, pq.ParquetFile(source) as file:
                names = plain(file.read([corpus.group]).column(0)).cast(pa.string()).to_pylist()
        elif form == "webdataset":
            with TarReader(uri) as tar:
                names = [tar_group(corpus, tar, sample) for sample in tar.samples(corpus)]
        else:
            names = [file_group(corpus, split_line(uri, line)) for line in shard["paths"]]
    except OSError as error:
        raise InputError(f"cannot read the groups of '{uri}': {error}; restore it or index the corpus again") from error
    if len(names) != shard["rows"]:
        raise row_count_changed(shard)
    return pa.array([name or None for name in names], pa.string())


def _read_labels(corpus: Corpus, shard: dict[str, Any]) -> list[str | None]:
    uri = shard["uri"]
    where: list[str] = []
    try:
        if shard["format"] == "parquet":
            fs, path, _ = locate(uri)
            with fs.open_input_file(path) as source, pq.ParquetFile(source) as file:
                check_label_column(corpus, shard, file.schema_arrow.names)
                labels = label_text(shard, file.read([corpus.label_column]).column(0))
        elif shard["format"] == "webdataset":
            with TarReader(uri) as tar:
                read = [(sample.name, tar_text(tar, sample, corpus.label_extension)) for sample in tar.samples(corpus)]
            where, labels = [f"{uri}#{name}" for name, _ in read], [label for _, label in read]
        else:
            entries = [split_line(uri, line) for line in shard["paths"]]
            where = [file_uri(uri, entry.path) for entry in entries]
            labels = [file_label(location, uri, entry) for location, entry in zip(where, entries, strict=True)]
    except OSError as error:
        raise InputError(f"cannot read the labels of '{uri}': {error}; restore it or index the corpus again") from error
    if len(labels) != shard["rows"]:
        raise row_count_changed(shard)
    if None in labels:
        row = labels.index(None)
        sample = where[row] if where else f"{uri}#{row}"
        raise InputError(f"no labels: '{sample}' has none; give every sample of a labeled set a label")
    return labels


def class_names(corpus: Corpus, labels: pa.Table) -> tuple[str, ...]:
    """The C classes, in the order of their indices: the lines of `corpus.classes`, or without it the distinct labels,
    sorted (as numbers if all are integers). InputError if the file is empty, has an empty or repeated name, or lacks a
    label."""
    if corpus.classes is None:
        texts = labels["label"].unique().to_pylist()
        return tuple(sorted(texts, key=int) if all(_is_integer(text) for text in texts) else sorted(texts))
    names = tuple(line.strip() for line in read_lines(corpus.classes))
    for i, name in enumerate(names):
        if not name or name in names[:i]:
            raise InputError(f"line {i + 1} of '{corpus.classes}' is {name!r}: give every class its own name")
    if not names:
        raise InputError(f"'{corpus.classes}' is empty: give one class name per line")
    encode_labels(labels, names, corpus)
    return names


def encode_labels(labels: pa.Table, names: tuple[str, ...], corpus: Corpus) -> np.ndarray:
    """The class of each label, int32 [N] in [0, C): the index of its name or, with `corpus.classes`, its line number.

    InputError naming the label and its row if it is neither, or if it is both and they are different classes.
    """
    encoded = labels["label"].combine_chunks().dictionary_encode()
    classes = np.empty(len(encoded.dictionary), np.int32)
    by_name = {name: c for c, name in enumerate(names)}
    for code, text in enumerate(encoded.dictionary.to_pylist()):
        found = {by_name[text]} if text in by_name else set()
        if corpus.classes is not None and _is_integer(text) and 0 <= int(text) < len(names):
            found.add(int(text))
        if len(found) != 1:
            shard, row = split_key(labels["key"][encoded.indices.index(code).as_py()].as_py())
            what = f"is unknown: the {len(names)} classes are {listed(names, 10)}; correct the label or corpus.classes"
            if found:
                what = (
                    f"names class {by_name[text]} and is the number of another: give names, or leave corpus.classes out"
                )
            raise InputError(f"label {text!r} of row {row} of shard {shard} of {', '.join(corpus.uri)} {what}")
        classes[code] = found.pop()
    return classes[encoded.indices.to_numpy()]


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdecimal()
