"""One trial of a sweep: a student is pre-trained, fine-tuned, and scored on the validation split after each."""

from dataclasses import dataclass, replace
from typing import Any

import ray

from raylabel.pipelines.inputs import Prepared, given_teacher
from raylabel.pipelines.metrics import validate
from raylabel.pipelines.semi_supervised import Run
from raylabel.recipes.recipe import Recipe
from raylabel.recipes.space import Settings, apply
from raylabel.store.artifact import Artifact, Root
from raylabel.sweep.claims import SharedRoot
from raylabel.sweep.config import STAGES
from raylabel.training.examples import media_of


@dataclass(frozen=True, kw_only=True)
class TrialTask:
    """What all trials share: plain data and handles, so that it can be sent to other processes."""

    root: str
    recipe: Recipe
    start: Prepared
    """Its labels are those to train on, without the validation split."""
    held: Artifact
    """PICKS of the validation split."""
    claims: Any

    def recipe_of(self, settings: Settings) -> Recipe:
        """The recipe of a trial."""
        return apply(self.recipe, settings)

    def run_of(self, root: Root, recipe: Recipe) -> Run:
        """The run of a trial's recipe. Of its inputs, only the teacher can differ from that of other trials."""
        start = self.start
        if recipe.teacher != self.recipe.teacher:
            start = replace(start, teacher=given_teacher(root, recipe.teacher, len(start.classes)))
        return Run(root, recipe, start)


def run(task: TrialTask, number: int, settings: Settings, worker: str, stage: str) -> dict[str, Any]:
    """Runs the stage of a trial and the stages before it, unless they are done; returns the report for Ray Tune."""
    root = SharedRoot(task.root, task.claims, worker, number)
    try:
        return _run(root, task, task.recipe_of(settings), stage)
    finally:
        uses = {name: work(artifact) for name, artifact in root.used.items()}
        ray.get(task.claims.use.remote(number, uses))


def _run(root: SharedRoot, task: TrialTask, recipe: Recipe, stage: str) -> dict[str, Any]:
    of_trial = task.run_of(root, recipe)
    of_trial.build("pretrained" if stage == "pretrain" else "student")
    validation = validate(of_trial, of_trial.pretrained if stage == "pretrain" else of_trial.student, task.held)
    return {
        "stage": STAGES.index(stage) + 1,
        "accuracy": validation.value,
        "low": validation.low,
        "high": validation.high,
        "picks": of_trial.picks.info["picks"],
    }


def work(artifact: Artifact) -> int:
    """Images processed for an artifact, in all runs together: trained on, scored, or decoded and written."""
    info, identity = artifact.info, artifact.identity
    if config := identity.get("train"):
        return -(-config["images"] // config["batch"]) * config["batch"]
    if artifact.name in ("scores", "features"):
        return info["samples"]
    if artifact.name.startswith(("media-", "examples-")) and media_of(artifact) == artifact:
        return info["samples"] + info["rejected"]
    return 0
