"""SAMPLES + corpus → MEDIA: one streaming pass that keeps the encoded bytes of the picked samples, without labels.

The same set of samples has the same MEDIA, whatever its labels. Where a sample is stored is in layout.py.
"""

import collections
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
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
from raylabel.schema import DIGESTS, MEDIA, REJECTS, ROW_GROUPS, SAMPLES, check, split_key
from raylabel.store.artifact import (
    Artifact,
    Built,
    Draft,
    File,
    Root,
    identity_of,
    write_bytes,
    write_table,
)
from raylabel.store.files import filesystem, reading
from raylabel.store.parts import commit_part, committed_parts, files_of
from raylabel.store.reject_limit import RejectTally
from raylabel.store.reject_retry import NothingGainedError, make
from raylabel.training.layout import Layout, checksum, deal
from raylabel.training.samples import read_samples

GROUP = {"image": 640, "video": 40}  # samples of a group: a video is about 16 times as large as a photograph
GROUP_BYTES = 64 << 20  # of a group, if the samples are as large as those of the corpus on average
BLOCK = 256  # parts that are planned together
TOGETHER = 64  # samples that are read and decoded together
PROCESS = 400 << 20  # bytes of a process that writes media, besides the media
JPEG_SIDE = 65_500  # the largest width or height that libjpeg writes, in pixels
CRF = 18  # x264's constant rate factor for videos: the loss is not visible

PLAN = pa.schema([SAMPLES.field("key")])  # the samples of each part, in key order: a row group for each part of a block


@dataclass(frozen=True, kw_only=True)
class Materialize:
    """How the training examples are stored."""

    short_side: int = 0
    """Re-encode larger images as JPEG, and larger videos as H.264 in MP4, so that the short side has this length in
    pixels; 0 keeps the bytes of the corpus. A sample that is a segment of a video is always cut out and re-encoded."""
    quality: int = 90
    """JPEG quality of re-encoded images, 1 to 95. Videos are re-encoded with a fixed quality without visible loss."""
    lanes: int = 64
    """Lanes of the training stream: sequences of samples that are read side by side. More lanes mix the batches better
    if the corpus is sorted by class, and take more memory. Training is equally fast with any number of workers. With 64
    lanes, up to 128 workers make at most one request for 512 images; workers whose number does not divide the number
    of lanes read some bytes twice or three times."""

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

    @property
    def identity(self) -> dict[str, Any]:
        """What MEDIA depends on besides the set of samples."""
        found = {"shards": self.shards.artifact.info["content"], "materialize": identity_of(self.config)}
        return found | ({"max_jpeg_pixels": self.max_jpeg_pixels} if self.max_jpeg_pixels != MAX_JPEG_PIXELS else {})

    @property
    def sample_bytes(self) -> int:
        """The bytes of a sample of the corpus on average, or of a re-encoded one if that is less."""
        mean = sum(self.shards.columns("bytes").column("bytes").to_pylist()) // max(1, self.shards.samples)
        small = self.corpus.kind == "image" and self.config.short_side**2  # at one byte per pixel
        return min(mean, small) if small else mean

    def layout(self, samples: int) -> Layout:
        """Where so many samples are stored."""
        most = max(1, GROUP_BYTES // max(1, self.sample_bytes))
        group = min(GROUP[self.corpus.kind], most)
        return Layout(samples=samples, lanes=min(self.config.lanes, samples), row_group_samples=group)


def make_media(
    root: Root,
    name: str,
    samples: Artifact,
    task: WritingTask,
    reject_limit: float,
    retry_rejects: bool = False,
    before: Artifact | None = None,
) -> Artifact:
    """MEDIA of the SAMPLES, the artifact `media-<name>`, with ROW_GROUPS, which say where they are.

    One pass over the corpus: shards and parquet row groups without a pick are not read. Each sample is decoded once
    here, so that training never reads one that cannot be decoded; REJECTS lists those that are left out. InputError if
    they are more than `reject_limit` of the samples, or if a shard with picks changed since it was indexed. If some
    were rejected, `retry_rejects` writes everything again, because they may be readable now; so does `before`, EXAMPLES
    of an earlier version that are retried: NothingGainedError if as many are rejected again.

    Memory: a task that writes a file holds its media, half a GB or one group, twice while the file is written.
    """
    count = samples.info["samples"]

    def build(draft: Draft, retried: Artifact | None) -> Built:
        layout = task.layout(count)
        done = committed_parts(draft.uri, retry_rejects)
        done_samples = sum(record["samples"] for record in done.values())
        shared: Any = ray.put((task, layout))
        of, folder = samples, draft.scratch("plan")
        todo = [part for part in range(layout.parts) if part not in done]
        plans = {block: _write_plan.remote(folder, of, layout, block) for block in sorted({p // BLOCK for p in todo})}
        memory = 2 * task.sample_bytes * count // layout.parts
        # Only of large media, so that a small machine has room for small ones.
        write = _write_part.options(memory=min(PROCESS + memory, 1 << 32)) if memory > PROCESS else _write_part
        running = [write.remote(draft.uri, plans[part // BLOCK], part, shared) for part in todo]
        passed, rejected = done_samples, count_rejected(done.values())
        with Progress(f"materialize {name}", count, f"{task.corpus.kind}s", done=done_samples) as progress:
            while running:
                ready, running = ray.wait(running)
                record = ray.get(ready[0])
                done[record["part"]] = record
                passed, rejected = passed + record["samples"], rejected + count_rejected([record])
                progress.update(passed, rejects=rejected)
        tally = RejectTally(count, reject_limit, "picked samples", task.shards.artifact.name.removeprefix("shards-"))
        for record in done.values():
            tally.add_part(draft.uri, record, record["samples"])
        built = finish_media(draft, done, tally)
        if (old := retried or before) and built.info["rejected"] == old.info["rejected"]:
            draft.discard()
            raise NothingGainedError
        # Labels that are added later must be in the same order, even if a later version had another layout.
        info = {**built.info, "images": count - done_samples, "layout": asdict(layout)}
        return Built(built.files, info)

    return make(root, f"media-{name}", {"samples": samples.info["keys"], **task.identity}, build, retry_rejects)


def count_rejected(records: Iterable[dict[str, Any]]) -> int:
    return sum(sum(record["reasons"].values()) for record in records)


def finish_media(draft: Draft, records: dict[int, dict[str, Any]], tally: RejectTally) -> Built:
    """MEDIA from the records of all parts, which the tally counts. InputError if too many samples are rejected."""
    tally.close()
    written = [records[part]["row_groups"] for part in sorted(records) if records[part]["row_groups"]]
    rows = [(file, *group) for file, groups in enumerate(written) for group in groups]
    groups = write_table(draft.uri, "row_groups.parquet", _table(rows, ROW_GROUPS))
    info = {"samples": tally.total - tally.rejected, "rejected": tally.rejected, "reasons": dict(tally.reasons)}
    return Built([*files_of(records), groups], info)


@ray.remote(num_cpus=1, max_retries=3)
def _write_plan(folder: str, samples: Artifact, layout: Layout, block: int) -> str:
    """Writes the keys of the parts of a block; returns the URI of the file."""
    parts = range(block * BLOCK, min((block + 1) * BLOCK, layout.parts))
    bands = layout.stretches(parts.start, parts.stop)
    tables = read_samples(samples, bands, ["key"])
    groups = []
    for part in parts:
        heartbeat()
        places = zip(tables, bands, layout.stretches(part, part + 1), strict=True)
        groups.append(pa.concat_tables([band.slice(b - first, e - b) for band, (first, _), (b, e) in places]))
    name = f"{block:06d}.parquet"
    write_table(folder, name, *groups)
    return f"{folder}/{name}"


@ray.remote(num_cpus=1, max_retries=3)
def _write_part(folder: str, plan: str, part: int, how: tuple[WritingTask, Layout]) -> dict[str, Any]:
    task, layout = how
    fs, path = filesystem(plan)
    with reading(plan), pq.ParquetFile(path, filesystem=fs) as file:
        keys = file.read_row_group(part % BLOCK).column("key").to_pylist()
    return write_part(folder, part, keys, layout.lanes_of(part), task)


def write_part(folder: str, part: int, keys: list[int], lanes: list[int], task: WritingTask) -> dict[str, Any]:
    """Reads the samples of a part and writes them group by group. Writing the record, which is returned, commits it.

    `keys`: ascending; `lanes`: that of each group.
    """
    kept: dict[int, bytes] = {}
    rejects: list[tuple[int, str, str, str, str]] = []
    known: list[tuple[int, bytes]] = []
    corpus, short, quality = task.corpus, task.config.short_side, task.config.quality
    parser = Parser.of(encode_parser, short_side=short, quality=quality, max_jpeg_pixels=task.max_jpeg_pixels)
    if corpus.kind == "video":
        parser = Parser.of(cut_parser, CLIP_CPU_SECONDS, short_side=short, quality=CRF)
    sandbox = shared_sandbox(parser)
    samples = read_sorted(corpus, task.shards, keys)
    while some := list(itertools.islice(samples, TOGETHER)):
        heartbeat()
        read = [sample for sample in some if sample.media is not None]
        encoded = sandbox.convert([sample.media or b"" for sample in read], [sample.segment or () for sample in read])
        for sample, found in zip(read, encoded, strict=True):
            if isinstance(found, Reject):
                rejects.append((sample.key, sample.uri, "decode", found.reason, found.detail))
            else:  # no bytes are returned if the corpus's own are kept
                kept[sample.key] = found or sample.media or b""
                if task.digests:
                    known.append((sample.key, sample_digest(media_digest(sample.media or b""), sample.segment)))
        rejects += [(one.key, one.uri, "read", one.error or "missing", "") for one in some if one.media is None]
    files: list[File] = []
    groups: list[tuple[int, int, int, int, int]] = []
    if kept:
        file, groups = _write_media(folder, f"media-{part:06d}.arrows", kept, lanes)
        files.append(file)
    if known:
        files.append(write_table(folder, f"digests-{part:06d}.parquet", _table(known, DIGESTS)))
    if rejects:
        files.append(write_table(folder, f"rejects-{part:06d}.parquet", _table(rejects, REJECTS)))
    reasons = collections.Counter(row[3] for row in rejects)
    return commit_part(folder, part, files, {"samples": len(keys), "row_groups": groups, "reasons": reasons})


def _write_media(
    folder: str, name: str, kept: dict[int, bytes], lanes: list[int]
) -> tuple[File, list[tuple[int, int, int, int, int]]]:
    """Writes the MEDIA of a part, key → bytes, which is emptied; also the rows of ROW_GROUPS without the file.
    If there are fewer samples than groups, some get none and are left out."""
    sink, groups = io.BytesIO(), []
    sink.write(MEDIA.serialize())
    keys = np.array(list(kept), np.int64)
    for lane, group in zip(lanes, deal(keys, len(lanes)), strict=True):
        if not len(group):
            continue
        rows = [(int(key), kept.pop(int(key))) for key in keys[group]]
        columns = [pa.array(c, f.type) for c, f in zip(zip(*rows, strict=True), MEDIA, strict=True)]
        begin = sink.tell()
        sink.write(pa.RecordBatch.from_arrays(columns, schema=MEDIA).serialize())
        groups.append((lane, len(rows), begin, sink.tell() - begin, checksum(keys[group])))
    sink.write(b"\xff\xff\xff\xff\0\0\0\0")  # the end of a stream in Arrow's format
    return replace(write_bytes(folder, name, sink.getbuffer()), rows=len(keys)), groups


def _table(rows: list[tuple], schema: pa.Schema) -> pa.Table:
    columns = [pa.array(c, f.type) for c, f in zip(zip(*rows, strict=True), schema, strict=True)]
    return check(pa.Table.from_arrays(columns, schema=schema), schema, "media")


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
