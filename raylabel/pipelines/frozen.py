"""The frozen network of a run's teacher, if its head is fitted to features, and the features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raylabel.labels.features import Frozen
from raylabel.pipelines.inputs import frozen_weights
from raylabel.store.artifact import Artifact

if TYPE_CHECKING:
    from raylabel.pipelines.semi_supervised import Run


def frozen_network(run: Run) -> Frozen:
    recipe, teacher = run.recipe, run.recipe.teacher
    return Frozen(
        model=teacher.model,
        weights=run.start.weights.get(teacher.given_weights) or frozen_weights(run.root, teacher),
        view=recipe.teacher_view,
        config=recipe.label,
        resources=recipe.resources,
        retry_rejects=recipe.retry_rejects,
    )


def features_of(run: Run, corpus: str) -> Artifact | None:
    """FEATURES of a corpus of the run by its frozen network; None if it has no head to fit."""
    if not run.recipe.teacher.head.given or run.recipe.source:
        return None
    return frozen_network(run).features(run.root, run.start.corpora[corpus], run.start.shards[corpus])
