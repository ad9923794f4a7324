"""PICKS + corpus → EXAMPLES: one streaming pass that keeps the encoded bytes of the picked samples with their labels.

The rows of each file are sorted by a hash of their keys and dealt evenly into a fixed number of lanes, one row group
per lane. The training stream (stream.py) takes its items from the lanes in turn, and a worker reads only its own lanes.
"""

import collections
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from PIL import Image

from raylabel.compute.progress import Progress
from raylabel.compute.watchdog import heartbeat
from raylabel.corpus import Corpus, Sample, Shards, read_rows
from raylabel.corpus.sample import media_digest, sample_digest
from raylabel.errors import InputError
from raylabel.media.image import decode_pixels
from raylabel.media.rejects import Reject
from raylabel.media.sandbox.sandbox import Parser, shared_sandbox
from raylabel.media.video_views import cut_parser
from raylabel.media.view import CLIP_CPU_SECONDS, MAX_JPEG_PIXELS
from raylabel.schema import DIGESTS, EXAMPLES, PICKS, REJECTS, check, split_key
from raylabel.store.artifact import (
    Artifact,
    Built,
    Draft,
    Root,
    commit_part,
    committed_parts,
    files_of,
    identity_of,
    write_table,
)
from raylabel.store.files import filesystem, reading
from raylabel.store.reject_limit import RejectTally
from raylabel.store.reject_retry import NothingGainedError, make

SAMPLES = 4096  # picked samples per file, for images
VIDEO = 8  # a file of videos has so many times fewer samples, because a video is about as many times larger
TOGETHER = 64  # samples that are read and decoded together
JPEG_SIDE = 65_500  # the largest width or height that libjpeg writes, in pixels
CRF = 18  # x264's constant rate factor for videos: the loss is not visible

# The samples to write: each picked sample once with its labels, in key order, one row group per file of EXAMPLES.
PLAN = pa.schema([EXAMPLES.field("key"), EXAMPLES.field("labels")])


def file_samples(corpus: Corpus) -> int:
    """Picked samples of the corpus per file."""
    return SAMPLES if corpus.kind == "image" else SAMPLES // VIDEO


@dataclass(frozen=True, kw_only=True)
class Materialize:
    """How the training examples are stored."""

    short_side: int = 0
    """Re-encode larger images as JPEG, and larger videos as H.264 in MP4, so that the short side has this length in
    pixels; 0 keeps the bytes of the corpus. A sample that is a segment of a video is always cut out and re-encoded."""
    quality: int = 90
    """JPEG quality of re-encoded images, 1 to 95. Videos are re-encoded with a fixed quality without visible loss."""
    lanes: int = 64
    """Lanes of the training stream: the maximum number of training workers (64 in Yalniz et al. 2019). More lanes mix
    the batches better if the corpus is sorted by class; with 64, a batch is nearly a random one."""

    def __post_init__(self):
        if self.short_side < 0:
            raise InputError(f"materialize.short_side is {self.short_side}: give pixels, or 0 to keep the bytes")
        if not 1 <= self.quality <= 95:
            raise InputError(f"materialize.quality is {self.quality}: give 1 to 95")
        if self.lanes < 1:
            raise InputError(f"materialize.lanes is {self.lanes}: give at least 1")


@dataclass(frozen=True, kw_only=True)
class WritingTask:
    """How samples of a corpus are read and written."""

    shards: Shards
    corpus: Corpus
    config: Materialize
    max_jpeg_pixels: int = MAX_JPEG_PIXELS
    """See `View`."""
    digests: bool = False
    """Also write the DIGESTS of the samples (digests.py)."""


def materialize(
    root: Root, name: str, picks: Artifact, task: WritingTask, reject_limit: float, retry_rejects: bool = False
) -> Artifact:
    """EXAMPLES of the picks: the bytes of each sample once, with all its labels in ascending order.

    One pass over the corpus: shards and parquet row groups without a pick are not read. Each sample is decoded once
    here, so that training never reads one that cannot be decoded; REJECTS lists those that are left out. InputError if
    they are more than `reject_limit` of the picks, or if a shard with picks changed since it was indexed. If some were
    rejected, `retry_rejects` writes everything again, because they may be readable now.

    Memory: one task holds the picks, about 60 bytes each, while it sorts them; a task that writes a file holds the
    bytes of its 4,096 samples (512 for videos) twice; the driver holds 64 numbers for each file.
    """

    shards = task.shards.artifact

    def build(draft: Draft, before: Artifact | None) -> Built:
        plan, size = draft.scratch("plan"), file_samples(task.corpus)
        samples = ray.get(_write_plan.remote(plan, picks, size))
        done = committed_parts(draft.uri, retry_rejects)
        done_samples = sum(record["samples"] for record in done.values())
        todo = [p for p in range(-(-samples // size)) if p not in done]
        shared: Any = ray.put(task)
        running = [_write_part.remote(draft.uri, plan, part, shared) for part in todo]
        passed, rejected = done_samples, _rejected(done.values())
        with Progress(f"materialize {name}", samples, f"{task.corpus.kind}s", done=done_samples) as progress:
            while running:
                ready, running = ray.wait(running)
                record = ray.get(ready[0])
                done[record["part"]] = record
                passed, rejected = passed + record["samples"], rejected + _rejected([record])
                progress.update(passed, rejects=rejected)
        tally = RejectTally(samples, reject_limit, "picked samples", shards.name.removeprefix("shards-"))
        for record in done.values():
            tally.add_part(draft.uri, record, record["samples"])
        built = summarise(done, tally)
        if before and built.info["rejected"] == before.info["rejected"]:
            draft.discard()
            raise NothingGainedError
        return Built(built.files, {**built.info, "images": samples - done_samples})

    identity = {"picks": picks.digest, "shards": shards.info["content"], "materialize": identity_of(task.config)}
    if task.max_jpeg_pixels != MAX_JPEG_PIXELS:
        identity["max_jpeg_pixels"] = task.max_jpeg_pixels
    return make(root, f"examples-{name}", identity, build, retry_rejects)


def _rejected(records: Iterable[dict[str, Any]]) -> int:
    return sum(sum(record["reasons"].values()) for record in records)


def summarise(records: dict[int, dict[str, Any]], tally: RejectTally) -> Built:
    """The EXAMPLES of the picked samples, from the records of all parts, which the tally counts. InputError if too many
    are rejected."""
    tally.close()
    ordered = [records[part] for part in sorted(records)]
    items = [record["items"] for record in ordered if record["items"]]
    info = {
        "samples": tally.total - tally.rejected,
        "items": sum(map(sum, items)),
        "rejected": tally.rejected,
        "reasons": dict(tally.reasons),
        "lane_items": items,  # [file][lane]: items in each row group, so that the stream can seek without reading
    }
    return Built(files_of(records), info)


def _plan(picks: Artifact) -> pa.Table:
    """PLAN of the picks."""
    table = picks.table("picks", PICKS, ["label", "key"])
    label, key = table.column("label").to_numpy(), table.column("key").to_numpy()
    del table
    order = np.lexsort((label, key))
    label = label[order]
    key = key[order]
    del order
    firsts = np.flatnonzero(np.diff(key, prepend=-1))  # where a new key begins; its labels end before the next one
    lists = pa.ListArray.from_arrays(pa.array(np.append(firsts, len(key)), pa.int32()), pa.array(label))
    return pa.table([key[firsts], lists], schema=PLAN)


@ray.remote(num_cpus=1, max_retries=3)
def _write_plan(folder: str, picks: Artifact, size: int) -> int:
    """Writes `plan.parquet` and returns its number of samples."""
    plan = _plan(picks)
    write_table(folder, "plan.parquet", *(plan[i : i + size] for i in range(0, len(plan), size)))
    return len(plan)


@ray.remote(num_cpus=1, max_retries=3)
def _write_part(folder: str, plan: str, part: int, task: WritingTask) -> dict[str, Any]:
    fs, path = filesystem(plan)
    with reading(plan), pq.ParquetFile(f"{path}/plan.parquet", filesystem=fs) as file:
        labels = dict(zip(*file.read_row_group(part).to_pydict().values(), strict=True))
    return write_part(folder, part, labels, task)


def write_part(folder: str, part: int, labels: dict[int, list[int]], task: WritingTask) -> dict[str, Any]:
    """Reads the samples of a part and writes them lane by lane. Writing the record, which is returned, commits it.

    `labels`: key → labels, in ascending order of the keys.
    """
    kept: list[tuple[int, bytes, list[int]]] = []
    rejects: list[tuple[int, str, str, str, str]] = []
    known: list[tuple[int, bytes]] = []
    corpus, short, quality = task.corpus, task.config.short_side, task.config.quality
    parser = Parser.of(encode_parser, short_side=short, quality=quality, max_jpeg_pixels=task.max_jpeg_pixels)
    if corpus.kind == "video":
        parser = Parser.of(cut_parser, CLIP_CPU_SECONDS, short_side=short, quality=CRF)
    sandbox = shared_sandbox(parser)
    samples = read_sorted(corpus, task.shards, list(labels))
    while some := list(itertools.islice(samples, TOGETHER)):
        heartbeat()
        read = [sample for sample in some if sample.media is not None]
        encoded = sandbox.convert([sample.media or b"" for sample in read], [sample.segment or () for sample in read])
        for sample, found in zip(read, encoded, strict=True):
            if isinstance(found, Reject):
                rejects.append((sample.key, sample.uri, "decode", found.reason, found.detail))
            else:  # no bytes are returned if the corpus's own are kept
                kept.append((sample.key, found or sample.media or b"", labels[sample.key]))
                if task.digests:
                    known.append((sample.key, sample_digest(media_digest(sample.media or b""), sample.segment)))
        rejects += [(one.key, one.uri, "read", one.error or "missing", "") for one in some if one.media is None]
    lanes = _deal(kept, task.config.lanes)
    kept.clear()
    items = [sum(len(row[2]) for row in lane) for lane in lanes]
    groups = [_table(lanes.pop(0), EXAMPLES) for _ in items]  # popped, so that no bytes are in memory three times
    files = []
    if groups:
        files.append(write_table(folder, f"examples-{part:06d}.parquet", *groups))
    if known:
        files.append(write_table(folder, f"digests-{part:06d}.parquet", _table(known, DIGESTS)))
    if rejects:
        files.append(write_table(folder, f"rejects-{part:06d}.parquet", _table(rejects, REJECTS)))
    reasons = collections.Counter(row[3] for row in rejects)
    return commit_part(folder, part, files, {"samples": len(labels), "items": items, "reasons": reasons})


def _deal(rows: list[tuple], lanes: int) -> list[list[tuple]]:
    """Sorts the rows by a hash of their keys (the first column) and deals them evenly into lanes.

    If there are fewer rows than lanes, the last lanes get none and are left out.
    """
    mixed = sorted(rows, key=lambda row: _mix(row[0]))
    return [mixed[lane::lanes] for lane in range(min(lanes, len(mixed)))]


def _table(rows: list[tuple], schema: pa.Schema) -> pa.Table:
    columns = [pa.array(c, f.type) for c, f in zip(zip(*rows, strict=True), schema, strict=True)]
    return check(pa.Table.from_arrays(columns, schema=schema), schema, "examples")


def read_sorted(corpus: Corpus, shards: Shards, keys: list[int]) -> Iterator[Sample]:
    """The samples of these sorted keys."""
    for number, group in itertools.groupby(keys, key=lambda key: split_key(key)[0]):
        yield from read_rows(corpus, shards.row(number), [split_key(key)[1] for key in group])


def encode_parser(
    short_side: int, quality: int, max_jpeg_pixels: int = MAX_JPEG_PIXELS
) -> Callable[[bytes, Sequence[int]], bytes]:
    """For the sandbox: a function from encoded bytes to the bytes to train on, which are empty if the corpus's own are
    kept."""

    def encode(data: bytes, _: Sequence[int]) -> bytes:
        pixels = decode_pixels(data, max_jpeg_pixels)  # upright; no orientation, profile or comment is written
        short, long = min(pixels.shape[:2]), max(pixels.shape[:2])
        if not short_side or short <= short_side or long * short_side > JPEG_SIDE * short:
            return b""
        scale = short_side / short
        height, width = (round(n * scale) for n in pixels.shape[:2])
        out = io.BytesIO()
        Image.fromarray(pixels).resize((width, height)).save(out, "JPEG", quality=quality)
        return out.getvalue()

    return encode


def _mix(key: int) -> int:
    """A bijection of 64-bit integers that scatters neighbours (the finaliser of SplitMix64, Steele et al. 2014)."""
    z = (key + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return z ^ (z >> 31)
