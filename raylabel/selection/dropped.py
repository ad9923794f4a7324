"""The samples of SCORES that no class selects: copies of others, and samples of the evaluation sets."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from raylabel.schema import DUPLICATES
from raylabel.selection.pairs import read_keys
from raylabel.store.files import filesystem, reading


def keys_to_drop(scores: str, names: list[str], copies: list[str], removed: list[str]) -> np.ndarray:
    """Keys in SCORES files that are no candidates, int64, ascending: those of DUPLICATES, COPIES and PAIRS, and maybe
    others that are not in these files.

    scores, names: a folder of SCORES and some of its files. copies: the URIs of files of DUPLICATES and COPIES that
    have rows. removed: those of files of PAIRS."""
    return np.union1d(copied_keys(scores, names, copies), read_keys(_beside(removed, names)))


def _beside(uris: list[str], names: list[str]) -> list[str]:
    """Of files that each belong to a file of SCORES, those that belong to these."""
    numbers = {name.rpartition("-")[2] for name in names}
    return [uri for uri in uris if uri.rpartition("-")[2] in numbers]


def copied_keys(scores: str, names: list[str], copies: list[str]) -> np.ndarray:
    """The keys of files of DUPLICATES and COPIES in the range of keys of these SCORES or PICTURES files."""
    if not copies:
        return np.empty(0, np.int64)
    fs, path = filesystem(scores)

    def key_ranges(name: str) -> list[tuple[int, int]]:
        with reading(f"{scores}/{name}"):
            file = pq.read_metadata(f"{path}/{name}", filesystem=fs)
        groups = [file.row_group(i) for i in range(file.num_row_groups)]
        keys = [group.column(0).statistics for group in groups if group.num_rows]  # column 0 is the key
        return [(key.min, key.max) for key in keys]

    with ThreadPoolExecutor(16) as pool:  # small reads that mostly wait
        ranges = [found for file in pool.map(key_ranges, names) for found in file]
    if not ranges:
        return np.empty(0, np.int64)
    low, high = min(first for first, _ in ranges), max(last for _, last in ranges)
    # One scan for all files: each bucket of DUPLICATES has keys of the whole corpus, so every scan reads all buckets.
    fs, _ = filesystem(copies[0])
    where = (ds.field("key") >= low) & (ds.field("key") <= high)  # skips row groups by their statistics
    with reading(copies[0]):
        paths = [filesystem(uri)[1] for uri in copies]
        dropped = ds.dataset(paths, schema=DUPLICATES, format="parquet", filesystem=fs)
        return dropped.to_table(columns=["key"], filter=where)["key"].to_numpy()
