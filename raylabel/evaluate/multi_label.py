"""SCORES of a set in which samples have several labels → mean average precision, with intervals.

Letters: N samples, C classes, R resamples.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from raylabel.compute.tasks import PROCESS_BYTES, fetch
from raylabel.compute.watchdog import heartbeat
from raylabel.errors import InputError
from raylabel.evaluate.average_precision import RULES, Rule, mean_average_precision, weighted_precisions
from raylabel.evaluate.on_scores import labeled_batches
from raylabel.evaluate.results import Metric, Subject
from raylabel.schema import PICKS
from raylabel.store.artifact import Artifact, Built, Draft, Root

RESAMPLES = 1_000
"""Of the samples, with replacement, from which intervals are found (the bootstrap, Efron 1979)."""
AT_ONCE = 1 << 22
"""Weights of resamples in memory: [R, N]. Beside them some ten arrays of that size are computed."""
SEED = 0
VERSION = 1
"""Of the numbers."""
IDS: dict[Rule, str] = {"area": "mean_ap", "eleven": "mean_ap_11"}
"""Rule → the metric's id."""


@dataclass(frozen=True)
class Several:
    """Scores and labels of N samples."""

    score: np.ndarray
    """float32 [N, C]; -inf for a sample that could not be read, which ranks last."""
    positive: np.ndarray
    """bool [N, C]"""
    ignored: np.ndarray
    """bool [N, C]: neither positive nor negative."""
    read: int


def mean_precisions(root: Root, scores: Artifact, labels: Artifact) -> Artifact:
    """The artifact `mean-precision` of the PICKS of a set with several labels per sample. The SCORES have all classes.

    Info: samples, read; and for each rule `value`, `each` (of each class, None without a positive sample), and
    `resampled`, the values of RESAMPLES resamples, which are the same samples for all SCORES of the set. InputError if
    no class has a positive sample.
    """

    def build(_: Draft) -> Built:
        size = labels.info["samples"] * (9 * len(labels.info["classes"]) + 32) + 100 * AT_ONCE
        return Built([], fetch(_measure.options(memory=int(PROCESS_BYTES + size)).remote(scores, labels)))

    identity = {"scores": scores.digest, "labels": labels.digest, "version": VERSION}
    return root.make("mean-precision", identity, build)


def mean_metrics(of: Subject, found: Artifact) -> list[Metric]:
    """The mean average precision by each rule, with an interval as wide as that of 95% of the resamples."""
    info = found.info
    return [
        _metric(of, IDS[rule], info[rule]["value"], np.array(info[rule]["resampled"]), info["samples"])
        for rule in RULES
    ]


def mean_difference(of: Subject, first: Artifact, other: Artifact, rule: Rule = "area") -> Metric:
    """The mean average precision of the first less that of the other on the same samples, paired."""
    a, b = (one.info[rule] for one in (first, other))
    spread = np.array(a["resampled"]) - np.array(b["resampled"])
    return _metric(of, f"gain_{IDS[rule]}", a["value"] - b["value"], spread, first.info["samples"])


def _metric(of: Subject, name: str, value: float, resampled: np.ndarray, n: int) -> Metric:
    # Resamples are higher than the set itself: a positive sample that is drawn twice has two positives at one rank. So
    # only their spread is used, around the value.
    low, high = (value + np.quantile(resampled - resampled.mean(), [0.025, 0.975])).tolist()
    return Metric(**vars(of), metric=name, value=value, low=low, high=high, n=n)


@ray.remote(num_cpus=1, max_retries=3)
def _measure(scores: Artifact, labels: Artifact) -> dict[str, Any]:
    several = read_several(scores, labels)
    if not (several.positive & ~several.ignored).any():
        raise InputError(f"no sample of {labels.uri} has a class: there is nothing to rank")
    found: dict[str, Any] = {"samples": len(several.score), "read": several.read}
    resampled = bootstrap(several, RESAMPLES, SEED)
    for rule in RULES:
        value, each = mean_average_precision(several.score, several.positive, rule, several.ignored)
        known = [None if np.isnan(one) else one for one in each.tolist()]
        found[rule] = {"value": value, "each": known, "resampled": resampled[rule].tolist()}
    return found


def read_several(scores: Artifact, labels: Artifact) -> Several:
    """All samples of the PICKS, in key order."""
    picks, classes = labels.table("picks-", PICKS, ["key", "label"]), len(labels.info["classes"])
    key, label = picks.column("key").to_numpy(), picks.column("label").to_numpy()
    keys = np.unique(key)
    shape, at = (len(keys), classes), np.searchsorted(keys, key)
    score, positive, ignored = np.full(shape, -np.inf, np.float32), np.zeros(shape, bool), np.zeros(shape, bool)
    here = label >= 0
    positive[at[here], label[here]] = True
    ignored[at[~here], -1 - label[~here]] = True
    read = 0
    for own, logits in labeled_batches(scores, keys, classes, "logits"):  # a class's own, whatever the others say
        score[np.searchsorted(keys, own)] = logits
        read += len(own)
    return Several(score, positive, ignored, read)


def bootstrap(several: Several, count: int, seed: int) -> dict[Rule, np.ndarray]:
    """Rule → the mean average precision of `count` resamples of the samples, float64 [R]. A class that has no positive
    sample in a resample is left out of its mean."""
    random, n = np.random.default_rng(seed), len(several.score)
    step = max(1, AT_ONCE // n)
    found: dict[Rule, list[np.ndarray]] = {rule: [] for rule in RULES}
    for first in range(0, count, step):
        weight = random.multinomial(n, np.full(n, 1 / n), min(step, count - first))  # [r, N]: how often each is drawn
        each = list[dict[Rule, np.ndarray]]()
        for c in range(several.score.shape[1]):
            heartbeat()
            columns = several.score[:, c], several.positive[:, c], several.ignored[:, c]
            each.append(weighted_precisions(weight, *columns))
        for rule in RULES:
            table = np.stack([one[rule] for one in each])  # [C, r]
            known = ~np.isnan(table)
            found[rule].append(np.where(known, table, 0).sum(0) / np.maximum(known.sum(0), 1))
    return {rule: np.concatenate(some) for rule, some in found.items()}
