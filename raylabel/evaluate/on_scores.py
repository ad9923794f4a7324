"""SCORES with all classes of each sample → CLASSIFIED of a labeled set.

Letters: N samples, C classes.
"""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import ray

from raylabel.compute.tasks import fetch
from raylabel.compute.watchdog import heartbeat
from raylabel.evaluate.calibration import fit_temperature
from raylabel.evaluate.classified import FILE, classified
from raylabel.evaluate.on_features import occurring_classes, with_unread
from raylabel.schema import PICKS
from raylabel.store.artifact import Artifact, Built, Draft, Root, write_table

ROWS = 1 << 14  # of SCORES in memory at a time


def classify_scores(
    root: Root, scores: Artifact, labels: Artifact, held: tuple[Artifact, Artifact] | None = None
) -> Artifact:
    """CLASSIFIED of the PICKS `labels`, the artifact `classified`. The SCORES have all classes, and maybe further
    samples. `held`: (SCORES, PICKS) for the temperature of temperature scaling; None: there is none. Info:
    temperature; loss, the mean cross-entropy in nats of the samples that could be read, and read, their number."""

    def build(draft: Draft) -> Built:
        size = 16 * sum(one.info["samples"] for one in (labels, *(held[1:] if held else ()))) * classes
        table, info = fetch(_classify.options(memory=size).remote(scores, labels, held, classes))
        return Built([write_table(draft.uri, FILE, table)], info)

    classes = len(labels.info["classes"])
    known = [one.digest for one in held] if held else None
    return root.make("classified", {"scores": scores.digest, "labels": labels.digest, "held": known}, build)


@ray.remote(num_cpus=1, max_retries=3)
def _classify(
    scores: Artifact, labels: Artifact, held: tuple[Artifact, Artifact] | None, classes: int
) -> tuple[pa.Table, dict[str, Any]]:
    temperature = None
    if held:
        known = list(_labeled(*held, classes))
        temperature = fit_temperature(np.concatenate([p for *_, p in known]), np.concatenate([y for _, y, _ in known]))
    occurring = occurring_classes(labels)
    tables, loss = list[pa.Table](), 0.0
    for key, label, log_p in _labeled(scores, labels, classes):
        tables.append(classified(key, label, log_p, occurring, temperature))
        loss -= float(log_p[np.arange(len(label)), label].astype(np.float64).sum())
    read = sum(map(len, tables))
    return with_unread(tables, labels), {"temperature": temperature, "loss": loss / max(1, read), "read": read}


def _labeled(scores: Artifact, labels: Artifact, classes: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(key int64 [n], label int64 [n], log probabilities float32 [n, C]) of some of the samples at a time."""
    picks = labels.table("picks-", PICKS, ["key", "label"]).sort_by("key")
    wanted, label = picks.column("key").to_numpy(), picks.column("label").to_numpy().astype(np.int64)
    for key, odds in labeled_batches(scores, wanted, classes, "log_odds"):
        # log p = -log(1 + 1 / odds): of a video, p is the mean over its clips, which no logits give.
        log_p = -np.logaddexp(0, -odds.astype(np.float64)).astype(np.float32)
        yield key, label[np.searchsorted(wanted, key)], log_p


def labeled_batches(
    scores: Artifact, wanted: np.ndarray, classes: int, column: Literal["log_odds", "logits"]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(key int64 [n], column of SCORES float32 [n, C]) of some at a time of the samples whose keys are in `wanted`. The
    SCORES have all C classes."""
    for file in scores.files("scores-"):
        with scores.opened(file) as opened:
            for batch in opened.iter_batches(ROWS, columns=["key", "classes", column], use_threads=False):
                heartbeat()
                some = batch.filter(pa.array(np.isin(batch.column("key").to_numpy(), wanted)))
                if not len(some):
                    continue
                key = some.column("key").to_numpy()
                at, listed = (_lists(some, name, classes) for name in ("classes", column))
                values = np.empty((len(key), classes), np.float32)
                np.put_along_axis(values, at, listed, 1)
                yield key, values


def _lists(batch: pa.RecordBatch, name: str, classes: int) -> np.ndarray:
    values = batch.column(name).flatten().to_numpy()
    if len(values) != len(batch) * classes:
        raise AssertionError(f"SCORES have {len(values) / len(batch):g} classes per sample, expected all {classes}")
    return values.reshape(len(batch), classes)
