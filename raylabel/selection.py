"""SCORES -> PICKS: the K best samples of every class, exactly, counting byte-identical copies once.

Letters: N samples, C classes, P classes kept per sample, K samples kept per class.

Both stages are Ray tasks that exchange parquet files: one task per run of SCORES files, then one per bucket of digests
or slice of classes. No task holds more than O(C * K) rows or one bucket, and the driver holds names only. How many
tasks ran never shows in the output: the order (score descending, key ascending) is total. The selection is that of
Yalniz et al. 2019 (arXiv 1905.00546, section 3.2): the P best classes of each sample, then the K best samples of each
class.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import ray

from raylabel.artifact import Artifact, Built, Draft, File, Root, filesystem, identity_of, write_table
from raylabel.errors import InputError
from raylabel.report.terminal import Progress
from raylabel.schema import DUPLICATES, PICKS, SCORES, check
from raylabel.topk import TopK, sort_order

SLICE = 64  # classes per file of PICKS
GROUP_ROWS = 1_000_000  # a map task of fewer rows costs more to start than to run
BUCKET_ROWS = 4_000_000  # rows of one map or reduce task of `find_duplicates`: about 0.3 GB with the sort's copies
BATCH_ROWS = 65_536  # rows read at a time; small enough that a batch's columns stay in the CPU's cache
ROW_GROUP = 65_536  # rows per row group of DUPLICATES, which are read by range of keys

HASHES = pa.schema([("high", pa.uint64()), ("low", pa.uint64()), ("key", pa.int64())])

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Select:
    """Which samples stand for a class."""

    k: int = 16_000
    """K, samples kept per class: the head of its list. 16,000 is the paper's for 100 M samples; scale it with N."""
    p: int = 10
    """P, classes kept per sample: it is a candidate of its P best classes. 10 of 1,000 in the paper."""
    rank: Literal["softmax", "logits"] = "softmax"
    """What orders a class's list: 'softmax' (by log-odds, the same order) or 'logits' (the raw prediction)."""

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


def find_duplicates(root: Root, scores: Artifact) -> Artifact:
    """DUPLICATES, the artifact `duplicates`: every key whose digest stands under a smaller key somewhere in SCORES.

    `original` is that smallest key. Files `duplicates-*`, one per bucket of digests, in key order.
    Info: duplicates (rows). InputError if a key stands twice in SCORES.
    """
    files = scores.files("scores-")
    rows = sum(f.rows for f in files)
    bits = max(0, (rows - 1) // BUCKET_ROWS).bit_length()  # 2^bits buckets; the digest is uniform

    def build(draft: Draft) -> Built:
        scratch = draft.scratch("buckets")
        groups = _groups(files, -(-rows // BUCKET_ROWS))
        maps = [(scores.uri, group, bits, scratch, _part(i, groups)) for i, group in enumerate(groups)]
        with Progress("find duplicates", rows) as progress:
            hashes = _run(_write_hashes, maps, lambda share: progress.update(int(share * rows)))
            buckets = [(scratch, hashes, bucket, bits, draft.uri) for bucket in range(1 << bits)]
            found = _run(_write_duplicates, buckets)
        return Built(found, {"duplicates": sum(f.rows for f in found)})

    return root.make("duplicates", {"scores": scores.digest}, build)


def select(root: Root, scores: Artifact, duplicates: Artifact, config: Select, classes: tuple[str, ...]) -> Artifact:
    """PICKS, the artifact `picks`: per class the first K of its candidates, by score descending, then key ascending.

    A sample is a candidate of the first P of its classes in SCORES, unless its key stands in `duplicates`. A class of
    fewer than K candidates keeps all. Files `picks-*`, one per 64 classes, ordered by (label, rank).
    Info: picks (rows), samples (distinct keys), per_class (rows of each class), k, p, rank.
    InputError if P is above C or above what SCORES hold, or if a class has no candidate at all.
    """
    kept = scores.info["p"]
    config.check_against(len(classes), kept)
    files = scores.files("scores-")
    rows = sum(f.rows for f in files)
    copies = [f.name for f in duplicates.files("duplicates-") if f.rows]
    identity = {
        "select": identity_of(config),
        "scores": scores.digest,
        "duplicates": duplicates.digest,
        "classes": len(classes),
    }

    def build(draft: Draft) -> Built:
        scratch = draft.scratch("candidates")
        groups = _groups(files, min(int(ray.cluster_resources().get("CPU", 1)), -(-rows // GROUP_ROWS)))
        maps = [
            (scores.uri, group, kept, duplicates.uri, copies, config, len(classes), scratch, _part(i, groups))
            for i, group in enumerate(groups)
        ]
        with Progress("select", rows) as progress:
            candidates = _run(_write_candidates, maps, lambda share: progress.update(int(share * rows)))
            slices = [(low, min(low + SLICE, len(classes))) for low in range(0, len(classes), SLICE)]
            reduces = [
                (scratch, candidates, low, high, config.k, draft.uri, f"picks-{i:05d}.parquet")
                for i, (low, high) in enumerate(slices)
            ]
            reduced = _run(_write_picks, reduces)
        picks = [file for file, _ in reduced]
        per_class = [count for _, counts in reduced for count in counts]
        _demand_candidates(classes, per_class, rows, config.p)
        (samples,) = _run(_count_keys, [(draft.uri, [f.name for f in picks])])
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


# The tasks. Each writes files whose names say all that their bytes depend on, so a task that runs twice does no harm.


def _write_hashes(scores: str, names: list[str], bits: int, folder: str, part: str) -> str:
    """The (digest, key) of some SCORES files, a row group for each bucket: a range of `high`."""
    batches = [HASHES.empty_table()]
    for name in names:
        with _open_scores(scores, name) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=["key", "digest"]):
                digests = batch.column("digest")
                words = np.frombuffer(digests.buffers()[1] or b"", ">u8").astype(np.uint64).reshape(-1, 2)
                words = words[digests.offset : digests.offset + len(digests)]
                batches.append(pa.table([words[:, 0], words[:, 1], batch.column("key")], schema=HASHES))
    table = pa.concat_tables(batches)
    high = table["high"].to_numpy()
    order = np.argsort(high)
    buckets = high[order] >> np.uint64(1) >> np.uint64(63 - bits)  # in two steps: a shift by 64 is undefined
    ends = np.searchsorted(buckets, np.arange(1, 1 << bits, dtype=np.uint64))
    return write_table(folder, f"hashes-{part}.parquet", *_cut(table.take(order), ends)).name


def _write_duplicates(scratch: str, names: list[str], bucket: int, bits: int, out: str) -> File:
    """The duplicates among the digests whose first `bits` bits are `bucket`."""
    width = 1 << (64 - bits)
    low, high = pa.scalar(bucket * width, pa.uint64()), pa.scalar(bucket * width + width - 1, pa.uint64())
    where = (ds.field("high") >= low) & (ds.field("high") <= high)
    table = _dataset(scratch, names, HASHES).to_table(filter=where)
    first, second, key = (table[name].to_numpy() for name in HASHES.names)
    order = sort_order(first, second, key)
    first, second, key = first[order], second[order], key[order]
    new = np.ones(len(key), bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    original = key[np.flatnonzero(new)][np.cumsum(new) - 1]  # keys ascend within a digest
    copy, original = key[~new], original[~new]
    if (again := copy[copy == original]).size:
        raise InputError(f"key {again[0]} stands twice in the scores: delete that artifact and score again")
    order = np.argsort(copy)
    table = pa.table([copy[order], original[order]], schema=DUPLICATES)
    return write_table(out, f"duplicates-{bucket:05d}.parquet", *_cut(table, range(ROW_GROUP, len(copy), ROW_GROUP)))


def _write_candidates(
    scores: str,
    names: list[str],
    kept: int,
    duplicates: str,
    copies: list[str],
    config: Select,
    classes: int,
    folder: str,
    part: str,
) -> str:
    """PICKS of some SCORES files alone, a row group per slice: none but these rows can be among the K best of all."""
    column = "log_odds" if config.rank == "softmax" else "logits"
    top = TopK(classes, config.k)
    dropped = _dataset(duplicates, copies, DUPLICATES) if copies else None
    for name in names:
        with _open_scores(scores, name) as file:
            drop = _keys_within(dropped, file.metadata)
            for batch in file.iter_batches(BATCH_ROWS, columns=["key", "classes", column]):
                where = f"{scores}/{name}"
                key = batch.column("key").to_numpy()
                label = _entries(batch.column("classes"), kept, where)[:, : config.p]
                score = _entries(batch.column(column), kept, where)[:, : config.p]
                if len(drop):
                    once = drop[np.searchsorted(drop, key).clip(max=len(drop) - 1)] != key
                    key, label, score = key[once], label[once], score[once]
                if label.size and not 0 <= label.min() <= label.max() < classes:
                    raise InputError(f"{where}: a class index is outside 0..{classes - 1}: these scores are of others")
                if np.isnan(score).any():
                    raise InputError(f"{where}: column '{column}' holds NaN, which has no rank: score again")
                top.add(label.ravel(), score.ravel(), np.repeat(key, config.p))
    table = _picks(top, 0)
    ends = np.searchsorted(table["label"].to_numpy(), np.arange(SLICE, classes, SLICE))
    return write_table(folder, f"candidates-{part}.parquet", *_cut(table, ends)).name


def _write_picks(
    scratch: str, names: list[str], low: int, high: int, k: int, out: str, name: str
) -> tuple[File, list[int]]:
    """PICKS of the classes low..high-1, and how many each has."""
    top = TopK(high - low, k)
    where = (ds.field("label") >= low) & (ds.field("label") < high)
    for batch in _dataset(scratch, names, PICKS).to_batches(filter=where):
        label, score, key = (batch.column(c).to_numpy() for c in ("label", "score", "key"))
        top.add(label - np.int32(low), score, key)
    table = _picks(top, low)
    counts = np.bincount(table["label"].to_numpy() - low, minlength=high - low)
    return write_table(out, name, table), counts.tolist()


def _count_keys(folder: str, names: list[str]) -> int:
    """Distinct keys of PICKS; its files together are O(C * K) rows, what one map task holds."""
    return len(np.unique(_dataset(folder, names, PICKS).to_table(columns=["key"])["key"].to_numpy()))


def _picks(top: TopK, first: int) -> pa.Table:
    label, rank, score, key = top.result()
    return pa.table([label + np.int32(first), rank, score, key], schema=PICKS)


def _cut(table: pa.Table, ends: Iterable[int]) -> list[pa.Table]:
    """The table, cut before each row of `ends`: row groups, which readers of a range skip by their statistics."""
    return [table[start:end] for start, end in itertools.pairwise([0, *ends, len(table)])]


def _open_scores(folder: str, name: str) -> pq.ParquetFile:
    fs, path = filesystem(folder)
    file = pq.ParquetFile(f"{path}/{name}", filesystem=fs)
    check(file.schema_arrow.empty_table(), SCORES, f"{folder}/{name}")
    return file


def _dataset(folder: str, names: list[str], schema: pa.Schema) -> ds.Dataset:
    """Parquet files as one table that is read by range: a filter skips row groups by their statistics."""
    fs, path = filesystem(folder)
    return ds.dataset([f"{path}/{name}" for name in names], schema=schema, format="parquet", filesystem=fs)


def _keys_within(dropped: ds.Dataset | None, scores: pq.FileMetaData) -> np.ndarray:
    """The keys to drop that can stand in a file of SCORES, ascending: those in its range of keys."""
    if dropped is None or not scores.num_rows:
        return np.empty(0, np.int64)
    groups = [scores.row_group(i) for i in range(scores.num_row_groups)]
    ranges = [group.column(0).statistics for group in groups if group.num_rows]  # column 0 is the key
    low, high = min(r.min for r in ranges), max(r.max for r in ranges)
    where = (ds.field("key") >= low) & (ds.field("key") <= high)
    return np.sort(dropped.to_table(columns=["key"], filter=where)["key"].to_numpy())


def _entries(lists: pa.ListArray, kept: int, where: str) -> np.ndarray:
    """A column of lists as an array [rows, kept]; InputError if a list has another length."""
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    if (lengths != kept).any():
        raise InputError(f"{where}: a list does not have the {kept} entries that the scores promise: score again")
    return lists.flatten().to_numpy().reshape(-1, kept)


def _groups(files: list[File], count: int) -> list[list[str]]:
    """The names of `files`, in order, cut into at most `count` runs of about equal rows; at least one run."""
    ends = np.cumsum([f.rows for f in files])
    total = max(1, int(ends[-1])) if files else 1
    middle = {f.name: int(end) - f.rows // 2 for f, end in zip(files, ends, strict=True)}
    runs = itertools.groupby(middle, key=lambda name: min(middle[name] * count // total, count - 1))
    return [list(run) for _, run in runs] or [[]]


def _part(index: int, groups: list[list[str]]) -> str:
    # With the count in the name, a file that a stopped run left, cut otherwise, is never taken for one of this run.
    return f"{index:05d}-of-{len(groups):05d}"


def _run(
    task: Callable[..., T], arguments: Iterable[tuple[Any, ...]], tell: Callable[[float], None] | None = None
) -> list[T]:
    """The results of `task` on each tuple of arguments, in order, run by Ray; `tell` hears the share that is done."""
    # Where one fails the others run to their end, which does no harm. No ray.cancel: where it meets the reply of a task
    # that is just done, Ray 2.60 aborts the driver (task_manager.cc, "Tried to complete task that was not pending").
    references = [_remote(task).remote(*a) for a in arguments]
    waiting = references
    while waiting:
        ready, waiting = ray.wait(waiting)
        ray.get(ready)
        if tell:
            tell(1 - len(waiting) / len(references))
    return ray.get(references)


@cache
def _remote(task: Callable[..., Any]) -> Any:
    return ray.remote(num_cpus=1, max_retries=3)(task)  # once per function: Ray exports each one it is given
