"""The samples of SCORES that no class selects: copies of others, and samples of the evaluation sets."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from raylabel.schema import DUPLICATES
from raylabel.selection.pairs import read_keys
from raylabel.store.artifact import write_table
from raylabel.store.files import filesystem, reading

ROW_GROUP = 1 << 16  # rows, which are read by range of keys


def keys_to_drop(scores: str, names: list[str], copies: list[str], removed: list[str]) -> np.ndarray:
    """Keys in SCORES files that are no candidates, int64, ascending: those of DUPLICATES, COPIES and PAIRS, and maybe
    others that are not in these files.

    scores, names: a folder of SCORES and some of its files. copies: the URIs of files of DUPLICATES and COPIES that
    have rows. removed: those of files of PAIRS."""
    return np.union1d(copied_keys(scores, names, copies), read_keys(_beside(removed, names)))


def write_removed(uris: list[str], folder: str) -> str:
    """The keys of samples that are in a set, in these files of PAIRS, as one file that `copied_keys` reads: its URI."""
    key = read_keys(uris)
    table = pa.table([key, key], schema=DUPLICATES)
    groups = [table[start : start + ROW_GROUP] for start in range(0, max(1, len(table)), ROW_GROUP)]
    return f"{folder}/{write_table(folder, 'removed.parquet', *groups).name}"


def _beside(uris: list[str], names: list[str]) -> list[str]:
    """Of files that each belong to a file of SCORES, those that belong to these."""
    numbers = {name.rpartition("-")[2] for name in names}
    return [uri for uri in uris if uri.rpartition("-")[2] in numbers]


def copied_keys(scores: str, names: list[str], copies: list[str]) -> np.ndarray:
    """The keys of files of DUPLICATES and COPIES in the range of keys of these SCORES, PICTURES or TAGS files."""
    between = key_range(scores, names) if copies else None
    if not between:
        return np.empty(0, np.int64)
    return rows_between(copies, DUPLICATES, *between, ["key"])["key"].to_numpy()


def key_range(folder: str, names: list[str]) -> tuple[int, int] | None:
    """The first and the last key in files of SCORES, PICTURES or TAGS, by their footers; None if they are empty."""
    fs, path = filesystem(folder)

    def of_file(name: str) -> list[tuple[int, int]]:
        with reading(f"{folder}/{name}"):
            file = pq.read_metadata(f"{path}/{name}", filesystem=fs)
        groups = [file.row_group(i) for i in range(file.num_row_groups)]
        keys = [group.column(0).statistics for group in groups if group.num_rows]  # column 0 is the key
        return [(key.min, key.max) for key in keys]

    with ThreadPoolExecutor(16) as pool:  # small reads that mostly wait
        ranges = [found for file in pool.map(of_file, names) for found in file]
    return (min(first for first, _ in ranges), max(last for _, last in ranges)) if ranges else None


def rows_between(uris: list[str], schema: pa.Schema, low: int, high: int, columns: list[str] | None = None) -> pa.Table:
    """The rows with keys from `low` to `high` of at least one file of DUPLICATES or COPIES; `schema`: their columns, or
    the first ones of them."""
    # One scan for all files: each bucket of DUPLICATES has keys of the whole corpus, so every scan reads all buckets.
    fs, paths = filesystem(uris[0])[0], [filesystem(uri)[1] for uri in uris]
    where = (ds.field("key") >= low) & (ds.field("key") <= high)  # skips row groups by their statistics
    with reading(uris[0]):
        found = ds.dataset(paths, schema=schema, format="parquet", filesystem=fs)
        return found.to_table(columns=columns, filter=where)
