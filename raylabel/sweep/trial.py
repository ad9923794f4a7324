"""One trial of a sweep: a student is pre-trained, fine-tuned, and scored on the validation split after each.

Ray Tune's own actor only waits: whatever it starts would have to fit into its placement group. The work is done by an
actor of ours outside that group, whose tasks, teachers and training workers go wherever the cluster has room.
"""

import threading
import uuid
from dataclasses import dataclass, replace
from typing import Any

import ray
import ray.exceptions
import ray.tune

from raylabel.artifact import Artifact, Root
from raylabel.errors import find_input_error
from raylabel.evaluate.classify import TOP, accuracy, hits
from raylabel.labels.teacher import label
from raylabel.pipeline import Prepared, finetune, given_teacher, pretrain
from raylabel.recipe import Recipe
from raylabel.report.summary import Accuracy
from raylabel.sweep.claims import SharedRoot
from raylabel.sweep.space import Settings, apply

STAGES = ("pretrain", "finetune")
LOSSES = 5  # of the process of one trial: with the machine that it is on, or because that had no memory left
LOST = (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError)


@dataclass(frozen=True, kw_only=True)
class Job:
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

    def rests_on(self, root: Root, recipe: Recipe) -> Prepared:
        """What the trial of that recipe rests on: of what was prepared only the teacher may be another."""
        if recipe.teacher == self.recipe.teacher:
            return self.start
        return replace(self.start, teacher=given_teacher(root, recipe.teacher, len(self.start.classes)))


def trial(config: dict[str, Any], job: Job) -> None:
    """What Ray Tune runs: the stages, and a report after each.

    A scheduler stops a trial where it reports: between two stages, when nothing of it is at work in the cluster, so
    that no training is cut off and no placement group is left behind. And fine-tuning is that of any other run, for
    nothing looks at it before it is done.
    """
    process, losses = _Process(job, config["trial"]["number"], config["trial"]["settings"]), 0
    for stage in STAGES:
        while True:
            try:
                found = process.run(stage)
                break
            except LOST:
                losses += 1
                if losses > LOSSES:
                    raise
            except ray.exceptions.RayTaskError as error:
                # Without what Ray wrapped around it, for a person to read.
                raise find_input_error(error) or error from error
        ray.tune.report(found)
    process.end()


class _Process:
    """Where the work of one trial is done, started anew if it is lost."""

    def __init__(self, job: Job, number: int, settings: Settings):
        self._arguments = job, number, settings
        self._handle: Any = None

    def run(self, stage: str) -> dict[str, Any]:
        """The report of the stage. One of LOST if the process is lost meanwhile; the next call starts another."""
        if self._handle is None:
            who = uuid.uuid4().hex
            # 'DEFAULT' and not none at all: that would be the placement group of the actor that asks.
            options = {"num_cpus": 0, "max_concurrency": 2, "scheduling_strategy": "DEFAULT"}
            self._handle = ray.remote(_Worker).options(**options).remote(*self._arguments, who)
            ray.get(self._arguments[0].claims.join.remote(who, [self._handle.live.remote()]))
        try:
            return ray.get(self._handle.run.remote(stage))
        except LOST:
            self.end()
            raise

    def end(self) -> None:
        ray.kill(self._handle)
        self._handle = None


class _Worker:
    def __init__(self, job: Job, number: int, settings: Settings, who: str):
        self._job, self._number, self._who, self._recipe = job, number, who, job.of(settings)

    def live(self) -> None:
        """Never returns, in one of two threads: whoever waits for it hears of the end of this process."""
        threading.Event().wait()

    def run(self, stage: str) -> dict[str, Any]:
        root = SharedRoot(self._job.root, self._job.claims, self._who, self._number)
        try:
            return self._run(root, stage)
        finally:
            uses = {place: work(artifact) for place, artifact in root.used.items()}
            ray.get(self._job.claims.use.remote(self._number, uses))

    def _run(self, root: SharedRoot, stage: str) -> dict[str, Any]:
        job, recipe = self._job, self._recipe
        start = job.rests_on(root, recipe)
        found = pretrain(root, recipe, start)
        student = found.student if stage == "pretrain" else finetune(root, recipe, start, found)
        right = validate(root, job, recipe, student)
        return {
            "stage": STAGES.index(stage) + 1,
            "accuracy": right.top1,
            "low": right.top1_low,
            "high": right.top1_high,
            "picks": found.picks.info["picks"],
        }


def validate(root: Root, job: Job, recipe: Recipe, model: Artifact) -> Accuracy:
    """Its accuracy on the validation split."""
    shards, corpus = job.start.shards["labeled"], job.start.corpora["labeled"]
    scores = label(root, model, shards, corpus, recipe.view, replace(recipe.label, p=TOP), recipe.resources)
    return accuracy(model.name, *hits(scores, job.held, part=True), len(job.start.classes))


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
