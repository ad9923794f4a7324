"""PICKS + corpus → EXAMPLES: what a network is trained on, as MEDIA and a table of their labels.

Three artifacts: SAMPLES of the picks (samples.py); MEDIA of the set of samples (media.py), which all tables of labels
of the same set share; and the labels of these, in the order of the media, which are called EXAMPLES.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from raylabel.compute.tasks import wait_for
from raylabel.compute.watchdog import heartbeat
from raylabel.errors import InputError
from raylabel.media.rejects import Reject
from raylabel.schema import REJECTS, ROW_GROUPS, SAMPLES, SOFT
from raylabel.store.artifact import Artifact, Built, Draft, File, Root, write_table
from raylabel.store.reject_retry import NothingGainedError, newest
from raylabel.training.layout import Layout, checksum, deal
from raylabel.training.media import BLOCK, WritingTask, make_media
from raylabel.training.samples import make_samples, read_samples


def materialize(
    root: Root,
    name: str,
    picks: Artifact,
    task: WritingTask,
    reject_limit: float,
    retry_rejects: bool = False,
    scores: Artifact | None = None,
) -> Artifact:
    """EXAMPLES of the picks, the artifact `examples-<name>`: the labels of each sample, in the order of its media; and
    SOFT of each, if SCORES are given.

    Their MEDIA are written if the root has none of the same samples; `make_media` says how, and when it ends in an
    error. EXAMPLES of an earlier version of raylabel, which contain their media, are used if the root has them.
    Info: samples, items (pairs of a sample and a label), rejected, reasons, lanes, media, the name of their folder, and
    soft, whether they have SOFT.
    """
    earlier = None if scores else newest(root, f"examples-{name}", {"picks": picks.digest, **task.identity})
    retried = earlier if earlier and retry_rejects and earlier.info["rejected"] else None
    if earlier and not retried:
        return _find(root, name, picks, task) or earlier
    samples = make_samples(root, name, picks, task.shards, scores)
    try:
        media = make_media(root, name, samples, task, reject_limit, retry_rejects, retried)
    except NothingGainedError:
        assert retried
        return retried
    identity = _identity(picks, media) | ({"scores": scores.digest} if scores else {})
    columns = [*SAMPLES.names, *(SOFT.names if scores else ())]
    return root.make(f"examples-{name}", identity, lambda draft: _build(draft, samples, media, columns))


def media_of(examples: Artifact) -> Artifact:
    """The artifact that has the media of EXAMPLES, their REJECTS and their DIGESTS."""
    folder = examples.info.get("media")
    if folder is None:
        return examples
    name, _, digest = folder.rpartition("-")
    return Artifact(f"{examples.uri.rpartition('/')[0]}/{folder}", name, digest)


def items_of(examples: Artifact) -> int:
    """Pairs of a sample and a label."""
    info = examples.info
    return info["items"] if "items" in info else sum(map(sum, info["lane_items"]))


def undecodable(examples: Artifact, key: int, reject: Reject) -> InputError:
    """The error of a stored sample that cannot be decoded."""
    return InputError(
        f"{media_of(examples).uri}: sample {key} cannot be decoded ({reject}), but could be when it was written: "
        "delete that folder and run again"
    )


def write_labels(
    draft: Draft, media: Artifact, labels: list[File], items: int, soft: bool = False, empty: Sequence[int] = ()
) -> Built:
    """EXAMPLES from the files with the labels of the media. `empty`: lanes that have media, but no labels."""
    lanes = len(np.unique(media.table("row_groups", ROW_GROUPS, ["lane"]).column("lane").to_numpy()))
    info = {name: media.info[name] for name in ("samples", "rejected", "reasons")}
    info |= {"items": items, "lanes": lanes - len(empty), "media": f"{media.name}-{media.digest}", "soft": soft}
    return Built(labels, info | ({"empty_lanes": list(empty)} if empty else {}))


def _identity(picks: Artifact, media: Artifact) -> dict[str, Any]:
    return {"picks": picks.digest, "media": media.digest}


def _find(root: Root, name: str, picks: Artifact, task: WritingTask) -> Artifact | None:
    """EXAMPLES that exist beside those of an earlier version: a retry could read more of their samples."""
    samples = root.find(f"samples-{name}", {"picks": picks.digest, "shards": task.identity["shards"]})
    media = newest(root, f"media-{name}", {"samples": samples.info["keys"], **task.identity}) if samples else None
    return root.find(f"examples-{name}", _identity(picks, media)) if media else None


def _build(draft: Draft, samples: Artifact, media: Artifact, columns: list[str]) -> Built:
    layout = Layout(**media.info["layout"])
    blocks = range(-(-layout.parts // BLOCK))
    running = [_write_block.remote(draft.uri, samples, media, layout, block, columns) for block in blocks]
    wait_for("label the examples", running, "samples", layout.samples)
    written = [one for one in ray.get(running) if one]
    files, items = [file for file, _ in written], sum(items for _, items in written)
    return write_labels(draft, media, files, items, columns != SAMPLES.names)


@ray.remote(num_cpus=1, max_retries=3)
def _write_block(
    folder: str, samples: Artifact, media: Artifact, layout: Layout, block: int, columns: list[str]
) -> tuple[File, int] | None:
    """Writes the labels of a block of parts, a row group for each; also their number. None if no sample is left."""
    parts = range(block * BLOCK, min((block + 1) * BLOCK, layout.parts))
    bands = layout.stretches(parts.start, parts.stop)
    tables = read_samples(samples, bands, columns)
    with_rejects = {file.name for file in media.files("rejects-")}
    files = {file.name: number for number, file in enumerate(media.files("media-"))}
    table = media.table("row_groups", ROW_GROUPS)
    stored, rows, known = (table.column(name).to_numpy() for name in ("file", "rows", "keys"))
    groups = []
    for part in parts:
        heartbeat()
        places = zip(tables, bands, layout.stretches(part, part + 1), strict=True)
        own = pa.concat_tables([band.slice(b - first, e - b) for band, (first, _), (b, e) in places])
        rejected = rejected_of(media, part) if f"rejects-{part:06d}.parquet" in with_rejects else np.empty(0, np.int64)
        labels = labels_of_part(own, rejected, len(layout.lanes_of(part)))
        of_part = np.flatnonzero(stored == files.get(f"media-{part:06d}.arrows", -1))
        keys = np.split(labels.column("key").to_numpy(), np.cumsum(rows[of_part])[:-1])
        if [checksum(some) for some in keys if len(some)] != known[of_part].tolist():
            raise AssertionError(f"{media.uri}: part {part} does not have the samples of {samples.uri} in this order")
        if len(labels):
            groups.append(labels)
    if not groups:
        return None
    items = sum(len(some.column("labels").combine_chunks().flatten()) for some in groups)
    return write_table(folder, f"examples-{block:06d}.parquet", *groups), items


def rejected_of(media: Artifact, part: int) -> np.ndarray:
    """The keys of the REJECTS of a part."""
    return media.table(f"rejects-{part:06d}", REJECTS, ["key"]).column("key").to_numpy()


def labels_of_part(samples: pa.Table, rejected: np.ndarray, groups: int) -> pa.Table:
    """The SAMPLES of a part, given in key order, that were not rejected, in the order of their media."""
    kept = samples.filter(pa.array(~np.isin(samples.column("key").to_numpy(), rejected)))
    dealt = deal(kept.column("key").to_numpy(), groups)
    return kept.take(pa.array(np.concatenate(dealt), pa.int64()))
