"""Stored FEATURES and the head of a network → SCORES: no sample is read or decoded.

A head ranks features in the batches, and in the slots of a batch, in which the whole network ranks samples. So the
bytes are the same. Letters: B batch, C classes, D numbers of a feature, P classes kept per sample.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from raylabel.compute.gpu import use_full_float32
from raylabel.compute.metrics import count_samples
from raylabel.compute.resources import Cluster
from raylabel.compute.tasks import fetch
from raylabel.corpus import Unit
from raylabel.errors import InputError
from raylabel.inference.batches import ScoringTask
from raylabel.inference.network import Network
from raylabel.inference.parts import Part, write_part
from raylabel.inference.reuse import Reader, Rows, read_rows
from raylabel.inference.scorer import RANKED
from raylabel.inference.subset import Subset
from raylabel.prefetch import ahead
from raylabel.schema import SCORES, make_key
from raylabel.store.artifact import Artifact

RUN = 16  # parts of one task, at most: it reads a part while it ranks the one before
IN_FLIGHT = 1000  # tasks: an autoscaler sees how many could run
COPIES = 3  # of a part's features in the memory of a task: read ahead, as bytes and as a table


def score_stored(
    features: Artifact, task: ScoringTask, parts: Callable[[], Iterator[Part]], folder: str
) -> Iterator[dict[str, Any]]:
    """`pool.score` of a network with a head on features of unit length. `features`: FEATURES of the corpus by the rest
    of that network, in the same parts."""
    assert isinstance(task.scorer, Network)
    size = sum(1 for _ in parts()) // (4 * max(1, Cluster.now().cpus))
    head = _load_head.remote(task.scorer.model)
    part = max(file.rows for file in features.files("features-"))
    thumbnails = task.scorer.kept.thumbnails
    rank = _rank.options(num_cpus=1, num_gpus=task.pool.gpus, memory=COPIES * part * 2 * features.info["p"])
    waiting: list[Any] = []
    left = parts()
    while run := list(itertools.islice(left, min(RUN, max(1, size)))):
        waiting.append(rank.remote(folder, features.uri, head, task.batch, task.scorer.p, thumbnails, task.subset, run))
        if len(waiting) == IN_FLIGHT:
            (done,), waiting = ray.wait(waiting)
            yield from fetch(done)
    while waiting:
        (done,), waiting = ray.wait(waiting)
        yield from fetch(done)


@dataclass(frozen=True)
class _Head:
    weight: np.ndarray
    """float32 [C, D]"""
    bias: np.ndarray
    """float32 [C]"""


@ray.remote(num_cpus=1, max_retries=3)
def _load_head(model: Artifact) -> _Head:
    from raylabel.models.head import head_of
    from raylabel.models.trained import load_model

    network = load_model(model)
    head: Any = network.get_submodule(head_of(network))
    found = _Head(head.weight.detach().float().numpy(), head.bias.detach().float().numpy())
    if not (np.isfinite(found.weight).all() and np.isfinite(found.bias).all()):
        raise InputError(f"the head of {model.uri} has weights that are not finite: delete this folder and run again")
    return found


@ray.remote(max_retries=3)
def _rank(
    folder: str,
    features: str,
    head: _Head,
    batch: int,
    p: int,
    thumbnails: bool,
    subset: Subset | None,
    parts: list[Part],
) -> list[dict[str, Any]]:
    """Ranks and commits the parts, and returns their records. `features`: the folder of FEATURES."""
    import torch

    torch.set_num_threads(1)  # as in network.py
    use_full_float32()
    device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
    weight, bias = (torch.from_numpy(values.copy()).to(device) for values in (head.weight, head.bias))
    kept, found = replace(RANKED, thumbnails=thumbnails), []
    beside = kept.beside(names=False)
    reader, read = Reader(kept.name, beside), functools.partial(read_rows, features, name="features", beside=beside)
    stored = (read(part.number) if len(part.units) else None for part in parts)
    for part, rows in zip(parts, ahead(stored, depth=1), strict=True):
        units = subset.narrow(part.units) if subset else part.units
        ranked = [_rank_part(features, rows, weight, bias, batch, p, units)] if rows else []
        found.append(write_part(folder, kept, part, reader, ranked, beside))
    return found


def _rank_part(folder: str, rows: Rows, weight: Any, bias: Any, batch: int, p: int, units: Sequence[Unit]) -> Rows:
    """SCORES and REJECTS of some units of a part, and its THUMBNAILS. `rows`: its FEATURES and REJECTS, and these."""
    import torch

    table, rejects, *thumbnails = rows
    key, count = table.column("key").to_numpy(), len(table)
    column = table.column("feature").combine_chunks()
    matrix = column.flatten().to_numpy().reshape(count, column.type.list_size)  # of a part without any, too
    ranked = np.zeros(count, bool)
    found = [np.empty((count, p), kind) for kind in (np.int32, np.float32, np.float32)]
    without: list[np.ndarray] = []
    for some in _batches(units, batch):
        at = np.searchsorted(key, some)
        known = np.zeros(len(some), bool)
        inside = at < count
        known[inside] = key[at[inside]] == some[inside]
        slots, at = np.flatnonzero(known), at[known]
        inputs = torch.zeros(batch, matrix.shape[1], dtype=torch.float16)
        inputs.numpy()[slots] = matrix[at]
        for values, new in zip(found, rank_features(inputs, weight, bias, p), strict=True):
            values[at] = new[slots]
        ranked[at] = True
        without.append(some[~known])
    unread = np.concatenate(without) if without else np.empty(0, np.int64)
    rejects = rejects.filter(pa.array(np.isin(rejects.column("key").to_numpy(), unread)))
    if len(rejects) != len(unread):
        raise AssertionError(f"{folder} lacks {len(unread) - len(rejects)} samples: delete it and run again")
    count_samples(int(ranked.sum()), rejects.column("reason").to_pylist())
    scored = table.select(["key", "digest", "group"]).filter(pa.array(ranked))
    for name, values in zip(("classes", "log_odds", "logits"), found, strict=True):
        scored = scored.append_column(SCORES.field(name), _lists(values[ranked]))
    clips = _lists(np.empty((len(scored), 0), np.int32))  # a video has some
    mine = pa.array(ranked)
    return (
        scored.append_column(SCORES.field("clips"), clips).cast(SCORES),
        rejects,
        *(t.filter(mine) for t in thumbnails),
    )


def rank_features(features: Any, weight: Any, bias: Any, p: int) -> list[np.ndarray]:
    """classes, log-odds and logits, each [B, P], of a batch of features float16 [B, D] on the CPU. `weight` [C, D] and
    `bias` [C] are float32, on the device that computes."""
    import torch

    from raylabel.inference.log_odds import top_classes

    with torch.inference_mode():
        logits = torch.nn.functional.linear(features.to(weight.device).float(), weight, bias)
        return [values.cpu().numpy() for values in top_classes(logits, p)]


def _batches(units: Sequence[Unit], batch: int) -> Iterator[np.ndarray]:
    """The keys of each batch, int64 [<= B]: as inference/batches.py cuts units."""
    for unit in units:
        rows = np.array(unit.only) if unit.only else np.arange(unit.first, unit.first + unit.rows)
        keys = make_key(unit.shard, 0) + rows
        yield from (keys[first : first + batch] for first in range(0, len(keys), batch))


def _lists(values: np.ndarray) -> pa.ListArray:
    ends = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(ends, values.ravel())
