"""Which samples of a run's corpus are selected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raylabel.compute.progress import say
from raylabel.labels.tag_table import make_tags
from raylabel.selection.config import TAGGED
from raylabel.selection.copies import find_copies
from raylabel.selection.duplicates import find_duplicates
from raylabel.selection.select import TAGS_NAME, empty_classes, select
from raylabel.store.artifact import Artifact
from raylabel.text import listed

if TYPE_CHECKING:
    from raylabel.pipelines.semi_supervised import Run


def duplicates_of(run: Run) -> Artifact | None:
    """DUPLICATES; None if only the media of picks are read."""
    return find_duplicates(run.root, run.seen) if run.seen else None


def copies_of(run: Run) -> Artifact | None:
    """COPIES; None unless they are asked for."""
    if run.recipe.copies == "bytes" or not (run.seen and run.duplicates):
        return None
    return find_copies(run.root, run.seen, run.duplicates, run.recipe.near)


def picks_of(run: Run) -> Artifact:
    """PICKS: those of the source; K random ones of each class with a tag of it; or the K best samples of each class,
    without copies and, unless `recipe.leaks` is 'report', without samples of the evaluation sets."""
    tagged = run.labels.name == TAGS_NAME
    if run.duplicates is None and not tagged:
        return run.labels
    pairs = None if run.recipe.leaks == "report" else run.pairs
    config, classes = run.recipe.select, run.start.classes
    counts = run.tags.info["per_class"] if run.tags and config.counts == TAGGED else ()
    found = select(run.root, run.labels, run.duplicates, config, classes, pairs, run.copies, counts)
    for text in _warnings(found, run.start.classes):  # now, not after days of training
        say(f"warning: {text}")
    return found


def tags_of(run: Run) -> Artifact | None:
    """TAGS of the corpus, if they say what is scored, or how long the lists are."""
    start, recipe = run.start, run.recipe
    if not (recipe.tags.filter or recipe.select.counts == TAGGED):
        return None
    found = make_tags(run.root, recipe.tags, start.corpora["unlabeled"], start.shards["unlabeled"], start.classes)
    if recipe.tags.filter:
        tagged, samples = (found.info[name] for name in ("tagged", "samples"))
        say(f"tags: {tagged:,} of {samples:,} samples of the corpus have a tag of a class, the others are not scored")
    return found


def pick_warnings(run: Run) -> list[str]:
    """What the user should know about classes without picks, if these are allowed."""
    return _warnings(run.picks, run.start.classes) if "k" in run.picks.info else []


def _warnings(picks: Artifact, classes: Sequence[str]) -> list[str]:
    per_class = picks.info["per_class"]
    empty = empty_classes(classes, per_class, picks.info.get("lengths", [1] * len(per_class)))
    return [f"no sample is selected for {len(empty):,} classes ({listed(empty)})"] if empty else []
