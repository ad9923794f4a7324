"""SCORES -> PICKS: the K best samples of every class, exactly, counting byte-identical copies once.

Letters: N samples, C classes, P classes kept per sample, K samples kept per class, n candidates.

One map task per run of SCORES files keeps the K best samples of each class. One reduce task per slice of classes merges
them. A map task that holds 16 million rows writes them and continues, so its memory has a limit for any C and K; a
reduce task holds 64 * K rows. The number of tasks and files does not affect the output: the order (score descending,
key ascending) is total. The selection is that of Yalniz et al. 2019 (arXiv 1905.00546, section 3.2): the P
best classes of each sample, then the K best samples of each class. A class lists only the best segment of a video.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import ray

from raylabel.compute.progress import Progress
from raylabel.compute.tasks import run_tasks
from raylabel.compute.watchdog import heartbeat
from raylabel.errors import InputError
from raylabel.schema import PICKS
from raylabel.selection.candidates import Scored, read_candidates
from raylabel.selection.config import MEASURED, Select
from raylabel.selection.dropped import keys_to_drop, write_removed
from raylabel.selection.lengths import list_lengths
from raylabel.selection.shuffle import group_files, group_name, read_partition, write_partitions
from raylabel.selection.topk import STAGED, TopK
from raylabel.store.artifact import Artifact, Built, Draft, File, Root, identity_of, write_table
from raylabel.text import listed

TAGS_NAME = "tags"  # of the artifact with TAGS
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
class SelectionTask:
    """The input of all map and reduce tasks of a selection: plain data, so that Ray can send it."""

    scores: Scored
    copies: list[str]
    """Files of DUPLICATES and COPIES that have rows, and of PAIRS of a corpus with TAGS, by their URIs."""
    removed: list[str]
    """Files of PAIRS of a corpus with SCORES, whose samples are no candidates, by their URIs."""
    config: Select
    scratch: str
    """Folder of what tasks write for other tasks: candidates, and keys of PICKS."""
    lengths: np.ndarray
    """int64 [C]: the most samples of each class's list."""
    key_bits: int
    """The keys of PICKS are counted in 2^key_bits tasks."""
    out: str
    """Folder of PICKS."""

    @property
    def slices(self) -> list[tuple[int, int]]:
        """The classes of each partition of the candidates, and of each file of PICKS: from, to."""
        return [(low, min(low + SLICE, self.scores.classes)) for low in range(0, self.scores.classes, SLICE)]


def select(
    root: Root,
    scores: Artifact,
    duplicates: Artifact | None,
    config: Select,
    classes: tuple[str, ...],
    pairs: Artifact | None = None,
    copies: Artifact | None = None,
    tagged_samples: Sequence[int] = (),
) -> Artifact:
    """PICKS, the artifact `picks`: per class the first K of its candidates, by score descending, then key ascending.

    `scores`: SCORES, or TAGS. A sample is a candidate for the first P of its classes in SCORES, or for all in TAGS, in
    a random order; unless its key is in `duplicates`, `copies` or `pairs`, a better segment of the same video is a
    candidate, or its score is below `config.minimum`. A class with fewer than K candidates keeps all, or repeats them
    (`config.fill`). K differs by class with `config.counts`, in proportion to `tagged_samples` [C] if that is 'tags'.
    Files `picks-*`, one per 64 classes, ordered by (label, rank).
    Info: picks (rows), samples (distinct keys), per_class (rows of each class), and the fields of `config`.
    InputError if P is above C or above the classes per sample in SCORES, or if a class has no candidates and
    `config.allow_empty` is not set.
    """
    tagged = scores.name == TAGS_NAME
    kept = 0 if tagged else scores.info["p"]
    if not tagged:
        config.check_against(len(classes), kept)
    files = scores.files(f"{scores.name}-")
    rows = sum(f.rows for f in files)
    copied = {f"{one.uri}/{f.name}": f.rows for one in (duplicates, copies) if one for f in one.files() if f.rows}
    grouped = bool(scores.info.get("groups")) and not config.repeat_videos
    given = None if config.counts in MEASURED else list_lengths(config, classes, np.array(tagged_samples))
    of_config = identity_of(replace(config, precision=None))  # which shortens the lists later
    if config.counts and given is not None:  # what the file has, not where it is
        of_config["counts"] = hashlib.sha256(given.astype("<i8").tobytes()).hexdigest()
    identity = {"select": of_config, scores.name: scores.digest, "classes": len(classes)}
    identity |= {"duplicates": duplicates.digest} if duplicates else {}
    if copies and copies.info["copies"]:
        identity["copies"] = copies.digest
    removed = pairs.files("pairs-") if pairs and pairs.info["removed"] else []
    if pairs and removed:
        identity["pairs"] = pairs.digest

    def build(draft: Draft) -> Built:
        most = len(classes) * config.k  # picks
        most = most if config.fill else min(most, scores.info["pairs"] if tagged else rows * config.p)
        scratch, paired = draft.scratch("candidates"), [f"{pairs.uri}/{f.name}" for f in removed] if pairs else []
        if tagged and pairs and paired:  # each file of PAIRS belongs to one of PICTURES, and none to one of TAGS
            (whole,) = run_tasks(write_removed, [(paired, scratch)], memory=32 * pairs.info["removed"])
            dropped, paired = {**copied, whole: pairs.info["removed"]}, []
        else:
            dropped = copied
        task = SelectionTask(
            scores=Scored(folder=scores.uri, kept=kept, classes=len(classes), grouped=grouped, tagged=tagged),
            copies=list(dropped),
            removed=paired,
            config=config,
            lengths=np.zeros(0, np.int64) if given is None else given,
            scratch=scratch,
            key_bits=key_bits(most),
            out=draft.uri,
        )
        count = min(int(ray.cluster_resources().get("CPU", 1)), -(-rows * config.p // GROUP_CANDIDATES))
        runs = group_files(files, max(count, -(-rows // GROUP_ROWS)))
        maps = [(task, run, group_name(i, runs)) for i, run in enumerate(runs)]
        with Progress("select", rows, "samples") as progress:
            share, size = -(-rows // len(runs)), 32 if grouped else 24
            memory = size * min(share * config.p, KEPT + STAGED) + 16 * min(share, sum(dropped.values()))
            if given is None:
                counted = run_tasks(_count_best, [(task, run) for run in runs], memory=memory)
                task = replace(task, lengths=list_lengths(config, classes, np.sum(counted, axis=0)))
                maps = [(task, *rest) for _, *rest in maps]
            written = run_tasks(_write_candidates, maps, lambda share: progress.update(int(share * rows)), memory)
            candidates = [name for names in written for name in names]
            slices = [(task, candidates, number) for number in range(len(task.slices))]
            longest = max(int(task.lengths[low:high].sum()) for low, high in task.slices)
            reduced = run_tasks(
                _write_picks, slices, memory=100 * (longest if config.fill else min(longest, rows * config.p))
            )
            picks, counts, keys = (list(some) for some in zip(*reduced, strict=True))
            samples = count_samples(task.scratch, keys, task.key_bits, most)
        per_class = [count for some in counts for count in some]
        if not config.allow_empty:
            _check_candidates(classes, per_class, task.lengths, rows, config)
        info = {"picks": sum(per_class), "samples": samples, "per_class": per_class, **of_config}
        if config.counts:
            info["lengths"] = task.lengths.tolist()
        return Built(picks, info)

    return root.make("picks", identity, build)


def _check_candidates(
    classes: tuple[str, ...], per_class: list[int], lengths: np.ndarray, rows: int, config: Select
) -> None:
    empty = empty_classes(classes, per_class, lengths)
    if not empty:
        return
    subject, them = (
        (f"class {listed(empty)} has", "it") if len(empty) == 1 else (f"classes {listed(empty)} have", "them")
    )
    limit = "" if config.minimum is None else f" and a score of at least {config.minimum:g}"
    raise InputError(
        f"{subject} no candidates among {rows} scored samples with P={config.p}{limit}: raise --select.p, add "
        f"unlabeled samples of {them}, or continue without {them} by --select.allow-empty"
    )


def empty_classes(classes: Sequence[str], per_class: Sequence[int], lengths: Sequence[int] | np.ndarray) -> list[str]:
    """The classes without picks, without those that were to have none."""
    return [name for name, count, most in zip(classes, per_class, lengths, strict=True) if most and not count]


def _count_best(task: SelectionTask, names: list[str]) -> np.ndarray:
    """int64 [C]: the samples of some SCORES files by their best class."""
    scored, counts = task.scores, np.zeros(task.scores.classes, np.int64)
    drop = keys_to_drop(scored.folder, names, task.copies, task.removed)
    for name in names:
        for label, _, _ in read_candidates(scored, name, Select(p=1), drop):
            counts += np.bincount(label, minlength=scored.classes)
    return counts


def _write_candidates(task: SelectionTask, names: list[str], run: str) -> list[str]:
    """The K best of each class in some SCORES files, one partition per slice: no other row can be in PICKS. Returns the
    names of the files; the rows of a class in one file are better than others that were read before it."""
    scored, written = task.scores, list[str]()
    top = TopK(scored.classes, task.lengths, scored.grouped)
    drop = keys_to_drop(scored.folder, names, task.copies, task.removed)
    room = KEPT * 12 // 20 if scored.grouped else KEPT  # a row with a group takes 20 bytes instead of 12

    def write() -> None:
        def partitions() -> Iterator[list[np.ndarray]]:
            for low, high in task.slices:
                label, *rest = top.take(low, high)
                yield [(label - low).astype(np.uint8), *rest]

        name = f"candidates-{run}-{len(written):03d}.arrow"
        written.append(write_partitions(task.scratch, name, GROUPED if scored.grouped else CANDIDATES, partitions()))

    for name in names:
        for label, score, own in read_candidates(scored, name, task.config, drop):
            top.add(label, score, *own)
            if top.rows > room:
                write()
    write()
    return written


def _write_picks(task: SelectionTask, candidates: list[str], number: int) -> tuple[File, list[int], str]:
    """PICKS of one slice of the classes, how many picks each class has, and the name of the file of their keys."""
    low, high = task.slices[number]
    top = TopK(high - low, task.lengths[low:high], task.scores.grouped)
    for name in candidates:
        heartbeat()
        top.add(*read_partition(task.scratch, name, number))
    label, rank, score, key = top.result()
    if task.config.fill:
        label, rank, score, key = _repeated(label, score, key, task.lengths[low:high])
    table = pa.table([label + np.int32(low), rank, score, key], schema=PICKS)
    file = write_table(task.out, f"picks-{number:05d}.parquet", table)
    return file, np.bincount(label, minlength=high - low).tolist(), write_keys(task.scratch, key, number, task.key_bits)


def _repeated(
    label: np.ndarray, score: np.ndarray, key: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(label, rank, score, key): each class that has rows has as many as its list may, those of its best samples again
    and again. `label`, `score`, `key`: by (label, rank)."""
    counts = np.bincount(label, minlength=len(lengths))
    wanted = np.where(counts, lengths, 0)
    found = np.repeat(np.arange(len(lengths), dtype=np.int32), wanted)
    place = np.arange(len(found)) - np.repeat(np.cumsum(wanted) - wanted, wanted)
    at = (np.cumsum(counts) - counts)[found] + place % counts[found]
    return found, (place + 1).astype(np.int32), score[at], key[at]


def key_bits(picks: int) -> int:
    """How many bits of a hash say which task counts a key, of so many picks."""
    return max(0, (picks - 1) // KEYS).bit_length()


def write_keys(scratch: str, key: np.ndarray, number: int, bits: int) -> str:
    """The keys of a file of PICKS, partitioned by a hash, so that each of them is in one partition of all files."""
    mixed = key.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # of consecutive keys the upper bits differ
    bucket = (mixed >> np.uint64(1) >> np.uint64(63 - bits)).astype(np.uint16)  # a shift by 64 is undefined
    order = np.argsort(bucket, kind="stable")
    ends = np.cumsum(np.bincount(bucket, minlength=1 << bits))
    partitions = ([key[rows]] for rows in np.split(order, ends[:-1]))
    return write_partitions(scratch, f"keys-{number:05d}-{bits}.arrow", PICKED, partitions)


def count_samples(scratch: str, keys: list[str], bits: int, most: int) -> int:
    """The number of distinct keys in files of `write_keys`, which have at most `most`."""
    buckets = [(scratch, keys, bucket) for bucket in range(1 << bits)]
    return sum(run_tasks(_count_keys, buckets, memory=24 * min(KEYS, most)))


def _count_keys(folder: str, names: list[str], bucket: int) -> int:
    """Number of distinct keys of PICKS in one partition."""
    key = np.concatenate([read_partition(folder, name, bucket)[0] for name in names])
    key.sort()  # in place; np.unique would build a hash table of twice the size
    return int(np.count_nonzero(key[1:] != key[:-1])) + bool(len(key))
