"""The student, fine-tuned: on the labeled set, on picks, or on both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raylabel.store.artifact import Artifact
from raylabel.training.mixed_stream import Mixture

if TYPE_CHECKING:
    from raylabel.pipelines.semi_supervised import Run


def finetuned(run: Run) -> Artifact:
    """The pre-trained student after fine-tuning."""
    recipe, share = run.recipe, run.recipe.finetune_picks
    examples = run.pseudo_examples if share == 1 else run.labeled_examples
    mixture = Mixture(examples=run.pseudo_examples, share=share) if 0 < share < 1 else None
    return run.train("student", recipe.student, examples, recipe.finetune, init=run.pretrained, mixture=mixture)
