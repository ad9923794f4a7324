"""The frozen network of a run's teacher, if its head is fitted to features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raylabel.labels.features import Frozen
from raylabel.pipelines.inputs import frozen_weights

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
