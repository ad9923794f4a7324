"""The frozen network of a run's teacher, its features, and the teacher that is a head on them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from raylabel.labels.features import Frozen, make_head
from raylabel.labels.zero_shot import make_zero_shot, texts_of
from raylabel.pipelines.inputs import frozen_weights
from raylabel.pipelines.leaks import keeps_thumbnails
from raylabel.store.artifact import Artifact

if TYPE_CHECKING:
    from raylabel.pipelines.semi_supervised import Run


def frozen_network(run: Run, thumbnails: bool = False) -> Frozen:
    recipe, teacher = run.recipe, run.recipe.teacher
    return Frozen(
        model=teacher.model,
        weights=run.start.weights.get(teacher.given_weights) or frozen_weights(run.root, teacher),
        view=recipe.teacher_view,
        config=recipe.label,
        resources=recipe.resources,
        retry_rejects=recipe.retry_rejects,
        thumbnails=thumbnails,
    )


def features_of(run: Run, corpus: str) -> Artifact | None:
    """FEATURES of a corpus of the run by its frozen network; None if it has none."""
    if not (run.recipe.teacher.head.given and run.recipe.taught):
        return None
    frozen = frozen_network(run, corpus == "unlabeled" and keeps_thumbnails(run))
    if corpus == "unlabeled":
        frozen = replace(frozen, subset=run.subset)
    return frozen.features(run.root, run.start.corpora[corpus], run.start.shards[corpus])


def headed_teacher(run: Run) -> Artifact:
    """The teacher that is a head on a frozen network: fitted to features of the labeled set, or zero-shot."""
    recipe, frozen, head = run.recipe, frozen_network(run), run.recipe.teacher.head
    if features := run.labeled_features:
        return make_head(run.root, frozen, features, run.start.labels, head, recipe.seed)
    names = texts_of(head, run.start.classes)
    return make_zero_shot(run.root, frozen, recipe.teacher.given_weights, names, head.templates)
