"""Which picks are worth a person's look: those at the border of each class, or those that another network calls
something else.

The predictions are those of `raylabel predict` for the picks that were exported with `--format hf`: the student has
then seen no more of the corpus than the picks. Both files are read once, without media.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raylabel.compute.tasks import run_tasks
from raylabel.compute.watchdog import heartbeat
from raylabel.errors import InputError
from raylabel.ship.picked import Picked
from raylabel.ship.staged import SUMMARY, read_summary
from raylabel.store.files import filesystem, list_files, reading

SAID = pa.schema(
    [("label", pa.int64()), ("rank", pa.int32()), ("predicted", pa.string()), ("probability", pa.float64())]
)


@dataclass(frozen=True)
class Queue:
    """The picks that a person should look at."""

    codes: np.ndarray
    """label << 32 | rank of each, ascending, int64."""
    said: dict[int, dict[str, Any]]
    """Of each, by its code, what the other network predicts: `predicted`, a class, and its `probability`. Empty
    without another network."""


def border(picked: Picked, per_class: int) -> Queue:
    """The last ranks of each class."""
    counts = np.array(picked.picks.info["per_class"], np.int64)
    few = np.minimum(counts, per_class)
    label = np.repeat(np.arange(len(counts)), few)
    rank = counts[label] - (np.repeat(np.cumsum(few), few) - 1 - np.arange(len(label)))
    return Queue(label << 32 | rank, {})


def disagreement(picked: Picked, predictions: str, per_class: int) -> Queue:
    """Of each class, the picks that have another best class in the predictions, with the highest probability first.

    `predictions`: a folder or a file that `raylabel predict` wrote. InputError if it is none, or not of these picks as
    they were exported with --format hf.
    """
    uri = predictions.rstrip("/")
    files = [uri] if uri.endswith(".parquet") else [f"{uri}/predictions/{n}" for n in list_files(f"{uri}/predictions")]
    if not files or not all(file.endswith(".parquet") for file in files):
        raise InputError(f"predictions is '{predictions}': give what raylabel predict wrote, as parquet")
    folder = picked.picks.uri.rpartition("/")[2]
    found = run_tasks(_disagreements, [(file, folder, picked.picks.uri, per_class) for file in files])
    table = _first(pa.concat_tables(found), per_class)
    codes = _codes(table)
    said = dict(zip(codes.tolist(), table.select(["predicted", "probability"]).to_pylist(), strict=True))
    return Queue(np.sort(codes), said)


def _codes(table: pa.Table) -> np.ndarray:
    return table.column("label").to_numpy() << 32 | table.column("rank").to_numpy().astype(np.int64)


def _first(said: pa.Table, most: int) -> pa.Table:
    """Of each class those with the highest probabilities, at most so many."""
    said = said.sort_by([("label", "ascending"), ("probability", "descending"), ("rank", "ascending")])
    label = said.column("label").to_numpy()
    place = np.arange(len(label)) - np.searchsorted(label, label)
    return said.filter(pa.array(place < most))


def _disagreements(predictions: str, picks: str, where: str, per_class: int) -> pa.Table:
    """SAID of a file of predictions. `picks`: the name of the folder of the PICKS, `where`: its URI."""
    fs, path = filesystem(predictions)
    with reading(predictions), pq.ParquetFile(path, filesystem=fs) as file:
        if missing := {"uri", "label", "probability"} - set(file.schema_arrow.names):
            raise InputError(f"'{predictions}' has no column '{min(missing)}': give what raylabel predict wrote")
        table = file.read(["uri", "label", "probability"])
    compute: Any = pc
    parts = compute.split_pattern(table.column("uri").combine_chunks(), "#", max_splits=1, reverse=True)
    if compute.any(compute.not_equal(compute.list_value_length(parts), 2)).as_py():
        raise _of_others(predictions, where)
    names = compute.list_element(parts, 0).dictionary_encode()
    rows = compute.list_element(parts, 1).cast(pa.int64()).to_numpy()
    found = [SAID.empty_table()]
    for number, name in enumerate(names.dictionary.to_pylist()):
        heartbeat()
        folder = name.rpartition("/data/")[0]
        if not folder or read_summary(f"{folder}/{SUMMARY}").get("picks") != picks:
            raise _of_others(predictions, where)
        mine = np.flatnonzero(names.indices.to_numpy() == number)
        fs, path = filesystem(name)
        with reading(name), pq.ParquetFile(path, filesystem=fs) as file:
            exported = file.read(["label", "rank", "class"]).take(pa.array(rows[mine]))
        own = table.take(pa.array(mine))
        columns = [exported.column("label"), exported.column("rank"), own.column("label"), own.column("probability")]
        differs = compute.not_equal(exported.column("class"), own.column("label"))
        found.append(_first(pa.Table.from_arrays(columns, schema=SAID).filter(differs), per_class))
    return _first(pa.concat_tables(found), per_class)


def _of_others(predictions: str, where: str) -> InputError:
    return InputError(
        f"'{predictions}' is not of these picks: export {where} with --format hf, and predict the folder of that export"
    )
