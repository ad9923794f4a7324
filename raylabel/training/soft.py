"""Soft targets: what the teacher says of a picked sample beside its labels, from SCORES to the targets of a batch.

Letters: B batch, C classes, P classes kept per sample in SCORES, T temperature.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raylabel.corpus import Shards, Units
from raylabel.schema import SOFT
from raylabel.store.artifact import Artifact
from raylabel.store.files import read_file, reading
from raylabel.training.config import Train
from raylabel.training.losses import several_targets
from raylabel.training.noise import replace_labels

THREADS = 8  # that read files of SCORES; they mostly wait


class Soft(NamedTuple):
    """The P classes of samples, best first, and their log-odds."""

    classes: np.ndarray
    """int32 [..., P]"""
    log_odds: np.ndarray
    """float32 [..., P]; NaN for a sample that has none"""


def add_soft(samples: pa.Table, scores: Artifact, shards: Shards) -> pa.Table:
    """SAMPLES with the columns of SOFT. Each part of SCORES that has some of the samples is read once."""
    unit, part = scores.identity["unit"]
    key = samples.column("key").to_numpy()
    numbers = Units(shards.rows, unit).containing(key >> 32, key & 0xFFFFFFFF) // part
    found, first = np.unique(numbers, return_index=True)

    def read(number: int, wanted: np.ndarray) -> pa.Table:
        uri = f"{scores.uri}/scores-{number:06d}.parquet"
        with reading(uri):
            data = pa.BufferReader(read_file(uri))
            table = pq.read_table(data, columns=["key", *SOFT.names], use_threads=False)
        at = np.searchsorted(table.column("key").to_numpy(), wanted)
        rows = table.take(pa.array(at.clip(max=max(0, len(table) - 1)))) if len(table) else table
        if not np.array_equal(rows.column("key").to_numpy(), wanted):
            raise AssertionError(f"{uri} lacks samples that were picked from it")
        return rows.select(SOFT.names)

    with ThreadPoolExecutor(THREADS) as pool:
        tables = list(pool.map(read, found.tolist(), np.split(key, first[1:])))
    soft = pa.concat_tables([SOFT.empty_table(), *tables])
    return pa.table([*samples.columns, *soft.columns], schema=pa.schema([*samples.schema, *SOFT]))


def stack(some: Sequence[Soft | None]) -> Soft | None:
    """Soft [B, P] of B samples. If some have none, as those of a labeled set, their log-odds are NaN; if all have none,
    None."""
    like = next((one for one in some if one), None)
    if like is None:
        return None
    none = Soft(np.zeros_like(like.classes), np.full_like(like.log_odds, np.nan))
    return Soft(*(np.stack(column) for column in zip(*(one or none for one in some), strict=True)))


def make_targets(config: Train, classes: int) -> Callable[[Any, Soft | None], Any]:
    """A function (labels int64 [B], their Soft) → what cross entropy is computed with: the labels themselves without
    `config.soft`, or targets float32 [B, C].

    The target of a sample with label y is (1 - soft) onehot(y) + soft q, where q are the teacher's probabilities. Let
    p_c = 1 / (1 + exp(-log_odds_c)) for its P stored classes. At T = 1, q_c = p_c, and the rest of the mass, 1 - sum p,
    is spread equally over the other C - P classes; if there are none, q is divided by its sum. At other temperatures q
    is proportional to p_c^(1/T) for the P classes and 0 for others (Hinton et al. 2015, arXiv 1503.02531 §2, without
    the temperature of the student). The target of a sample without log-odds is onehot(y). Before that,
    `config.label_noise` replaces labels. With `config.loss` 'bce', labels int64 [B, L] become those of losses.py.
    """
    noise = config.label_noise
    if config.loss == "bce":
        return lambda labels, _: several_targets(labels, classes)
    if not config.soft:
        return lambda labels, soft: replace_labels(labels, noise, classes)
    import torch
    from torch.nn import functional

    def targets(labels: Any, soft: Soft | None) -> Any:
        hard = functional.one_hot(replace_labels(labels, noise, classes), classes).float()
        if soft is None:
            return hard
        of, log_odds = (torch.from_numpy(column).to(labels.device) for column in soft)
        given = ~log_odds.isnan().any(1, keepdim=True)
        log_p = functional.logsigmoid(log_odds.float().nan_to_num())
        spread = config.temperature == 1 and log_odds.shape[1] < classes
        p = log_p.exp() if spread else (log_p / config.temperature).softmax(1)
        rest = (1 - p.sum(1, keepdim=True)).clamp(min=0) / (classes - p.shape[1]) if spread else p.new_zeros(len(p), 1)
        q = rest.expand(-1, classes).scatter(1, of.long(), p)
        return torch.where(given, (1 - config.soft) * hard + config.soft * q, hard)

    return targets
