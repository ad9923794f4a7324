"""How many of the picks of each class are expected to have their true label, from labeled samples that the teacher has
not learned from; and lists that end where too few would.

It is right only if the corpus is of the labeled classes. One consequence of that is tested, with the log-odds of the
best classes: a corpus in which a share of the samples is of no class has at most this share more samples below any
value than the labeled set. So the largest difference of the two distributions is a lower bound of the share, less what
chance may add (Dvoretzky, Kiefer and Wolfowitz 1956, with the constant of Massart 1990). It may be 0 for a corpus that
is mostly of no class: a teacher may be as sure of pictures of other things.

Letters: C classes, K picks of a class, n labeled samples.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from raylabel.compute.tasks import run_tasks
from raylabel.compute.watchdog import heartbeat
from raylabel.errors import InputError
from raylabel.schema import AUDIT, PICKS, SCORES
from raylabel.selection.candidates import lists_of
from raylabel.selection.config import Select
from raylabel.selection.correctness import LEVEL, Correctness, expect, fit_correctness, longest
from raylabel.selection.shuffle import BATCH_ROWS, open_table
from raylabel.selection.suspects import find_suspects
from raylabel.store.artifact import Artifact, Built, Draft, File, Root, write_table
from raylabel.text import percent, percent_range

FOREIGN = 0.05
"""Share of samples that are unlike the labeled ones above which the corpus is not taken to be of their classes."""
VERSION = 2  # of the model
PARTS = 256  # of SCORES that are compared with the labeled samples, evenly spaced
VALUES = 1000  # at which the distributions are compared, at most
NAMES = ("samples", "source", "foreign", "precision", "low", "high", "suspects")  # of the info that Audited has
GRID = 8  # ranks per factor of two in AUDIT


@dataclass(frozen=True, kw_only=True)
class Audited:
    """What is expected of the picks before anything is trained on them."""

    samples: int
    """Labeled samples that the teacher has not learned from."""
    source: str
    """Which ones: 'validation', the validation set; or 'cross-fitting', the labeled set, each sample ranked by a head
    that was fitted without it."""
    foreign: float
    """Lower bound of the share of the corpus that is unlike these samples, a fraction."""
    allowed: float = FOREIGN
    """The largest such share with which a precision is expected."""
    precision: float | None
    """Share of the picks that is expected to have the true label; None if the corpus is unlike the labeled samples."""
    low: float | None
    """Of its 95% interval."""
    high: float | None
    suspects: int
    """Of the labeled samples, those whose label is likely wrong."""

    @classmethod
    def of(cls, info: dict[str, Any]) -> "Audited":
        """`info`: of the artifact."""
        return cls(**{name: info[name] for name in NAMES})

    @property
    def sentence(self) -> str:
        """'90.1% of the picks (88.0 to 91.9) are expected to have their true label if ..., by 500 ...'"""
        by = f"{self.samples:,} labeled samples that the teacher has not learned from ({self.source})"
        if self.precision is None or self.low is None or self.high is None:
            unlike = f"at least {percent(self.foreign)} of the corpus is unlike the {by}"
            return f"the precision of the picks is not known: {unlike}"
        ends = percent_range(self.low, self.high)
        found = f"{percent(self.precision)} of the picks ({ends}) are expected to have their true label"
        return f"{found} if the corpus is of the labeled classes, by {by}"


@dataclass(frozen=True)
class HeldOut:
    """Labeled samples that the teacher has not learned from, as it ranks them."""

    table: pa.Table
    """HELD."""
    source: str
    """'validation', or 'cross-fitting'."""
    of: tuple[str, ...]
    """The digests of the artifacts that they are from."""


@dataclass(frozen=True, kw_only=True)
class AuditTask:
    """A fitted model, and the PICKS to which it is applied. Plain data, so that Ray can send it."""

    model: Correctness
    picks: str
    out: str
    precision: float | None
    """The least expected precision of a list; None: lists are not shortened."""


def audit(root: Root, picks: Artifact, scores: Artifact, held: HeldOut, config: Select, classes: int) -> Artifact:
    """AUDIT of PICKS that were selected from SCORES, the artifact `audit`; and SUSPECTS of the labeled samples.

    Info: that of Audited, and with `config.precision` lengths: of each class, the most picks whose
    expected precision is at least this. If `foreign` is above FOREIGN there is no precision, and no AUDIT;
    InputError if the lists depend on it.
    """

    def build(draft: Draft) -> Built:
        columns = {name: lists_of(held.table, name) for name in ("classes", "log_odds", config.column)}
        foreign = _foreign(columns["log_odds"][:, 0], scores)
        if config.precision is not None and foreign > FOREIGN:
            raise InputError(
                f"select.precision is {config.precision}, but at least {percent(foreign)} of the corpus is unlike the "
                f"{len(held.table):,} labeled samples that the teacher has not learned from, so that the precision of "
                "the lists is not known: give --select.k without --select.precision"
            )
        suspects = find_suspects(held.table, classes)
        info: dict[str, Any] = {"samples": len(held.table), "source": held.source, "foreign": foreign}
        info["suspects"] = len(suspects)
        listed = write_table(draft.uri, "suspects.parquet", suspects)
        if foreign > FOREIGN:
            return Built([listed], info | dict.fromkeys(("precision", "low", "high")))
        label = columns["classes"][:, : config.p]
        right = label == held.table.column("label").to_numpy()[:, None]
        model = fit_correctness(label.ravel(), columns[config.column][:, : config.p].ravel(), right.ravel(), classes)
        # Put once: the model of 21,000 classes has megabytes, and there are hundreds of files.
        task = ray.put(AuditTask(model=model, picks=picks.uri, out=draft.uri, precision=config.precision))
        names = [file.name for file in picks.files("picks-")]
        found = run_tasks(_audit, [(task, name) for name in names], memory=100 * config.k)
        files = [listed, *(file for file, _, _ in found)]
        lengths = dict(pair for _, _, some in found for pair in some.items())
        total = np.sum([right for _, right, _ in found], axis=0) / max(1, sum(lengths.values()))
        low, high = np.quantile(total, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
        info |= {"precision": float(total.mean()), "low": max(0.0, low), "high": min(1.0, high)}
        if config.precision is not None:
            info["lengths"] = [lengths.get(label, 0) for label in range(classes)]
        return Built(files, info)

    identity = {
        "version": VERSION,
        "picks": picks.digest,
        "scores": scores.digest,
        "held": list(held.of),
        "precision": config.precision,
    }
    return root.make("audit", {**identity, "p": config.p, "column": config.column}, build)


def _foreign(held: np.ndarray, scores: Artifact) -> float:
    """The lower bound of the share of the corpus that is unlike labeled samples with these log-odds of their best
    classes, float32 [n]."""
    values = np.unique(np.quantile(held, np.linspace(0, 1, VALUES), method="nearest"))
    files = scores.files("scores-")
    some = [files[number].name for number in np.unique(np.linspace(0, len(files) - 1, PARTS).astype(int))]
    counts = np.sum(run_tasks(_count_below, [(scores.uri, name, values) for name in some]), axis=0)
    below = np.cumsum(counts)[:-1] / max(1, counts.sum())
    of_held = np.searchsorted(np.sort(held), values) / len(held)
    chance = math.sqrt(math.log(1 / (1 - LEVEL)) / (2 * len(held)))
    return max(0.0, float((below - of_held).max()) - chance)


def _count_below(folder: str, name: str, values: np.ndarray) -> np.ndarray:
    """int64 [len(values) + 1]: samples of a file of SCORES whose log-odds of the best class are below the first value,
    from there to below the second one, and so on."""
    counts = np.zeros(len(values) + 1, np.int64)
    with open_table(folder, name, SCORES) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=["log_odds"], use_threads=False):
            best = lists_of(pa.Table.from_batches([batch]), "log_odds")[:, 0]
            counts += np.bincount(np.searchsorted(values, best, side="right"), minlength=len(counts))
    return counts


def _audit(task: AuditTask, name: str) -> tuple[File, np.ndarray, dict[int, int]]:
    """AUDIT of a file of PICKS; how many of its picks are right, in each draw; and the lengths of the lists."""
    label, score = _read(task.picks, name)
    found, right, lengths = [AUDIT.empty_table()], np.zeros(1), dict[int, int]()
    for one, first, count in zip(*np.unique(label, return_index=True, return_counts=True), strict=True):
        heartbeat()
        one, own = int(one), score[first : first + count]
        expected, ranks = expect(task.model, one, own, _ranks(len(own))), _ranks(len(own))
        columns = [np.full(len(ranks), one), ranks, expected.precision, expected.low, expected.high]
        found.append(pa.table([pa.array(c, f.type) for c, f in zip(columns, AUDIT, strict=True)], schema=AUDIT))
        lengths[one] = len(own) if task.precision is None else longest(task.model, one, own, task.precision)
        if lengths[one] < len(own):
            expected = expect(task.model, one, own[: lengths[one]], np.empty(0, np.int64))
        right = right + expected.right
    return write_table(task.out, name.replace("picks", "audit"), pa.concat_tables(found)), right, lengths


def _read(folder: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    with open_table(folder, name, PICKS) as file:
        table = file.read(columns=["label", "score"], use_threads=False)
    return table.column("label").to_numpy(), table.column("score").to_numpy()


def _ranks(last: int) -> np.ndarray:
    """1 to `last`, GRID in each factor of two."""
    steps = int(math.log2(last) * GRID) + 1
    return np.unique(np.append(np.rint(2 ** (np.arange(steps) / GRID)).astype(np.int64), last))
