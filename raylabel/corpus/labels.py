"""Reads the labels and groups of a corpus without its media, and maps labels to classes."""

import posixpath
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from raylabel.compute.tasks import chunks, fetch
from raylabel.compute.watchdog import heartbeat
from raylabel.corpus.columns import plain
from raylabel.corpus.config import THREADS, Corpus, is_path_label, locate, read_lines
from raylabel.corpus.fingerprint import row_count_changed
from raylabel.corpus.folders import check_folders
from raylabel.corpus.label_rule import clean, is_integer, mixed, not_a_label, same_number
from raylabel.corpus.lists import file_uri, split_line
from raylabel.corpus.loose import file_group, file_label
from raylabel.corpus.read import column_labels, label_column
from raylabel.corpus.shards import Shards
from raylabel.corpus.share import of_whole, rows_of
from raylabel.corpus.tar import TarReader
from raylabel.corpus.tar_read import sample_name, tar_group, tar_label
from raylabel.errors import InputError
from raylabel.schema import make_key, split_key
from raylabel.text import listed

LABELS = pa.schema([pa.field("key", pa.int64(), nullable=False), pa.field("label", pa.string(), nullable=False)])
GROUPS = pa.schema([pa.field("key", pa.int64(), nullable=False), pa.field("group", pa.string())])

What = Literal["labels", "groups"]

Folders = dict[int, list[tuple[str, str]]]
"""Shard → its URI and the first file of each folder, for loose files in folders."""


def read_labels(corpus: Corpus, shards: Shards) -> pa.Table:
    """(key int64, label string) of every row of SHARDS, in key order, without reading the media.

    InputError naming the column or the sample if the label column is missing, a row has no label, or a label is not one
    by the rule of corpus/label_rule.py; and naming two samples if the labels of the set do not fit together.
    """
    table, folders = _by_key(corpus, shards, "labels", LABELS)
    check_folders(corpus, (file for number in sorted(folders) for file in folders[number]))
    _check(corpus, shards, table, set(folders))
    return table


def read_groups(corpus: Corpus, shards: Shards) -> pa.Table:
    """(key int64, group string) of every row of SHARDS, in key order, without reading the media; null where the corpus
    does not give the source video."""
    return _by_key(corpus, shards, "groups", GROUPS)[0]


def _by_key(corpus: Corpus, shards: Shards, what: What, schema: pa.Schema) -> tuple[pa.Table, Folders]:
    """The keys of all rows of SHARDS, each with its label or group. Tasks read them: a tar may be read as a whole."""
    texts: list[pa.Array] = []
    folders: Folders = {}
    for task in [_read_texts.remote(corpus, shards, numbers, what) for numbers in chunks(len(shards))]:
        found, some = fetch(task)
        texts.append(found)
        folders |= some
    keys = [make_key(number, 0) + np.arange(rows, dtype=np.int64) for number, rows in enumerate(shards.rows.tolist())]
    columns = [pa.array(np.concatenate([*keys, np.empty(0, np.int64)])), pa.chunked_array(texts, pa.string())]
    return pa.table(columns, schema=schema), folders


@ray.remote(num_cpus=0.5)
def _read_texts(corpus: Corpus, shards: Shards, numbers: range, what: What) -> tuple[pa.Array, Folders]:
    """The labels or groups of these shards, and their folders."""
    folders: Folders = {}

    def read(number: int) -> pa.Array:
        heartbeat()
        shard = shards.row(number)
        return _read_groups(corpus, shard) if what == "groups" else _read_labels(corpus, shard, folders)

    with ThreadPoolExecutor(THREADS) as pool:
        return pa.concat_arrays(list(pool.map(read, numbers))), folders


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
    names = of_whole(corpus.share, shard, names)
    if len(names) != shard["rows"]:
        raise row_count_changed(shard)
    return pa.array([name or None for name in names], pa.string())


def _read_labels(corpus: Corpus, shard: dict[str, Any], folders: Folders) -> pa.Array:
    """The labels of a shard. For files in folders, also sets the item of `folders`."""
    uri = shard["uri"]
    try:
        if shard["format"] == "parquet":
            fs, path, _ = locate(uri)
            with fs.open_input_file(path) as source, pq.ParquetFile(source) as file:
                label = label_column(corpus, shard, file.schema_arrow.names)
                labels = column_labels(shard, file.read([label[0]]), label, range(file.metadata.num_rows))
        elif shard["format"] == "webdataset":
            with TarReader(uri) as tar:
                labels = [tar_label(corpus, tar, sample) for sample in tar.samples(corpus)]
        else:
            _check_applies(corpus, uri)
            labels = [file_label(corpus, uri, split_line(uri, line)) for line in shard["paths"]]
            if uri.endswith("/"):
                first = {posixpath.dirname(path): (uri, path) for path in reversed(shard["paths"])}
                folders[shard["shard"]] = list(reversed(first.values()))
    except OSError as error:
        raise InputError(f"cannot read the labels of '{uri}': {error}; restore it or index the corpus again") from error
    labels = of_whole(corpus.share, shard, labels)
    if len(labels) != shard["rows"]:
        raise row_count_changed(shard)
    return pa.array(labels, pa.string())


def _check_applies(corpus: Corpus, uri: str) -> None:
    """InputError if `corpus.label` is a column, for a *.txt list and no other list that has columns."""
    columns = any(one.lower().endswith(".csv") for one in (uri, *corpus.uri))
    if corpus.label and not (columns or uri.endswith("/") or is_path_label(corpus.label)):
        raise InputError(
            f"corpus.label is '{corpus.label}', but '{uri}' has no columns: its labels follow a TAB on each line; "
            "leave corpus.label out"
        )


def _check(corpus: Corpus, shards: Shards, table: pa.Table, folders: set[int]) -> None:
    """InputError if a row has no label, a label is not one, or two do not fit together. `folders`: the numbers of the
    shards that are folders."""
    encoded = table["label"].combine_chunks().dictionary_encode()
    codes, texts = encoded.indices, encoded.dictionary.to_pylist()

    def sample(row: int) -> tuple[str, str]:
        return _describe(corpus, shards, table["key"][row].as_py())

    def first(text: str) -> str:
        name, where = sample(codes.index(texts.index(text)).as_py())
        return f"label {text[:200]!r} of '{name}'{where}"

    if codes.null_count:
        name, where = sample(int(np.argmax(codes.is_null().to_numpy(zero_copy_only=False))))
        raise InputError(
            f"no labels: '{name}' has none{where}; give every sample of a labeled set a label, or set corpus.label to "
            "where the labels are"
        )
    named = set(read_classes(corpus))
    source = {"parquet": corpus.label_column, "webdataset": corpus.label_extension}.get(shards.format)
    for text in texts:
        if text not in named and (why := not_a_label(text, source)):
            raise InputError(f"{first(text)} is {why}")
    if corpus.classes is not None:
        return  # every label must be the name or the number of a class: see `encode_labels`
    if twice := same_number(texts):
        raise InputError(
            f"{first(twice[0])} and {first(twice[1])} are the same number: write each class in one way, or give their "
            "names in corpus.classes"
        )
    inside = np.isin(table["key"].to_numpy() >> 32, sorted(folders))
    numbers = codes.to_numpy()
    of_folders, given = ({texts[code] for code in np.unique(numbers[rows])} for rows in (inside, ~inside))
    if both := mixed(given, of_folders):
        raise InputError(
            f"{first(both[0])} is an integer and {first(both[1])} is a name: give only names or only "
            "integers, or name all classes in corpus.classes"
        )


def _describe(corpus: Corpus, shards: Shards, key: int) -> tuple[str, str]:
    """The sample as a user knows it, and in parentheses where its label is."""
    number, row = split_key(key)
    shard = shards.row(number)
    uri, row = shard["uri"], int(rows_of(corpus.share, shard)[row])
    if shard["format"] == "parquet":
        return f"{uri}#{row}", f" (column '{corpus.label_column}')"
    if shard["format"] == "webdataset":
        name = fetch(_read_name.remote(corpus, shard, row))
        return f"{uri}#{name}", f" (member '{corpus.label_extension}')"
    file = file_uri(uri, split_line(uri, shard["paths"][row]).path)
    if uri.endswith("/"):
        return file, f" (corpus.label '{corpus.label}')" if corpus.label else ""
    while number and (before := shards.row(number - 1))["uri"] == uri:  # an earlier shard of the same list
        number, row = number - 1, row + len(before["paths"])
    if uri.lower().endswith(".csv"):
        return file, f" (column '{corpus.label_column}', row {row + 1} below the header of '{uri}')"
    return file, f" (line {row + 1} of '{uri}')"


@ray.remote(num_cpus=0.5)
def _read_name(corpus: Corpus, shard: dict[str, Any], row: int) -> str:
    return sample_name(corpus, shard, row)


def read_classes(corpus: Corpus) -> tuple[str, ...]:
    """The lines of `corpus.classes`, as labels; () without it. InputError if it is empty or has an empty or repeated
    name."""
    if corpus.classes is None:
        return ()
    names: dict[str, None] = {}
    for number, line in enumerate(read_lines(corpus.classes), 1):
        name = clean(line)
        if name is None or name in names:
            raise InputError(f"line {number} of '{corpus.classes}' is {line!r}: give every class its own name")
        names[name] = None
    if not names:
        raise InputError(f"'{corpus.classes}' is empty: give one class name per line")
    return tuple(names)


def class_names(corpus: Corpus, labels: pa.Table) -> tuple[str, ...]:
    """The C classes, in the order of their indices: the lines of `corpus.classes`, or without it the distinct labels,
    sorted (as numbers if all are integers). InputError as for `read_classes`, or if the file lacks a label."""
    if corpus.classes is None:
        texts = labels["label"].unique().to_pylist()
        return tuple(sorted(texts, key=int) if all(_is_integer(text) for text in texts) else sorted(texts))
    names = read_classes(corpus)
    encode_labels(labels, names, corpus)
    return names


def encode_labels(labels: pa.Table, names: tuple[str, ...], corpus: Corpus) -> np.ndarray:
    """The class of each label, int32 [N] in [0, C): the index of its name or, with `corpus.classes`, its line number.

    If all labels of the set are names, also names that are numbers, none is taken for a line number.
    InputError naming the label and its row if it is neither, or if it is both and they are different classes.
    """
    encoded = labels["label"].combine_chunks().dictionary_encode()
    texts = [str(text) for text in encoded.dictionary.to_pylist()]
    classes = np.empty(len(texts), np.int32)
    by_name = {clean(name) or name: c for c, name in enumerate(names)}
    numbers = corpus.classes is not None and not by_name.keys() >= set(texts)
    for code, text in enumerate(texts):
        found = {by_name[text]} if text in by_name else set()
        if numbers and _is_integer(text) and 0 <= int(text) < len(names):
            found.add(int(text))
        if len(found) != 1:
            shard, row = split_key(labels["key"][encoded.indices.index(code).as_py()].as_py())
            what = f"is unknown: the {len(names)} classes are {listed(names, 10)}; correct the label or corpus.classes"
            if found:
                what = (
                    f"is the name of line {by_name[text] + 1} of corpus.classes, and as a number it is line "
                    f"{int(text) + 1}: give names for all labels, or numbers that are no names"
                )
            raise InputError(f"label {text!r} of row {row} of shard {shard} of {', '.join(corpus.uri)} {what}")
        classes[code] = found.pop()
    return classes[encoded.indices.to_numpy()]


def _is_integer(text: str) -> bool:
    return is_integer(text.removeprefix("-"))
