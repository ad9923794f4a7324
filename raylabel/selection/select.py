"""SCORES -> PICKS: the K best samples of every class, exactly, counting byte-identical copies once.

Letters: N samples, C classes, P classes kept per sample, K samples kept per class.

A map task per run of SCORES files keeps the K best of each class, a reduce task per slice of classes joins what they
kept. No task holds more than O(C * K) rows, and how many ran never shows in the output: the order (score descending,
key ascending) is total. The selection is that of Yalniz et al. 2019 (arXiv 1905.00546, section 3.2): the P best classes
of each sample, then the K best samples of each class. Of the parts of one source video a class takes the best alone.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import ray

from raylabel.compute.progress import Progress
from raylabel.errors import InputError
from raylabel.schema import DUPLICATES, PICKS
from raylabel.selection.shuffle import (
    BATCH_ROWS,
    group_files,
    group_name,
    open_scores,
    read_part,
    run_tasks,
    write_parts,
)
from raylabel.selection.topk import TopK
from raylabel.store.artifact import Artifact, Built, Draft, File, Root, identity_of, write_table
from raylabel.store.files import filesystem, reading

SLICE = 64  # classes per file of PICKS

# Candidates of one map task: some two seconds of work. It hands on C * K of them, a quarter with the paper's C = 1,000
# and K = 16,000: 1e9 samples of P = 10 are 156 tasks, whose files are 33 GB together. A task for each of 5,600 CPUs
# would filter nothing and hand on all that it reads.
GROUP_CANDIDATES = 1 << 26

# `place` is the class, counted from the first of its slice.
CANDIDATES = pa.schema([("place", pa.uint8()), ("score", pa.float32()), ("key", pa.int64())])
GROUPED = CANDIDATES.append(pa.field("group", pa.int64()))


@dataclass(frozen=True, kw_only=True)
class Select:
    """Which samples stand for a class."""

    k: int = 16_000
    """K, samples kept per class: the head of its list. 16,000 is the paper's for 100 M samples; scale it with N."""
    p: int = 10
    """P, classes kept per sample: it is a candidate of its P best classes. 10 of 1,000 in the paper."""
    rank: Literal["softmax", "logits"] = "softmax"
    """What orders a class's list: 'softmax' (by log-odds, the same order) or 'logits' (the raw prediction)."""
    repeat_videos: bool = False
    """Whether a class may list several parts of one source video; else the best of them stands for it there."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InputError(f"select.k is {self.k}: keep at least 1 sample per class")
        if self.p < 1:
            raise InputError(f"select.p is {self.p}: keep at least 1 class per sample")
        if self.rank not in ("softmax", "logits"):
            raise InputError(f"select.rank is '{self.rank}': choose 'softmax' or 'logits'")

    def check_against(self, classes: int, kept: int) -> None:
        """InputError if P is above `classes`, all there are, or `kept`, those that SCORES hold of each sample."""
        if self.p > classes:
            raise InputError(f"select.p is {self.p} but there are {classes} classes: lower --select.p to {classes}")
        if self.p > kept:
            raise InputError(
                f"select.p is {self.p} but the scores hold the {kept} best classes of each sample: "
                f"lower --select.p to {kept}, or score again and keep more"
            )


def select(root: Root, scores: Artifact, duplicates: Artifact, config: Select, classes: tuple[str, ...]) -> Artifact:
    """PICKS, the artifact `picks`: per class the first K of its candidates, by score descending, then key ascending.

    A sample is a candidate of the first P of its classes in SCORES, unless its key stands in `duplicates`, or a better
    part of the same video is one. A class of fewer than K candidates keeps all. Files `picks-*`, one per 64 classes,
    ordered by (label, rank).
    Info: picks (rows), samples (distinct keys), per_class (rows of each class), k, p, rank, repeat_videos.
    InputError if P is above C or above what SCORES hold, or if a class has no candidate at all.
    """
    kept = scores.info["p"]
    config.check_against(len(classes), kept)
    files = scores.files("scores-")
    rows = sum(f.rows for f in files)
    copies = [f.name for f in duplicates.files("duplicates-") if f.rows]
    grouped = bool(scores.info.get("groups")) and not config.repeat_videos
    identity = {
        "select": identity_of(config),
        "scores": scores.digest,
        "duplicates": duplicates.digest,
        "classes": len(classes),
    }

    def build(draft: Draft) -> Built:
        scratch = draft.scratch("candidates")
        tasks = min(int(ray.cluster_resources().get("CPU", 1)), -(-rows * config.p // GROUP_CANDIDATES))
        runs = group_files(files, tasks)
        maps = [
            (scores.uri, run, kept, duplicates.uri, copies, config, grouped, len(classes), scratch, group_name(i, runs))
            for i, run in enumerate(runs)
        ]
        with Progress("select", rows, "samples") as progress:
            candidates = run_tasks(_write_candidates, maps, lambda share: progress.update(int(share * rows)))
            slices = [(low, min(low + SLICE, len(classes))) for low in range(0, len(classes), SLICE)]
            reduces = [
                (scratch, candidates, low, high, config.k, grouped, draft.uri, f"picks-{i:05d}.parquet")
                for i, (low, high) in enumerate(slices)
            ]
            reduced = run_tasks(_write_picks, reduces)
        picks = [file for file, _ in reduced]
        per_class = [count for _, counts in reduced for count in counts]
        _demand_candidates(classes, per_class, rows, config.p)
        (samples,) = run_tasks(_count_keys, [(draft.uri, [f.name for f in picks])])
        info = {"picks": sum(per_class), "samples": samples, "per_class": per_class, **identity_of(config)}
        return Built(picks, info)

    return root.make("picks", identity, build)


def _demand_candidates(classes: tuple[str, ...], per_class: list[int], rows: int, p: int) -> None:
    empty = [name for name, count in zip(classes, per_class, strict=True) if not count]
    if not empty:
        return
    names = ", ".join(f"'{name}'" for name in empty[:5]) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
    subject, them = (f"class {names} has", "it") if len(empty) == 1 else (f"classes {names} have", "them")
    raise InputError(
        f"{subject} no candidates among {rows} scored samples with P={p}: "
        f"raise --select.p or add unlabeled samples of {them}"
    )


def _write_candidates(
    scores: str,
    names: list[str],
    kept: int,
    duplicates: str,
    copies: list[str],
    config: Select,
    grouped: bool,
    classes: int,
    folder: str,
    run: str,
) -> str:
    """The K best of some SCORES files alone, a part per slice: none but these rows can be among the K best of all."""
    column = "log_odds" if config.rank == "softmax" else "logits"
    columns = ["key", "classes", column] + ["group"] * grouped
    top = TopK(classes, config.k, grouped)
    drop = _keys_to_drop(scores, names, duplicates, copies)
    for name in names:
        where = f"{scores}/{name}"
        with open_scores(scores, name) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
                own = [batch.column(name).to_numpy() for name in ("key", "group")[: 1 + grouped]]
                label = _entries(batch.column("classes"), kept, where)[:, : config.p]
                score = _entries(batch.column(column), kept, where)[:, : config.p]
                if len(drop):
                    once = drop[np.searchsorted(drop, own[0]).clip(max=len(drop) - 1)] != own[0]
                    own, label, score = [values[once] for values in own], label[once], score[once]
                if label.size and not 0 <= label.min() <= label.max() < classes:
                    raise InputError(f"{where}: a class index is outside 0..{classes - 1}: these scores are of others")
                if np.isnan(score).any():
                    raise InputError(f"{where}: column '{column}' holds NaN, which has no rank: score again")
                top.add(label.ravel(), score.ravel(), *(np.repeat(values, config.p) for values in own))

    def parts() -> Iterator[list[np.ndarray]]:
        for low in range(0, classes, SLICE):
            label, *rest = top.kept(low, min(low + SLICE, classes))
            yield [(label - low).astype(np.uint8), *rest]

    return write_parts(folder, f"candidates-{run}.arrow", GROUPED if grouped else CANDIDATES, parts())


def _write_picks(
    scratch: str, names: list[str], low: int, high: int, k: int, grouped: bool, out: str, name: str
) -> tuple[File, list[int]]:
    """PICKS of the classes low..high-1, and how many each has."""
    top = TopK(high - low, k, grouped)
    for candidates in names:
        top.add(*read_part(scratch, candidates, low // SLICE))
    place, rank, score, key = top.result()
    table = pa.table([place + np.int32(low), rank, score, key], schema=PICKS)
    return write_table(out, name, table), np.bincount(place, minlength=high - low).tolist()


def _count_keys(folder: str, names: list[str]) -> int:
    """Distinct keys of PICKS; its files together are O(C * K) rows, what one map task holds."""
    fs, path = filesystem(folder)
    with reading(folder):
        keys = [pq.read_table(f"{path}/{name}", columns=["key"], filesystem=fs)["key"].to_numpy() for name in names]
    key = np.concatenate(keys)
    key.sort()  # in place, where np.unique builds a hash table of twice the size
    return 1 + int(np.count_nonzero(key[1:] != key[:-1]))


def _keys_to_drop(scores: str, names: list[str], duplicates: str, copies: list[str]) -> np.ndarray:
    """The keys of DUPLICATES that can stand in these SCORES files, ascending: those in their range of keys."""
    if not copies:
        return np.empty(0, np.int64)
    fs, path = filesystem(scores)

    def key_ranges(name: str) -> list[tuple[int, int]]:
        with reading(f"{scores}/{name}"):
            file = pq.read_metadata(f"{path}/{name}", filesystem=fs)
        groups = [file.row_group(i) for i in range(file.num_row_groups)]
        keys = [group.column(0).statistics for group in groups if group.num_rows]  # column 0 is the key
        return [(key.min, key.max) for key in keys]

    with ThreadPoolExecutor(16) as pool:  # small reads: their time is waiting
        ranges = [found for file in pool.map(key_ranges, names) for found in file]
    if not ranges:
        return np.empty(0, np.int64)
    low, high = min(first for first, _ in ranges), max(last for _, last in ranges)
    # One look for all files: each bucket of DUPLICATES holds keys of the whole corpus, so every look reads them all.
    fs, folder = filesystem(duplicates)
    where = (ds.field("key") >= low) & (ds.field("key") <= high)  # skips row groups by their statistics
    with reading(duplicates):
        paths = [f"{folder}/{name}" for name in copies]
        dropped = ds.dataset(paths, schema=DUPLICATES, format="parquet", filesystem=fs)
        return np.sort(dropped.to_table(columns=["key"], filter=where)["key"].to_numpy())


def _entries(lists: pa.ListArray, kept: int, where: str) -> np.ndarray:
    """A column of lists as an array [rows, kept]; InputError if a list has another length."""
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    if (lengths != kept).any():
        raise InputError(f"{where}: a list does not have the {kept} entries that the scores promise: score again")
    return lists.flatten().to_numpy().reshape(-1, kept)
