"""PICKS + corpus → EXAMPLES: one streaming pass that keeps the encoded bytes of the picked samples with their labels.

Every file deals its rows evenly, in an order that is a hash of their keys, into a fixed number of lanes, a row group
each; the training stream (stream.py) takes its items from the lanes in turn, and a worker reads only its own.
"""

import collections
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from raylabel.artifact import (
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
from raylabel.corpus import Corpus, Sample, Shards, Unit, read_unit, verify_packed
from raylabel.errors import InputError
from raylabel.media.decode import Reject, decode_image
from raylabel.report.terminal import Progress
from raylabel.schema import EXAMPLES, PICKS, REJECTS, check, split_key

SAMPLES = 4096  # picked samples in a file
GAP = 1024  # rows without a pick that are cheaper to read over than to open the shard anew behind them


@dataclass(frozen=True, kw_only=True)
class Materialize:
    """What training reads."""

    short_side: int = 0
    """Re-encode larger pictures as JPEG with this short side, in pixels; 0 keeps the bytes of the corpus."""
    quality: int = 90
    """JPEG quality of re-encoded pictures, 1 to 95."""
    lanes: int = 64
    """Lanes that the stream is dealt into: the most workers that will ever train on it (64 in Yalniz et al. 2019)."""

    def __post_init__(self):
        if self.short_side < 0:
            raise InputError(f"materialize.short_side is {self.short_side}: give pixels, or 0 to keep the bytes")
        if not 1 <= self.quality <= 95:
            raise InputError(f"materialize.quality is {self.quality}: give 1 to 95")
        if self.lanes < 1:
            raise InputError(f"materialize.lanes is {self.lanes}: give at least 1")


def materialize(
    root: Root, name: str, picks: Artifact, shards: Artifact, corpus: Corpus, config: Materialize, reject_limit: float
) -> Artifact:
    """EXAMPLES of the picks: a sample's bytes once, with all its labels in the order of their numbers.

    Each sample is decoded once here, so that training never meets one it cannot read: REJECTS lists those left out,
    InputError if they are more than `reject_limit` of the picks. Memory in the driver is that of the picks, O(C K).
    """

    def build(draft: Draft) -> Built:
        table = picks.table("picks", PICKS, ["label", "key"])
        order = np.lexsort((table.column("label").to_numpy(), table.column("key").to_numpy()))
        label, key = table.column("label").to_numpy()[order], table.column("key").to_numpy()[order]
        firsts = np.flatnonzero(np.diff(key, prepend=-1))  # where a new key begins: its labels run to the next one
        shard_table = Shards(shards)
        shared = [ray.put(x) for x in (label, key, firsts, shard_table, corpus, config)]
        done = committed_parts(draft.uri)
        todo = [p for p in range(-(-len(firsts) // SAMPLES)) if p not in done]
        running = [_write.remote(draft.uri, part, *shared) for part in todo]
        with Progress(f"materialize {name}", len(firsts)) as progress:
            while running:
                ready, running = ray.wait(running)
                record = ray.get(ready[0])
                done[record["part"]] = record
                progress.update(sum(r["samples"] for r in done.values()), rejects=_rejected(done))
        try:
            verify_packed(shard_table)
        except (
            InputError
        ):  # it changed while it was read: none of these bytes may pass for those of the restored corpus
            draft.discard()
            raise
        built = summarise(done, len(firsts), reject_limit)
        return Built(built.files, {**built.info, "images": sum(done[p]["samples"] for p in todo)})

    identity = {"picks": picks.digest, "shards": shards.info["content"], "materialize": identity_of(config)}
    return root.make(f"examples-{name}", identity, build)


def _rejected(records: dict[int, dict[str, Any]]) -> int:
    return sum(sum(r["reasons"].values()) for r in records.values())


def summarise(records: dict[int, dict[str, Any]], samples: int, reject_limit: float) -> Built:
    """EXAMPLES of `samples` picked samples from the records of their parts. InputError if too many are rejected."""
    rejected = _rejected(records)
    reasons = collections.Counter()
    for record in records.values():
        reasons.update(record["reasons"])
    if rejected > reject_limit * samples or rejected == samples:
        top = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common(3))
        raise InputError(
            f"{rejected:,} of {samples:,} picked samples could not be read (top reasons: {top}): mend the corpus, or "
            "raise --label.reject-limit"
        )
    ordered = [records[part] for part in sorted(records)]
    items = [record["items"] for record in ordered if record["items"]]
    info = {
        "samples": samples - rejected,
        "items": sum(map(sum, items)),
        "rejected": rejected,
        "reasons": dict(reasons),
        "lane_items": items,  # [file][lane]: items of each row group, so that the stream can seek without reading
    }
    return Built(files_of(records), info)


def write_part(folder: str, part: int, *shared: Any) -> dict[str, Any]:
    """Reads the part's samples from the corpus and writes them, lane by lane; its record is the commit."""
    label, key, firsts, shards, corpus, config = shared
    bounds = np.append(firsts, len(key))
    begin, end = part * SAMPLES, min((part + 1) * SAMPLES, len(firsts))
    labels = {int(key[bounds[i]]): label[bounds[i] : bounds[i + 1]].tolist() for i in range(begin, end)}
    kept: list[tuple[int, bytes, list[int]]] = []
    rejects: list[tuple[int, str, str, str, str]] = []
    for sample in _read(corpus, shards, sorted(labels)):
        try:
            kept.append((sample.key, _encode(sample, config), labels[sample.key]))
        except Reject as reject:
            stage = "decode" if sample.media is not None else "read"
            rejects.append((sample.key, sample.uri, stage, reject.reason, reject.detail))
    kept.sort(key=lambda row: _mix(row[0]))
    groups = [kept[lane :: config.lanes] for lane in range(min(config.lanes, len(kept)))]
    files = []
    if groups:
        files.append(write_table(folder, f"examples-{part:06d}.parquet", *(_table(g, EXAMPLES) for g in groups)))
    if rejects:
        files.append(write_table(folder, f"rejects-{part:06d}.parquet", _table(rejects, REJECTS)))
    found = {
        "samples": len(labels),
        "items": [sum(len(row[2]) for row in group) for group in groups],
        "reasons": collections.Counter(row[3] for row in rejects),
    }
    return commit_part(folder, part, files, found)


_write = ray.remote(num_cpus=1, max_retries=3)(write_part)


def _table(rows: list[tuple], schema: pa.Schema) -> pa.Table:
    columns = [pa.array(c, f.type) for c, f in zip(zip(*rows, strict=True), schema, strict=True)]
    return check(pa.Table.from_arrays(columns, schema=schema), schema, "examples")


def _read(corpus: Corpus, shards: Shards, keys: list[int]) -> Iterator[Sample]:
    """The samples of these sorted keys. A gap of more than GAP rows is skipped, a smaller one is read over."""
    number, shard = -1, {}
    starts = [i for i, key in enumerate(keys) if i == 0 or key - keys[i - 1] > GAP]
    for begin, end in itertools.pairwise([*starts, len(keys)]):
        wanted, (at, first) = set(keys[begin:end]), split_key(keys[begin])
        if at != number:  # keys of another shard are more than a gap away
            number, shard = at, shards.row(at)
        for sample in read_unit(corpus, shard, Unit(number, first, keys[end - 1] - keys[begin] + 1)):
            if sample.key in wanted:
                yield sample


def _encode(sample: Sample, config: Materialize) -> bytes:
    """The bytes to train on; Reject if they are no picture."""
    if sample.media is None:
        raise Reject(sample.error or "missing")
    image = decode_image(sample.media)
    if not config.short_side or min(image.size) <= config.short_side:
        return sample.media
    scale = config.short_side / min(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    out = io.BytesIO()
    image.resize((width, height)).save(out, "JPEG", quality=config.quality)
    return out.getvalue()


def _mix(key: int) -> int:
    """A bijection of 64-bit integers that scatters neighbours (the finaliser of SplitMix64, Steele et al. 2014)."""
    z = (key + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return z ^ (z >> 31)
