"""A file of SCORES → the candidates of each class.

Letters: P classes kept per sample, n candidates.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raylabel.errors import InputError
from raylabel.rng import WEYL, mixed
from raylabel.schema import SCORES, TAGS
from raylabel.selection.config import Select
from raylabel.selection.shuffle import BATCH_ROWS, open_table


@dataclass(frozen=True, kw_only=True)
class Scored:
    """SCORES, as a selection reads them. Plain data, so that Ray can send it."""

    folder: str
    kept: int
    """Classes per sample, at least P."""
    classes: int
    grouped: bool
    """Whether a class lists only the best segment of each source video."""
    tagged: bool = False
    """Whether these are TAGS: a sample is a candidate for all its classes, in a random order."""


def read_candidates(
    scored: Scored, name: str, config: Select, drop: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, list[np.ndarray]]]:
    """(label, score, [key, and the group if there are groups]) of the candidates in the batches of a file, each [n].
    `drop`: the keys of samples that are none, int64, ascending. InputError if the file has other lists, a class that
    there is not, or NaN."""
    if scored.tagged:
        yield from _read_tagged(scored, name, config, drop)
        return
    where, p = f"{scored.folder}/{name}", config.p
    columns = ["key", "classes", config.column] + ["group"] * scored.grouped
    with open_table(scored.folder, name, SCORES) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
            own = [batch.column(name).to_numpy() for name in ("key", "group")[: 1 + scored.grouped]]
            label = _entries(batch.column("classes"), scored.kept, where)[:, :p]
            score = _entries(batch.column(config.column), scored.kept, where)[:, :p]
            if len(drop):
                once = _others(own[0], drop)
                own, label, score = [values[once] for values in own], label[once], score[once]
            if label.size and not 0 <= label.min() <= label.max() < scored.classes:
                raise InputError(
                    f"{where}: a class index is outside 0..{scored.classes - 1}: score again with these classes"
                )
            if np.isnan(score).any():
                raise InputError(f"{where}: column '{config.column}' holds NaN, which has no rank: score again")
            label, score, own = label.ravel(), score.ravel(), [np.repeat(values, p) for values in own]
            if config.minimum is not None:
                enough = score >= np.float32(config.minimum)
                label, score, own = label[enough], score[enough], [values[enough] for values in own]
            if config.rank == "random":
                score = random_numbers(own[0], label, config.seed)
            yield label, score, own


def _read_tagged(
    scored: Scored, name: str, config: Select, drop: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, list[np.ndarray]]]:
    with open_table(scored.folder, name, TAGS) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=TAGS.names, use_threads=False):
            lists = batch.column("classes")
            key = np.repeat(batch.column("key").to_numpy(), lists.value_lengths().to_numpy(zero_copy_only=False))
            label = lists.flatten().to_numpy()
            if len(drop):
                once = _others(key, drop)
                key, label = key[once], label[once]
            yield label, random_numbers(key, label, config.seed), [key]


def _others(key: np.ndarray, drop: np.ndarray) -> np.ndarray:
    """bool [n]: the keys that are not among `drop`, ascending. np.isin would sort all of them for each batch."""
    return drop[np.searchsorted(drop, key).clip(max=len(drop) - 1)] != key


def random_numbers(key: np.ndarray, label: np.ndarray, seed: int) -> np.ndarray:
    """float32 [n]: a random number from -1 to 0 for each sample and class, a function of these and the seed.

    float32 is finest near 0, so that the best of many are hardly ever tied.
    """
    pairs = key.astype(np.uint64) + np.uint64(WEYL) * label.astype(np.uint64)
    return (-(mixed(pairs, seed).astype(np.float64) + 1) / 2**64).astype(np.float32)


def _entries(lists: pa.ListArray, kept: int, where: str) -> np.ndarray:
    """A column of lists as an array [rows, kept]; InputError if a list has another length."""
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    if (lengths != kept).any():
        raise InputError(f"{where}: a list does not have the {kept} entries of these scores: score again")
    return lists.flatten().to_numpy().reshape(-1, kept)


def lists_of(table: pa.Table, name: str) -> np.ndarray:
    """A column of lists of one length as an array [rows, length]."""
    column = table.column(name).combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)
