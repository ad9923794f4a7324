"""The precision that is expected of the picks of a run, before anything is trained on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from raylabel.compute.progress import say
from raylabel.errors import InputError
from raylabel.evaluate.precision import pick_precision
from raylabel.evaluate.results import BORDER, TEACHER, Metric, Subject, find
from raylabel.labels.cross_fit import cross_fit
from raylabel.labels.source import SCORES_NAME, gives_scores
from raylabel.schema import HELD, PICKS, SCORES
from raylabel.selection.audit import Audited, HeldOut, audit
from raylabel.selection.doubts import doubts
from raylabel.selection.shorten import shorten
from raylabel.store.artifact import Artifact
from raylabel.text import percent

if TYPE_CHECKING:
    from raylabel.pipelines.semi_supervised import Run


def held_of(run: Run) -> Artifact | None:
    """SCORES of the validation set by the teacher, or else of a head that is fitted to features HELD of the labeled
    set; None if there is neither, or no audit: a class with a single labeled sample has none beside it to fit to."""
    recipe, start = run.recipe, run.start
    if not recipe.audited:
        return None
    if start.validation:
        corpus, _ = start.validation
        source = run.network(run.teacher, recipe.teacher_view)
        return source.label(run.root, start.corpora[corpus], start.shards[corpus])
    if min(start.labels.info["per_class"]) < 2:
        return None
    assert run.labeled_features
    p = min(recipe.label.p, len(start.classes))
    return cross_fit(run.root, run.labeled_features, start.labels, run.teacher.info["strength"], p, recipe.seed)


def audit_of(run: Run) -> Artifact | None:
    """AUDIT of the lists."""
    if not run.held or not gives_scores(run.labels):
        return None
    classes = len(run.start.classes)
    found = audit(run.root, run.lists, run.labels, _held_out(run, run.held), run.recipe.select, classes)
    say(f"audit: {Audited.of(found.info).sentence}")  # now, not after days of training
    return found


def shortened(run: Run) -> Artifact:
    """The lists as far as the audit says."""
    found = _shortened(run)
    for text in doubts_of(run, found):  # now, not after days of training
        say(f"warning: {text}")
    return found


def precision_of(run: Run) -> list[Metric]:
    """How many of the picks have their true label, where it is known."""
    recipe, start = run.recipe, run.start
    labeler = TEACHER if recipe.taught else run.source.name
    of = Subject(model=labeler, seed=recipe.seed, dataset=", ".join(recipe.unlabeled.uri), split="unlabeled")
    shards = start.shards["unlabeled"]
    found = pick_precision(of, run.picks, shards, recipe.unlabeled.share, recipe.truth, start.classes)
    if border := find(found, metric=BORDER):
        right = f"{round(border.value * border.n):,} of the last {border.n:,} picks of the lists have their true label"
        least = f"at least {percent(border.low or 0.0)} of all have it"
        say(f"audit: {right}: {least} if the first picks of a list are no worse than its last")
    return found


def doubts_of(run: Run, picks: Artifact) -> list[str]:
    """Why no gain is expected from pre-training on these picks; none if they are not of a selection."""
    if "k" not in picks.info:
        return []
    audited = Audited.of(run.audit.info) if run.audit else None
    found = doubts(picks.info["samples"], run.labeled_examples.info["samples"], audited)
    return [f"do not expect a gain: {reason}" for reason in found]


def _shortened(run: Run) -> Artifact:
    select = run.recipe.select
    if select.precision is None:
        return run.lists
    if not run.audit:
        raise InputError(
            f"select.precision is {select.precision}, but a class has a single labeled sample, so that its precision "
            "is not known: label more, or give --holdout, --validation.uri or no precision"
        )
    return shorten(run.root, run.lists, run.audit, run.start.classes, select.allow_empty)


def _held_out(run: Run, held: Artifact) -> HeldOut:
    if held.name != SCORES_NAME:
        return HeldOut(held.table("held-", HELD), "cross-fitting", (held.digest,))
    assert run.start.validation
    labels = run.start.validation[1]
    scores = held.table("scores-", SCORES, ["key", "classes", "log_odds", "logits"])
    picks = labels.table("picks-", PICKS, ["key", "label"]).sort_by("key")
    key, known = scores.column("key").to_numpy(), picks.column("key").to_numpy()
    scores, picks = scores.filter(pa.array(np.isin(key, known))), picks.filter(pa.array(np.isin(known, key)))
    table = scores.add_column(1, HELD.field("label"), picks.column("label")).cast(HELD)
    return HeldOut(table, "validation", (held.digest, labels.digest))
