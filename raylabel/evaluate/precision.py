"""How many picks carry their true label, where somebody knows it: a measurement, never an input of training."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raylabel.artifact import Artifact, filesystem
from raylabel.corpus import Shards
from raylabel.errors import InputError
from raylabel.schema import PICKS, split_key


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

    Holds the truth table in memory: for corpora small enough that somebody labeled them. Reads the ids of the shards
    that hold picks. InputError if a table lacks its column, or no pick is known.
    """
    if truth is None:
        return None
    known = _columns(truth.uri, [truth.id, truth.label])
    true = dict(zip(known[truth.id].to_pylist(), known[truth.label].to_pylist(), strict=True))
    table = picks.table("picks", PICKS, ["label", "key"])
    labels, keys = table.column("label").to_numpy(), table.column("key").to_numpy()
    shard_of = keys >> 32
    right = found = 0
    for number in np.unique(shard_of).tolist():
        mine = np.flatnonzero(shard_of == number)
        ids = _columns(Shards(shards).row(number)["uri"], [truth.id])[truth.id]
        for at in mine:
            label = true.get(ids[split_key(int(keys[at]))[1]].as_py())
            found += label is not None
            right += label == labels[at]
    if not found:
        raise InputError(f"truth '{truth.uri}': none of the picks' ids is in column '{truth.id}'")
    return float(right / found), found


def _columns(uri: str, names: list[str]) -> pa.Table:
    fs, path = filesystem(uri)
    try:
        with pq.ParquetFile(path, filesystem=fs) as file:
            if missing := [name for name in names if name not in file.schema_arrow.names]:
                raise InputError(f"truth: '{uri}' has no column '{missing[0]}', only {file.schema_arrow.names}")
            return file.read(columns=names)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"truth: cannot read '{uri}': {error}") from error
