"""SCORES or PICTURES -> DUPLICATES: byte-identical copies, found by their digests.

One map task per run of files partitions its digests into buckets. One reduce task per bucket sorts it. A task
holds about BUCKET_ROWS rows, whatever the number of samples.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from raylabel.compute.progress import Progress
from raylabel.compute.tasks import run_tasks
from raylabel.errors import InputError
from raylabel.inference.pictures import schema_of
from raylabel.schema import DUPLICATES
from raylabel.selection.shuffle import BATCH_ROWS, group_files, group_name, open_table, read_partition, write_partitions
from raylabel.selection.topk import sort_order
from raylabel.store.artifact import Artifact, Built, Draft, File, Root, write_table

BUCKET_ROWS = 4_000_000  # rows of one map or reduce task: 0.3 GB with the sort's copies
ROW_GROUP = 65_536  # rows per row group of DUPLICATES, which are read by range of keys

HASHES = pa.schema([("high", pa.uint64()), ("low", pa.uint64()), ("key", pa.int64())])


def find_duplicates(root: Root, scores: Artifact) -> Artifact:
    """DUPLICATES, the artifact `duplicates`: every key whose digest also has a smaller key in `scores`, which
    are SCORES or PICTURES.

    `original` is that smallest key. Files `duplicates-*`, one per bucket of digests, in key order.
    Info: duplicates (rows). InputError if a key occurs twice in SCORES.
    """
    files = scores.files(f"{scores.name}-")
    rows = sum(f.rows for f in files)
    bits = max(0, (rows - 1) // BUCKET_ROWS).bit_length()  # 2^bits buckets; the digest is uniform

    def build(draft: Draft) -> Built:
        scratch = draft.scratch("buckets")
        groups = group_files(files, -(-rows // BUCKET_ROWS))
        maps = [(scores, group, bits, scratch, group_name(i, groups)) for i, group in enumerate(groups)]
        memory = 75 * min(rows, BUCKET_ROWS)
        with Progress("find duplicates", rows, "samples") as progress:
            hashes = run_tasks(_write_hashes, maps, lambda share: progress.update(int(share * rows)), memory)
            buckets = [(scratch, hashes, bucket, draft.uri) for bucket in range(1 << bits)]
            found = run_tasks(_write_duplicates, buckets, memory=memory)
        return Built(found, {"duplicates": sum(f.rows for f in found)})

    return root.make("duplicates", {"scores": scores.digest}, build)


def _write_hashes(scores: Artifact, names: list[str], bits: int, folder: str, group: str) -> str:
    """The (digest, key) of some files, a partition per bucket: the digests with the same first `bits` bits."""
    schema = schema_of(scores)
    words, keys = [np.empty((0, 2), np.uint64)], [np.empty(0, np.int64)]
    for name in names:
        with open_table(scores.uri, name, schema) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=["key", "digest"], use_threads=False):
                digests = batch.column("digest")
                found = np.frombuffer(digests.buffers()[1] or b"", ">u8").reshape(-1, 2)
                words.append(found[digests.offset : digests.offset + len(digests)].astype(np.uint64))
                keys.append(batch.column("key").to_numpy())
    digest, key = np.concatenate(words), np.concatenate(keys)
    del words, keys
    bucket = (digest[:, 0] >> np.uint64(1) >> np.uint64(63 - bits)).astype(np.uint16)  # a shift by 64 is undefined
    order = np.argsort(bucket, kind="stable")  # numpy sorts 16 bits by radix; they are enough for 2e11 rows
    ends = np.cumsum(np.bincount(bucket, minlength=1 << bits))

    def partitions() -> Iterator[list[np.ndarray]]:
        for rows in np.split(order, ends[:-1]):
            yield [*digest[rows].T, key[rows]]

    return write_partitions(folder, f"hashes-{group}.arrow", HASHES, partitions())


def _write_duplicates(scratch: str, names: list[str], bucket: int, out: str) -> File:
    """The duplicates among the digests of one bucket."""
    columns = zip(*(read_partition(scratch, name, bucket) for name in names), strict=True)
    first, second, key = (np.concatenate(column) for column in columns)
    order = sort_order(first, second, key)
    first, second, key = first[order], second[order], key[order]
    new = np.ones(len(key), bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    original = key[np.flatnonzero(new)][np.cumsum(new) - 1]  # keys ascend within a digest
    copy, original = key[~new], original[~new]
    if (again := copy[copy == original]).size:
        raise InputError(f"key {again[0]} occurs twice in the scores: delete their artifact and score again")
    order = np.argsort(copy)
    table = pa.table([copy[order], original[order]], schema=DUPLICATES)
    groups = [table[start : start + ROW_GROUP] for start in range(0, max(1, len(table)), ROW_GROUP)]
    return write_table(out, f"duplicates-{bucket:05d}.parquet", *groups)
