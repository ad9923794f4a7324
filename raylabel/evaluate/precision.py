"""How many picks carry their true label, where somebody knows it: a measurement, never an input of training."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raylabel.artifact import Artifact
from raylabel.corpus import Shards
from raylabel.errors import InputError
from raylabel.schema import PICKS
from raylabel.storage import filesystem


@dataclass(frozen=True, kw_only=True)
class Truth:
    """True labels of a parquet corpus, joined by a column that both tables have."""

    uri: str
    """Parquet file of ids and labels."""
    id: str = "id"
    """Column that names a sample, in the truth and in the corpus."""
    label: str = "label"
    """Column of class indices in the truth."""


def pick_precision(picks: Artifact, shards: Artifact, truth: Truth | None) -> tuple[float, int] | None:
    """(share of picks whose label is true, picks whose truth is known); None without a truth table.

    Ids are compared as text. Holds the truth and the ids of the picks in memory: for corpora small enough that somebody
    labeled them. Reads the ids of the shards that hold picks. InputError if a table lacks its column, an id has two
    labels, or no pick is known.
    """
    if truth is None:
        return None
    known = _columns(truth.uri, [truth.id, truth.label])
    known = pa.table({"id": _text(known[truth.id]), "true": known[truth.label].cast(pa.int64())}).drop_null()
    if len(known["id"].unique()) < len(known):
        raise InputError(f"truth '{truth.uri}': column '{truth.id}' names a sample twice: give each one label")
    table = picks.table("picks", PICKS, ["label", "key"]).sort_by("key")
    keys = table["key"].to_numpy()
    numbers, firsts = np.unique(keys >> 32, return_index=True)
    rows = np.split(keys & 0xFFFFFFFF, firsts[1:])  # of each shard

    uris = [Shards(shards).row(number)["uri"] for number in numbers.tolist()]

    def ids_of(uri: str, rows: np.ndarray) -> pa.ChunkedArray:
        return _text(_columns(uri, [truth.id])[truth.id]).take(pa.array(rows))

    with ThreadPoolExecutor(16) as pool:
        ids = [chunk for column in pool.map(ids_of, uris, rows) for chunk in column.chunks]
    picked = pa.table({"id": pa.chunked_array(ids, pa.large_string()), "label": table["label"]})
    both = picked.join(known, "id", join_type="inner")
    if not len(both):
        raise InputError(f"truth '{truth.uri}': none of the picks' ids is in column '{truth.id}'")
    return float(np.mean(both["label"].to_numpy() == both["true"].to_numpy())), len(both)


def _text(ids: pa.ChunkedArray) -> pa.ChunkedArray:
    return ids.cast(pa.large_string())


def _columns(uri: str, names: list[str]) -> pa.Table:
    fs, path = filesystem(uri)
    try:
        with pq.ParquetFile(path, filesystem=fs) as file:
            if missing := [name for name in names if name not in file.schema_arrow.names]:
                raise InputError(f"truth: '{uri}' has no column '{missing[0]}', only {file.schema_arrow.names}")
            return file.read(columns=names)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"truth: cannot read '{uri}': {error}") from error
