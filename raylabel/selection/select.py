"""SCORES -> PICKS: the K best samples of every class, exactly, counting byte-identical copies once.

Letters: N samples, C classes, P classes kept per sample, K samples kept per class.

One map task per run of SCORES files keeps the K best samples of each class. One reduce task per slice of classes merges
them. A map task that holds 16 million rows writes them and continues, so its memory has a limit for any C and K; a
reduce task holds 64 * K rows. The number of tasks and files does not affect the output: the order (score descending,
key ascending) is total. The selection is that of Yalniz et al. 2019 (arXiv 1905.00546, section 3.2): the P
best classes of each sample, then the K best samples of each class. A class lists only the best segment of a video.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import ray

from raylabel.compute.progress import Progress
from raylabel.compute.watchdog import heartbeat
from raylabel.errors import InputError
from raylabel.schema import PICKS, SCORES
from raylabel.selection.dropped import keys_to_drop
from raylabel.selection.shuffle import (
    BATCH_ROWS,
    group_files,
    group_name,
    open_table,
    read_partition,
    run_tasks,
    write_partitions,
)
from raylabel.selection.topk import STAGED, TopK
from raylabel.store.artifact import Artifact, Built, Draft, File, Root, identity_of, write_table
from raylabel.text import listed

SLICE = 64  # classes per file of PICKS

# Candidates of one map task: about two seconds of work. A task keeps C * K of them, a quarter with C = 1,000 and
# K = 16,000 as in the paper: 1e9 samples of P = 10 are 156 tasks, whose files are 33 GB in total. One task for each of
# 5,600 CPUs would drop no candidates and write all that it reads.
GROUP_CANDIDATES = 1 << 26

GROUP_ROWS = 1 << 26  # rows of one map task at most: a task holds the keys of their duplicates
# Rows that a map task holds before it writes them, fewer with groups: 1,000 classes at K = 16,000, 0.2 GB.
KEPT = 1 << 24
KEYS = 1 << 24  # keys of picks that one task counts: 0.3 GB

# `index` is the class, counted from the first class of its slice.
CANDIDATES = pa.schema([("index", pa.uint8()), ("score", pa.float32()), ("key", pa.int64())])
GROUPED = CANDIDATES.append(pa.field("group", pa.int64()))
PICKED = pa.schema([CANDIDATES.field("key")])


@dataclass(frozen=True, kw_only=True)
class Select:
    """Which samples are selected for each class."""

    k: int = 16_000
    """K, samples kept per class: its K best candidates. 16,000 is the paper's for 100 M samples; scale it with N."""
    p: int = 10
    """P, classes kept per sample: a sample is a candidate for its P best classes. The paper has 10 of 1,000."""
    rank: Literal["softmax", "logits"] = "softmax"
    """Score that orders a class's list: 'softmax' (by log-odds, with the same order) or 'logits' (the raw output)."""
    repeat_videos: bool = False
    """Whether a class may list several segments of one source video; otherwise it lists only the best of them."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InputError(f"select.k is {self.k}: keep at least 1 sample per class")
        if self.p < 1:
            raise InputError(f"select.p is {self.p}: keep at least 1 class per sample")
        if self.rank not in ("softmax", "logits"):
            raise InputError(f"select.rank is '{self.rank}': choose 'softmax' or 'logits'")

    def check_against(self, classes: int, kept: int) -> None:
        """InputError if P is above `classes`, the number of classes, or `kept`, the classes per sample in SCORES."""
        if self.p > classes:
            raise InputError(f"select.p is {self.p} but there are {classes} classes: lower --select.p to {classes}")
        if self.p > kept:
            raise InputError(
                f"select.p is {self.p} but the scores hold the {kept} best classes of each sample: "
                f"lower --select.p to {kept}, or raise --label.p, which scores again"
            )


@dataclass(frozen=True, kw_only=True)
class SelectionTask:
    """The input of all map and reduce tasks of a selection: plain data, so that Ray can send it."""

    scores: str
    """Folder of SCORES."""
    kept: int
    """Classes per sample in SCORES, at least P."""
    copies: list[str]
    """Files of DUPLICATES and COPIES that have rows, by their URIs."""
    removed: list[str]
    """Files of PAIRS whose samples are no candidates, by their URIs."""
    config: Select
    grouped: bool
    """Whether a class lists only the best segment of each source video."""
    classes: int
    """C."""
    scratch: str
    """Folder of what tasks write for other tasks: candidates, and keys of PICKS."""
    key_bits: int
    """The keys of PICKS are counted in 2^key_bits tasks."""
    out: str
    """Folder of PICKS."""

    @property
    def slices(self) -> list[tuple[int, int]]:
        """The classes of each partition of the candidates, and of each file of PICKS: from, to."""
        return [(low, min(low + SLICE, self.classes)) for low in range(0, self.classes, SLICE)]


def select(
    root: Root,
    scores: Artifact,
    duplicates: Artifact,
    config: Select,
    classes: tuple[str, ...],
    pairs: Artifact | None = None,
    copies: Artifact | None = None,
) -> Artifact:
    """PICKS, the artifact `picks`: per class the first K of its candidates, by score descending, then key ascending.

    A sample is a candidate for the first P of its classes in SCORES, unless its key is in `duplicates`, `copies` or
    `pairs`, or a better segment of the same video is a candidate. A class with fewer than K candidates keeps all. Files
    `picks-*`, one per 64 classes, ordered by (label, rank).
    Info: picks (rows), samples (distinct keys), per_class (rows of each class), k, p, rank, repeat_videos.
    InputError if P is above C or above the classes per sample in SCORES, or if a class has no candidates.
    """
    kept = scores.info["p"]
    config.check_against(len(classes), kept)
    files = scores.files("scores-")
    rows = sum(f.rows for f in files)
    copied = {f"{one.uri}/{f.name}": f.rows for one in (duplicates, copies) if one for f in one.files() if f.rows}
    grouped = bool(scores.info.get("groups")) and not config.repeat_videos
    identity = {
        "select": identity_of(config),
        "scores": scores.digest,
        "duplicates": duplicates.digest,
        "classes": len(classes),
    }
    if copies and copies.info["copies"]:
        identity["copies"] = copies.digest
    removed = pairs.files("pairs-") if pairs and pairs.info["removed"] else []
    if pairs and removed:
        identity["pairs"] = pairs.digest

    def build(draft: Draft) -> Built:
        most = min(len(classes) * config.k, rows * config.p)  # picks
        task = SelectionTask(
            scores=scores.uri,
            kept=kept,
            copies=list(copied),
            removed=[f"{pairs.uri}/{f.name}" for f in removed] if pairs else [],
            config=config,
            grouped=grouped,
            classes=len(classes),
            scratch=draft.scratch("candidates"),
            key_bits=max(0, (most - 1) // KEYS).bit_length(),
            out=draft.uri,
        )
        count = min(int(ray.cluster_resources().get("CPU", 1)), -(-rows * config.p // GROUP_CANDIDATES))
        runs = group_files(files, max(count, -(-rows // GROUP_ROWS)))
        maps = [(task, run, group_name(i, runs)) for i, run in enumerate(runs)]
        with Progress("select", rows, "samples") as progress:
            share, size = -(-rows // len(runs)), 32 if grouped else 24
            memory = size * min(share * config.p, KEPT + STAGED) + 16 * min(share, sum(copied.values()))
            written = run_tasks(_write_candidates, maps, lambda share: progress.update(int(share * rows)), memory)
            candidates = [name for names in written for name in names]
            slices = [(task, candidates, number) for number in range(len(task.slices))]
            reduced = run_tasks(_write_picks, slices, memory=100 * min(SLICE * config.k, rows * config.p))
            picks, counts, keys = (list(some) for some in zip(*reduced, strict=True))
            buckets = [(task.scratch, keys, bucket) for bucket in range(1 << task.key_bits)]
            samples = sum(run_tasks(_count_keys, buckets, memory=24 * min(KEYS, most)))
        per_class = [count for some in counts for count in some]
        _check_candidates(classes, per_class, rows, config.p)
        info = {"picks": sum(per_class), "samples": samples, "per_class": per_class, **identity_of(config)}
        return Built(picks, info)

    return root.make("picks", identity, build)


def _check_candidates(classes: tuple[str, ...], per_class: list[int], rows: int, p: int) -> None:
    empty = [name for name, count in zip(classes, per_class, strict=True) if not count]
    if not empty:
        return
    subject, them = (
        (f"class {listed(empty)} has", "it") if len(empty) == 1 else (f"classes {listed(empty)} have", "them")
    )
    raise InputError(
        f"{subject} no candidates among {rows} scored samples with P={p}: "
        f"raise --select.p or add unlabeled samples of {them}"
    )


def _write_candidates(task: SelectionTask, names: list[str], run: str) -> list[str]:
    """The K best of each class in some SCORES files, one partition per slice: no other row can be in PICKS. Returns the
    names of the files; the rows of a class in one file are better than others that were read before it."""
    column = "log_odds" if task.config.rank == "softmax" else "logits"
    columns = ["key", "classes", column] + ["group"] * task.grouped
    p, top = task.config.p, TopK(task.classes, task.config.k, task.grouped)
    drop, written = keys_to_drop(task.scores, names, task.copies, task.removed), list[str]()
    room = KEPT * 12 // 20 if task.grouped else KEPT  # a row with a group takes 20 bytes instead of 12

    def write() -> None:
        def partitions() -> Iterator[list[np.ndarray]]:
            for low, high in task.slices:
                label, *rest = top.take(low, high)
                yield [(label - low).astype(np.uint8), *rest]

        name = f"candidates-{run}-{len(written):03d}.arrow"
        written.append(write_partitions(task.scratch, name, GROUPED if task.grouped else CANDIDATES, partitions()))

    for name in names:
        where = f"{task.scores}/{name}"
        with open_table(task.scores, name, SCORES) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
                own = [batch.column(name).to_numpy() for name in ("key", "group")[: 1 + task.grouped]]
                label = _entries(batch.column("classes"), task.kept, where)[:, :p]
                score = _entries(batch.column(column), task.kept, where)[:, :p]
                if len(drop):
                    once = drop[np.searchsorted(drop, own[0]).clip(max=len(drop) - 1)] != own[0]
                    own, label, score = [values[once] for values in own], label[once], score[once]
                if label.size and not 0 <= label.min() <= label.max() < task.classes:
                    raise InputError(
                        f"{where}: a class index is outside 0..{task.classes - 1}: score again with these classes"
                    )
                if np.isnan(score).any():
                    raise InputError(f"{where}: column '{column}' holds NaN, which has no rank: score again")
                top.add(label.ravel(), score.ravel(), *(np.repeat(values, p) for values in own))
                if top.rows > room:
                    write()
    write()
    return written


def _write_picks(task: SelectionTask, candidates: list[str], number: int) -> tuple[File, list[int], str]:
    """PICKS of one slice of the classes, how many picks each class has, and the name of the file of their keys."""
    low, high = task.slices[number]
    top = TopK(high - low, task.config.k, task.grouped)
    for name in candidates:
        heartbeat()
        top.add(*read_partition(task.scratch, name, number))
    label, rank, score, key = top.result()
    table = pa.table([label + np.int32(low), rank, score, key], schema=PICKS)
    file = write_table(task.out, f"picks-{number:05d}.parquet", table)
    return file, np.bincount(label, minlength=high - low).tolist(), _write_keys(task, key, number)


def _write_keys(task: SelectionTask, key: np.ndarray, number: int) -> str:
    """The keys of one slice, partitioned by a hash, so that each of them is in one partition of all slices."""
    mixed = key.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # of consecutive keys the upper bits differ
    bucket = (mixed >> np.uint64(1) >> np.uint64(63 - task.key_bits)).astype(np.uint16)  # a shift by 64 is undefined
    order = np.argsort(bucket, kind="stable")
    ends = np.cumsum(np.bincount(bucket, minlength=1 << task.key_bits))
    partitions = ([key[rows]] for rows in np.split(order, ends[:-1]))
    return write_partitions(task.scratch, f"keys-{number:05d}-{task.key_bits}.arrow", PICKED, partitions)


def _count_keys(folder: str, names: list[str], bucket: int) -> int:
    """Number of distinct keys of PICKS in one partition."""
    key = np.concatenate([read_partition(folder, name, bucket)[0] for name in names])
    key.sort()  # in place; np.unique would build a hash table of twice the size
    return int(np.count_nonzero(key[1:] != key[:-1])) + bool(len(key))


def _entries(lists: pa.ListArray, kept: int, where: str) -> np.ndarray:
    """A column of lists as an array [rows, kept]; InputError if a list has another length."""
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    if (lengths != kept).any():
        raise InputError(f"{where}: a list does not have the {kept} entries of these scores: score again")
    return lists.flatten().to_numpy().reshape(-1, kept)
