"""One trial of a sweep: a student is pre-trained, fine-tuned, and scored on the validation split after each."""

from dataclasses import dataclass, replace
from typing import Any

import ray

from raylabel.evaluate.classify import accuracy, hits
from raylabel.evaluate.results import TOP1, Metric, Subject, require
from raylabel.pipelines.semi_supervised import Prepared, Run, given_teacher
from raylabel.recipes.recipe import Recipe
from raylabel.store.artifact import Artifact, Root
from raylabel.sweep.claims import SharedRoot
from raylabel.sweep.config import STAGES
from raylabel.sweep.space import Settings, apply


@dataclass(frozen=True, kw_only=True)
class TrialTask:
    """What all trials share; plain data and handles, so that it travels."""

    root: str
    recipe: Recipe
    start: Prepared
    """Whose labels are those to learn from."""
    held: Artifact
    """PICKS of the validation split."""
    claims: Any

    def of(self, settings: Settings) -> Recipe:
        """The recipe of a trial."""
        return apply(self.recipe, settings)

    def run_of(self, root: Root, recipe: Recipe) -> Run:
        """The run of a trial's recipe: of its inputs only the teacher may be another."""
        start = self.start
        if recipe.teacher != self.recipe.teacher:
            start = replace(start, teacher=given_teacher(root, recipe.teacher, len(start.classes)))
        return Run(root, recipe, start)


def run(job: TrialTask, number: int, settings: Settings, who: str, stage: str) -> dict[str, Any]:
    """Runs that stage of a trial and those before it, as far as they are not done; the report for Ray Tune."""
    root = SharedRoot(job.root, job.claims, who, number)
    try:
        return _run(root, job, job.of(settings), stage)
    finally:
        uses = {place: work(artifact) for place, artifact in root.used.items()}
        ray.get(job.claims.use.remote(number, uses))


def _run(root: SharedRoot, job: TrialTask, recipe: Recipe, stage: str) -> dict[str, Any]:
    of_trial = job.run_of(root, recipe)
    of_trial.build("pretrained" if stage == "pretrain" else "student")
    right = validate(job, of_trial, of_trial.pretrained if stage == "pretrain" else of_trial.student)
    return {
        "stage": STAGES.index(stage) + 1,
        "accuracy": right.value,
        "low": right.low,
        "high": right.high,
        "picks": of_trial.picks.info["picks"],
    }


def validate(job: TrialTask, of_trial: Run, model: Artifact) -> Metric:
    """Its top-1 on the validation split."""
    recipe = of_trial.recipe
    scores = of_trial.score(model, recipe.view, "labeled")
    of = Subject(model=model.name, seed=recipe.seed, dataset=", ".join(recipe.labeled.uri), split="validation")
    return require(accuracy(of, hits(scores, job.held, part=True), len(job.start.classes)), metric=TOP1)


def work(artifact: Artifact) -> int:
    """Images processed for an artifact in all, in however many runs: trained on, scored, or decoded and written."""
    info, identity = artifact.info, artifact.identity
    if config := identity.get("train"):
        return -(-config["images"] // config["batch"]) * config["batch"]
    if artifact.name == "scores":
        return info["samples"]
    if artifact.name.startswith("examples-"):
        return info["samples"] + info["rejected"]
    return 0
