"""SCORES or PICTURES, with THUMBNAILS, of a corpus → COPIES: near-duplicates within it.

compare.py defines a pair, leaders.py which picture of several is kept. A corpus of N samples would have N * N pairs, so
its samples are divided into partitions of similar ones (features/partitions.py), of which each sample has three, and
only the samples of a partition are compared (as in SemDeDup, Abbas et al. 2023, with one partition each).

One map task per run of files writes its samples by partition; one task per bucket of partitions compares them; one task
decides. A run that resumes compares only the buckets that are left.
"""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from raylabel.compute.progress import PatientProgress
from raylabel.compute.tasks import run_tasks
from raylabel.compute.watchdog import heartbeat
from raylabel.errors import InputError
from raylabel.features.partitions import PROBES, TRAINED, centroids_of, nearest
from raylabel.features.search import screen_precision
from raylabel.features.thumbnails import SIDE, descriptors
from raylabel.schema import COPIES
from raylabel.selection.dropped import copied_keys
from raylabel.selection.leaders import copies_of, keep_of
from raylabel.selection.pairs import THRESHOLD
from raylabel.selection.samples import number_of, read_samples, read_table
from raylabel.selection.shuffle import group_files, group_name
from raylabel.store.artifact import Artifact, Built, Draft, File, Root, write_table
from raylabel.store.files import list_files, open_ranges, read_file, reading, write_file

VERSION = 1  # of the arithmetic
WHOLE = 1 << 17  # samples up to which a corpus is one partition: all pairs take about a minute
PARTITION = 1 << 14  # samples of a partition, on average, without those that have it as the second or the third
MAPPED = 1 << 18  # samples of a map task
BUCKET = 1 << 18  # rows of a task that compares, on average
COMPARED = 12_000  # bytes of a row there, measured: it is read and copied, and the allocator keeps what was free
READS = 8  # at a time, for a task that compares
DECIDED = 150  # bytes of a pair in the task that decides
WRITTEN = 1 << 22  # rows of a file of COPIES
ROW_GROUP = 1 << 16
ROW = np.dtype([("partition", "<i4"), ("score", "<f4"), ("key", "<i8"), ("thumbnail", "u1", (SIDE * SIDE * 3,))])
CENTROIDS = "centroids.npy"


def find_copies(root: Root, scores: Artifact, duplicates: Artifact, threshold: float = THRESHOLD) -> Artifact:
    """COPIES, the artifact `copies`: the samples of a corpus that are near-duplicates of one that is not in the table.

    `scores`: SCORES or PICTURES with THUMBNAILS. Of several samples that with the largest log-odds of its best class is
    kept; of equal ones, and of PICTURES, that with the smallest key. The samples in `duplicates`, with the same bytes
    as others, are left out. Files `copies-*`, in key order. Info: copies (rows), groups (samples that have copies),
    largest (most copies of one sample), threshold. InputError if `scores` has no thumbnails.
    """
    if not 0 < threshold <= 1:
        raise InputError(f"the threshold is {threshold}: give a similarity above 0 and up to 1")
    files = scores.files(f"{scores.name}-")
    if len(scores.files("thumbnails-")) != len(files):
        raise InputError(
            f"{scores.uri} has no thumbnails, by which near-duplicates are found: its view has fewer than {SIDE} "
            "pixels, or an earlier version of raylabel made it"
        )
    rows = sum(file.rows for file in files)
    identity = {"scores": scores.digest, "duplicates": duplicates.digest, "threshold": threshold, "version": VERSION}

    def build(draft: Draft) -> Built:
        layout, groups = Layout.of(rows, draft.scratch("copies")), group_files(files, -(-rows // MAPPED))
        names = [group_name(index, groups) for index in range(len(groups))]
        sizes = {file.name: file.rows for file in files}
        with PatientProgress("compare the corpus with itself", rows, "samples") as progress:
            exist = set(list_files(layout.scratch))
            if layout.trained and CENTROIDS not in exist:
                some = _spread(files, layout.trained)
                memory = 4 * ROW.itemsize * sum(sizes[name] for name in some)
                run_tasks(_train, [(scores, some, layout)], memory=memory)
            copied = [f"{duplicates.uri}/{file.name}" for file in duplicates.files("duplicates-") if file.rows]
            maps = [
                (scores, group, copied, layout, name)
                for group, name in zip(groups, names, strict=True)
                if _starts(name) not in exist
            ]
            most = max(sum(sizes[name] for name in group) for group in groups)
            run_tasks(_divide, maps, memory=(2 + 2 * layout.probes) * ROW.itemsize * most)
            starts = _read_starts(layout, names)
            todo = [bucket for bucket in range(layout.buckets) if _pairs(bucket) not in exist]
            reference = ray.put(starts)

            def show(share: float) -> None:
                progress.update(int(rows * (1 - len(todo) * (1 - share) / layout.buckets)))

            tasks = [(layout, bucket, names, reference, threshold) for bucket in todo]
            run_tasks(_compare, tasks, show, COMPARED * int(np.diff(starts).sum(0).max()))
        ((written, info),) = run_tasks(_decide, [(layout, draft.uri)], memory=DECIDED * rows / 4)
        return Built(written, {**info, "threshold": threshold})

    return root.make("copies", identity, build)


@dataclass(frozen=True)
class Layout:
    """How the samples are divided."""

    scratch: str
    """Folder of what tasks write for other tasks."""
    partitions: int
    buckets: int
    """Tasks that compare; each has neighbouring partitions."""

    @classmethod
    def of(cls, rows: int, scratch: str) -> Self:
        partitions = 1 if rows <= WHOLE else -(-rows // PARTITION)
        together = max(1, BUCKET // (PROBES * PARTITION))
        return cls(scratch, partitions, -(-partitions // together))

    @property
    def probes(self) -> int:
        return min(PROBES, self.partitions)

    @property
    def trained(self) -> int:
        """Samples that the centroids are learned from, at least; none for a single partition."""
        return self.partitions * TRAINED if self.partitions > 1 else 0

    def bucket(self, partition: np.ndarray) -> np.ndarray:
        return partition * self.buckets // self.partitions


def _starts(name: str) -> str:
    """The file with the first row of each bucket in the rows of a map task; it is written after these."""
    return f"starts-{name}.npy"


def _rows(name: str) -> str:
    return f"rows-{name}.bin"


def _pairs(bucket: int) -> str:
    return f"pairs-{bucket:06d}.parquet"


def _spread(files: Sequence[File], rows: int) -> list[str]:
    """The names of so many of the files that they have these rows, at equal distances: neighbours may be alike."""
    count = min(len(files), max(1, -(-rows * len(files) // sum(file.rows for file in files))))
    return [files[i].name for i in np.linspace(0, len(files) - 1, count).round().astype(int)]


def _train(scores: Artifact, names: list[str], layout: Layout) -> None:
    """Writes the centroids of the partitions."""
    features = list[np.ndarray]()
    for name in names:
        heartbeat()
        features.append(descriptors(read_samples(scores, number_of(name), True).thumbnail))
    heartbeat()
    out = io.BytesIO()
    np.save(out, centroids_of(np.concatenate(features), layout.partitions))
    write_file(f"{layout.scratch}/{CENTROIDS}", out.getbuffer())


def _divide(scores: Artifact, names: list[str], copied: list[str], layout: Layout, name: str) -> None:
    """Writes the samples of some files, each once for each of its partitions, by bucket."""
    dropped = copied_keys(scores.uri, names, copied)
    centroids = np.load(io.BytesIO(read_file(f"{layout.scratch}/{CENTROIDS}"))) if layout.partitions > 1 else None
    parts = [np.empty(0, ROW)]
    for file in names:
        heartbeat()
        samples, score = read_samples(scores, number_of(file), True), _best(scores, number_of(file))
        left = np.flatnonzero(~np.isin(samples.key, dropped))
        if centroids is None:
            partition = np.zeros((len(left), 1), np.int64)
        else:
            partition = nearest(descriptors(samples.thumbnail[left]), centroids)
        rows = np.empty(partition.shape, ROW)
        rows["partition"] = partition
        for column, values in (("score", score), ("key", samples.key), ("thumbnail", samples.thumbnail)):
            rows[column] = values[left][:, None]
        parts.append(rows.ravel())
    rows = np.concatenate(parts)
    del parts
    order = np.argsort(layout.bucket(rows["partition"].astype(np.int64)), kind="stable")
    bucket, out = layout.bucket(rows["partition"][order].astype(np.int64)), io.BytesIO()
    write_file(f"{layout.scratch}/{_rows(name)}", rows[order].view(np.uint8).data)
    np.save(out, np.searchsorted(bucket, np.arange(layout.buckets + 1)))
    write_file(f"{layout.scratch}/{_starts(name)}", out.getbuffer())


def _best(scores: Artifact, part: int) -> np.ndarray:
    """float32 [N]: the log-odds of the best class of each sample; 0 without classes."""
    if scores.name != "scores":
        return np.zeros(1, np.float32).repeat(next(f.rows for f in scores.files(f"{scores.name}-{part:06d}")))
    column: Any = read_table(scores.uri, scores.name, part, ["log_odds"]).column("log_odds").combine_chunks()
    return column.values.to_numpy()[column.offsets.to_numpy()[:-1]]


def _read_starts(layout: Layout, names: Sequence[str]) -> np.ndarray:
    """int64 [map tasks, buckets + 1]."""
    with ThreadPoolExecutor(16) as pool:  # small files
        uris = (f"{layout.scratch}/{_starts(name)}" for name in names)
        return np.stack([np.load(io.BytesIO(data)) for data in pool.map(read_file, uris)])


def _compare(layout: Layout, bucket: int, names: list[str], starts: np.ndarray, threshold: float) -> None:
    """Writes the pairs of the partitions of a bucket: of a sample and one that is kept in the partition."""
    import torch

    torch.set_num_threads(1)

    first, end = starts[:, bucket], starts[:, bucket + 1]
    ends = np.cumsum(end - first)
    rows = np.empty(int(ends[-1]), ROW)

    def read(one: int) -> None:
        count, uri = int(end[one] - first[one]), f"{layout.scratch}/{_rows(names[one])}"
        if count:
            with reading(uri):
                file = open_ranges(uri)
                try:
                    data = file.read_at(count * ROW.itemsize, int(first[one]) * ROW.itemsize)
                    rows[ends[one] - count : ends[one]] = np.frombuffer(data, ROW)
                finally:
                    file.close()

    with ThreadPoolExecutor(READS) as pool:
        list(pool.map(read, range(len(names))))
    order = np.lexsort((rows["key"], -rows["score"], rows["partition"]))
    partition = rows["partition"][order]
    found = list[tuple[np.ndarray, ...]]()
    for some in np.split(order, np.flatnonzero(np.diff(partition)) + 1):
        copies = copies_of(rows["thumbnail"][some], threshold, screen_precision())
        key = rows["key"][some]
        found.append((key[copies.at], key[copies.original], copies.similarity))
    columns = [np.concatenate(column) for column in zip(*found, strict=True)]
    write_table(layout.scratch, _pairs(bucket), pa.table(columns, schema=COPIES))


def _decide(layout: Layout, folder: str) -> tuple[list[File], dict[str, int]]:
    """Writes COPIES, from the pairs of all buckets, and counts them."""

    def read(bucket: int) -> pa.Table:
        heartbeat()
        uri = f"{layout.scratch}/{_pairs(bucket)}"
        with reading(uri):
            return pq.read_table(pa.BufferReader(read_file(uri)), use_threads=False)

    with ThreadPoolExecutor(16) as pool:
        pairs = pa.concat_tables(pool.map(read, range(layout.buckets)))
    key, original, similarity = (pairs.column(name).to_numpy() for name in COPIES.names)
    samples, numbers = np.unique(np.concatenate([key, original]), return_inverse=True)
    at, of = np.split(numbers, 2)
    keep = keep_of(at, of, len(samples))
    good = ~keep[at] & keep[of]
    key, original, similarity = key[good], original[good], similarity[good]
    order = np.lexsort((original, -similarity, key))
    order = order[np.unique(key[order], return_index=True)[1]]
    key, original, similarity = key[order], original[order], similarity[order]
    table = pa.table([key, original, similarity], schema=COPIES)
    written = []
    for number, first in enumerate(range(0, len(table), WRITTEN)):
        heartbeat()
        some = table[first : first + WRITTEN]
        groups = [some[start : start + ROW_GROUP] for start in range(0, len(some), ROW_GROUP)]
        written.append(write_table(folder, f"copies-{number:05d}.parquet", *groups))
    counts = np.unique(original, return_counts=True)[1]
    return written, {"copies": len(key), "groups": len(counts), "largest": int(counts.max(initial=0))}
