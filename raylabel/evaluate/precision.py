"""How many picks have their true label, where it is known: a measurement, never an input of training."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raylabel.corpus import Shards
from raylabel.corpus.config import THREADS, absolute
from raylabel.corpus.csvs import csv_columns
from raylabel.corpus.lists import file_uri, split_line
from raylabel.corpus.share import rows_of
from raylabel.errors import InputError
from raylabel.evaluate.classify import wilson
from raylabel.evaluate.results import BORDER, PRECISION, Metric, Subject
from raylabel.schema import PICKS
from raylabel.store.artifact import Artifact
from raylabel.store.files import filesystem
from raylabel.text import one_line


@dataclass(frozen=True, kw_only=True)
class Truth:
    """True labels of a corpus: of parquet files, joined by a column that both tables have, or of loose files, joined by
    their locations."""

    uri: str
    """Table of ids and labels: a *.csv with a header, or a parquet file."""
    id: str = "id"
    """Column that identifies a sample. For parquet files, the corpus has it too. For loose files, it contains paths,
    absolute or relative to the folder of this table, or s3:// and gs:// URIs; segments of a video share its label."""
    label: str = "label"
    """Column of class indices in this table, or of the names of classes; empty or null if the label is not known."""


def pick_precision(
    of: Subject, picks: Artifact, shards: Artifact, share: float, truth: Truth | None, classes: Sequence[str] = ()
) -> list[Metric]:
    """Share of picks whose label is the true one; n is the number of picks whose true label is known. If not all are,
    as after people have labeled the last picks of each list, also that of the last picks. No row without a truth table.
    `share` is that of the corpus; `classes`: the names of the classes, in the order of their indices.

    Ids are compared as text. The truth table and the ids of the picks are held in memory: a corpus with true labels is
    small enough. Reads the ids of the shards that contain picks. InputError if a table lacks its column, a label is no
    class, an id has two labels, no pick has a known label, or the corpus is of tars, whose samples have no ids.
    """
    if truth is None:
        return []
    corpus = Shards(shards)
    if corpus.format == "webdataset":
        raise InputError(f"truth.uri is '{truth.uri}', but the samples of tars have no ids to join by: give no truth")
    known = _read_truth(truth, corpus.format == "files", classes)
    if len(known["id"].unique()) < len(known):
        raise InputError(f"truth.uri '{truth.uri}': column '{truth.id}' names a sample twice: give each one label")
    table = picks.table("picks", PICKS, ["label", "rank", "key"]).sort_by("key")
    keys = table["key"].to_numpy()
    numbers, firsts = np.unique(keys >> 32, return_index=True)
    rows = np.split(keys & 0xFFFFFFFF, firsts[1:])  # of each shard

    def ids_of(shard: Mapping[str, Any], rows: np.ndarray) -> pa.ChunkedArray:
        uri, paths = shard["uri"], shard["paths"]
        rows = rows_of(share, shard)[rows]
        if shard["format"] == "files":
            return pa.chunked_array([[file_uri(uri, split_line(uri, paths[row]).path) for row in rows]], _TEXT)
        return _columns(uri, [truth.id])[truth.id].cast(_TEXT).take(pa.array(rows))

    with ThreadPoolExecutor(THREADS) as pool:
        ids = [chunk for column in pool.map(ids_of, map(corpus.row, numbers.tolist()), rows) for chunk in column.chunks]
    picked = pa.table({"id": pa.chunked_array(ids, _TEXT), "label": table["label"], "rank": table["rank"]})
    both = picked.join(known, "id", join_type="inner")
    if not len(both):
        raise InputError(
            f"truth.uri '{truth.uri}': none of the picks' ids is in column '{truth.id}': set truth.id to that column"
        )
    right = both["label"].to_numpy() == both["true"].to_numpy()
    found = [Metric(**vars(of), metric=PRECISION, value=float(right.mean()), n=len(both))]
    if len(both) < len(table):
        found.append(_border(of, picked["label"].to_numpy(), both["label"].to_numpy(), both["rank"].to_numpy(), right))
    return found


def _border(of: Subject, picked: np.ndarray, label: np.ndarray, rank: np.ndarray, right: np.ndarray) -> Metric:
    """The last picks of each list. `picked`: the classes of all picks; label, rank, right: of those whose true label is
    known, and whether it is that class."""
    counts = np.bincount(picked)
    longest = int((counts[label] - rank).max()) + 1  # from the first that is known to the end of its list
    n, hits = int(np.minimum(counts, longest).sum()), int(right[rank > counts[label] - longest].sum())
    low, high = wilson(hits, n)
    return Metric(**vars(of), metric=BORDER, value=hits / n, low=low, high=high, n=n)


_TEXT = pa.large_string()


def _read_truth(truth: Truth, files: bool, classes: Sequence[str]) -> pa.Table:
    """(id as text, true label as int64) of the samples whose label is known; the ids of loose files are full URIs."""
    if truth.uri.lower().endswith(".csv"):
        # An empty field is null, as in a parquet file.
        rows = [[text or None for text in row] for _, row in csv_columns(truth.uri, (truth.id, truth.label))]
        ids, labels = (pa.chunked_array([column], _TEXT) for column in (zip(*rows, strict=True) if rows else ([], [])))
    else:
        table = _columns(truth.uri, [truth.id, truth.label])
        ids, labels = table[truth.id].cast(_TEXT), table[truth.label]
    if files:
        table_uri = absolute(truth.uri)
        ids = pa.chunked_array([[name and file_uri(table_uri, name) for name in ids.to_pylist()]], _TEXT)
    try:
        labels = labels.cast(pa.int64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        named = labels.cast(_TEXT)
        labels = pc.index_in(named, value_set=pa.array(classes, _TEXT)).cast(pa.int64())  # pyright: ignore[reportAttributeAccessIssue]
        if labels.null_count != named.null_count:
            what = f"truth.uri '{truth.uri}': column '{truth.label}' does not contain class indices"
            raise InputError(f"{what}: {one_line(error)}; give zero-based numbers, or only names of classes") from error
    return pa.table({"id": ids, "true": labels}).drop_null()


def _columns(uri: str, names: list[str]) -> pa.Table:
    fs, path = filesystem(uri)
    try:
        with pq.ParquetFile(path, filesystem=fs) as file:
            if missing := [name for name in names if name not in file.schema_arrow.names]:
                raise InputError(f"truth: '{uri}' has no column '{missing[0]}', only {file.schema_arrow.names}")
            return file.read(columns=names)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"truth: cannot read '{uri}': {error}") from error
