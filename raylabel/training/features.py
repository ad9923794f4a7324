"""MEDIA → FEATURES, by the workers that train: of stored samples, in the order in which they are stored.

Clustering the features of the network that is trained (Caron et al. 2018) needs those of every sample after each epoch.
The workers have the GPUs, PyTorch and a connection to each other, and they read the samples when they train. So the
same processes compute the features, and nothing is started in between (held_group.py).

Letters: D numbers of a feature.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.train
import ray.train.torch

from raylabel.compute.autoscaler import ready
from raylabel.compute.gpu import use_full_float32
from raylabel.compute.progress import Progress, make_board, shown
from raylabel.compute.resources import Resources, node_cpus
from raylabel.compute.watchdog import heartbeat
from raylabel.inference.features import features_of
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.init import PENULTIMATE, Init
from raylabel.schema import ROW_GROUPS, features_schema
from raylabel.store.artifact import Artifact, Built, Draft, Root, identity_of, write_table
from raylabel.store.files import open_ranges, reading
from raylabel.store.parts import commit_part, committed_parts, files_of
from raylabel.training.checkpoint import Checkpoint
from raylabel.training.decoding import Decoder
from raylabel.training.held_group import HeldGroup
from raylabel.training.row_groups import RowGroup, read_batches
from raylabel.training.worker_group import Workers

VERSION = 1
"""Of the numbers."""
ROWS = 5_120
"""Samples that are committed together, at most up to a group more: a file of 20 MB if D is 2,048."""
PARTS = 32
"""Parts of a small set, at least, so that all workers have some,"""
LEAST = 256
"""unless they would have fewer samples than this: to commit a part takes a tenth of a second."""


@dataclass(frozen=True, kw_only=True)
class FeatureTask:
    """Which features are computed: plain data that can be sent to another process."""

    media: Artifact
    """MEDIA of the samples."""
    model: Model
    classes: int
    """Outputs of the network's head. The features do not depend on the head, but random weights do."""
    view: View
    """Its evaluation view."""
    seed: int
    """Of random weights."""
    init: Artifact | None = None
    """The trained network; None: random weights, with which a training with this seed starts."""
    layer: str = PENULTIMATE
    """See models/trunk.py."""
    precision: str
    """'bf16' or 'fp32'."""
    board: Any = None
    """The actor to which rank 0 reports progress; None until it is started."""

    @property
    def identity(self) -> dict[str, Any]:
        """What the features depend on."""
        found = {"media": self.media.digest, "model": identity_of(self.model), "layer": self.layer}
        found |= {"view": self.view.evaluation_identity, "precision": self.precision, "version": VERSION}
        weights = {"init": self.init.digest} if self.init else {"seed": self.seed, "classes": self.classes}
        return found | weights


def media_features(
    root: Root, task: FeatureTask, resources: Resources, batch: int, group: HeldGroup | None = None
) -> Artifact:
    """The artifact `media-features`: FEATURES of all samples of MEDIA, in their order, without `digest` and `group`.

    `batch`: that of the training whose workers these are, on which their number depends. A run that was killed keeps
    the parts that were committed. The bytes do not depend on the number of workers. Info: scored (samples), p (D).
    """
    cluster = ready(resources)

    def build(draft: Draft) -> Built:
        board, committed = make_board(), _Committed(draft.uri)
        workers = Workers(resources, cluster, batch, None, board, group)
        rows = task.media.table("row_groups", ROW_GROUPS, ["rows"]).column("rows").to_numpy()
        total, start = int(rows.sum()), committed.newest()
        before = sum(record["rows"] for record in committed.records.values())
        ray.get(board.set.remote(before, ""))
        with (
            Progress("compute features", total, task.view.inputs, done=before) as progress,
            shown(board, progress, lambda _: None),
        ):
            settings = {"task": replace(task, board=board), "folder": draft.uri, "before": before}
            storage, last = draft.scratch("ray_train"), len(parts_of(rows))
            workers.run(_run_worker, settings, storage, committed, start, last, progress.say)
            ray.get(board.set.remote(total, ""))
        ray.kill(board)
        records = committed.records
        info = {"scored": total, "p": next(iter(records.values()))["p"], "hardware": cluster.name}
        return Built(files_of(records), info)

    return root.make("media-features", task.identity, build)


def parts_of(rows: np.ndarray) -> list[np.ndarray]:
    """The groups of each part, for the numbers of samples of all groups."""
    size = max(LEAST, min(ROWS, int(rows.sum()) // PARTS))
    number = (np.cumsum(rows) - rows) // size  # that of the part in which its first sample is
    return np.split(np.arange(len(rows)), np.flatnonzero(np.diff(number)) + 1)


class _Committed:
    """The parts that are committed."""

    def __init__(self, folder: str):
        self._folder = folder
        self.records: dict[int, dict[str, Any]] = {}

    def newest(self) -> Checkpoint:
        """As many steps as there are parts."""
        self.records = committed_parts(self._folder)
        return Checkpoint(len(self.records), {}, ())


def _run_worker(settings: dict[str, Any]) -> None:
    """The function that each worker runs: computes its parts, those whose numbers leave its rank as the remainder, so
    that no two workers need to agree."""
    import torch

    from raylabel.models.build import memory_format
    from raylabel.models.start import start_network
    from raylabel.models.trunk import trunk

    task, folder, context = settings["task"], settings["folder"], ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    torch.set_num_threads(1)  # one worker per core; sums are also always computed in the same order
    if task.precision == "fp32":
        use_full_float32()
    table = task.media.table("row_groups", ROW_GROUPS)
    of = {name: table.column(name).to_numpy() for name in ROW_GROUPS.names}
    parts, done = parts_of(of["rows"]), committed_parts(folder)
    mine = [number for number in range(rank, len(parts), world) if number not in done]
    if not mine:
        return
    torch.manual_seed(task.seed)
    module = trunk(start_network(task.model, task.classes, Init(), task.init), task.layer)
    module = module.to(device, memory_format=memory_format(module)).eval()  # pyright: ignore[reportCallIssue]
    loaders = max(1, node_cpus() // context.get_local_world_size()) if ray.get_gpu_ids() else 1
    decoder, samples, told = Decoder(task.media, task.view, loaders), 0, 0.0
    try:
        for number in mine:
            key, feature, norm = list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
            for group, items, pixels in decoder.chunks(stored_groups(task.media, of, parts[number])):
                found = features_of(module, torch.from_numpy(pixels).to(device), task.view, task.precision)
                for column, values in zip((feature, norm), found, strict=True):
                    column.append(values.cpu().numpy())
                key.append(np.asarray(group.key)[items])
                heartbeat()
            samples += _commit(folder, number, key, feature, norm)
            if rank == 0 and time.monotonic() > told + 1:  # the others have computed about as many
                task.board.set.remote(settings["before"] + min(samples * world, int(of["rows"].sum())), "")
                told = time.monotonic()
            if ray.get(task.board.is_preempted.remote()):
                return
    finally:
        decoder.close()


def stored_groups(media: Artifact, of: dict[str, np.ndarray], numbers: np.ndarray) -> Iterator[RowGroup]:
    """The groups of MEDIA with these numbers, each sample as an item, read one after another. `of`: the columns of
    ROW_GROUPS."""
    names, opened, last = [file.name for file in media.files("media-")], None, -1
    for number in numbers.tolist():
        file = int(of["file"][number])
        where = f"{media.uri}/{names[file]}"
        with reading(where):
            if opened is None or file != last:
                opened, last = open_ranges(where), file
            (batch,) = read_batches(opened, int(of["offset"][number]), int(of["bytes"][number]), 1)
        items = np.arange(len(batch))
        yield RowGroup(batch.column(0).to_numpy(), batch.column(1), items, items)


def _commit(folder: str, number: int, key: list[Any], feature: list[Any], norm: list[Any]) -> int:
    """Writes a part; returns its number of samples."""
    features = np.concatenate(feature)
    width = features.shape[1]
    full = features_schema(width)
    schema = pa.schema([full.field(name) for name in ("key", "feature", "norm")])
    columns = [
        pa.array(np.concatenate(key), pa.int64()),
        pa.FixedSizeListArray.from_arrays(features.ravel(), type=schema.field("feature").type),
        pa.array(np.concatenate(norm), pa.float32()),
    ]
    file = write_table(folder, f"features-{number:06d}.parquet", pa.Table.from_arrays(columns, schema=schema))
    commit_part(folder, number, [file], {"rows": len(features), "p": width})
    return len(features)
