"""Finds the work of a run that exists already in the root, by running its stages with a root that builds nothing."""

import itertools
from dataclasses import replace
from typing import Any

from raylabel.corpus import Shards, unit_rows
from raylabel.inference.reuse import find_earlier
from raylabel.inference.scores import PART
from raylabel.pipelines.control import TRIED, trial_runs
from raylabel.pipelines.existing import MissingError, ReadOnlyRoot
from raylabel.pipelines.inputs import Prepared
from raylabel.pipelines.semi_supervised import Run
from raylabel.recipes.recipe import Recipe
from raylabel.store.artifact import Artifact, Root
from raylabel.store.parts import committed_parts

# Stage → the name of its artifact, the last one if it makes several. A stage that is not listed is computed from the
# artifacts of others.
ARTIFACTS = {
    "labeled_examples": "examples-labeled",
    "validation_examples": "examples-validation",
    "labeled_features": "features",
    "teacher": "teacher",
    "teacher_check": "teacher-check",
    "features": "features",
    "labeled_pairs": "pairs",
    "labels": "scores",
    "pairs": "pairs",
    "duplicates": "duplicates",
    "copies": "copies",
    "held": "scores",
    "picks": "picks",
    "pseudo_examples": "examples-picked",
    "pretrained": "pretrained",
    "student": "student",
    "control": "control",
    "mixed": "mixed",
    "split_examples": "examples-labeled",
}

MEDIA = {
    "labeled_examples": "media-labeled",
    "validation_examples": "media-validation",
    "pseudo_examples": "media-picked",
    "split_examples": "media-labeled",
}
"""Stage that makes EXAMPLES → the name of their MEDIA."""


class Done:
    """The artifacts of a recipe's run that exist, whichever run built them, and the committed work of the others."""

    def __init__(self, root: Root, recipe: Recipe, start: Prepared):
        self._root = ReadOnlyRoot(root.uri, root)
        # SCORES are the same with stored features and without, and are found without where the features are missing.
        without = replace(recipe, teacher=replace(recipe.teacher, features=False))
        self._run, self._missing = Run(self._root, without, start), dict[str, MissingError]()
        self._found = {stage: self._find(stage, self._run) for stage in ARTIFACTS if stage != "features"}
        self._found["features"] = self._find("features", Run(self._root, recipe, start))
        self.labeled = self._passed(root, start, "labels")
        """Samples of the corpus that need no scoring: their parts are committed, or an earlier run scored them."""
        self.with_features = self._passed(root, start, "features")
        """Likewise, samples that have features, if these are stored."""
        self.trials = [self._trial(number) for number in range(len(recipe.control_trials))]
        """The network of each trial of `control.sweep`, and its SCORES of the labeled set."""

    def __getitem__(self, stage: str) -> Artifact | None:
        """The artifact of a stage of `Run`; None if it is not complete."""
        return self._found[stage]

    @property
    def tests(self) -> dict[str, Artifact | None]:
        """Network → its SCORES of the test set: teacher, control, and the students."""
        recipe = self._run.recipe
        views = {"teacher": recipe.teacher_view} | dict.fromkeys(self._students, recipe.view)
        return {name: self._tested(name, view) for name, view in views.items()}

    @property
    def _students(self) -> tuple[str, ...]:
        return ("control", "pretrained", "student", *(("mixed",) if self._run.recipe.mixed else ()))

    @property
    def control(self) -> Recipe:
        """The recipe with the control that is trained on the whole labeled set: of `control.sweep`, the chosen one, or
        the longest one until it is chosen."""
        trials = [recipe for _, recipe in self._run.recipe.control_trials]
        try:
            return self._run.chosen
        except MissingError:
            return max(trials, key=lambda recipe: recipe.control_train.processed)

    def written(self, stage: str) -> int:
        """Samples of the stage whose MEDIA exist, or are in committed parts of them; 0 if the stage is complete."""
        if not (missing := self._missing.get(stage)):
            return 0
        if missing.name == ARTIFACTS[stage]:  # only the labels are missing
            media = next(a for a in self._root.named(MEDIA[stage]) if a.digest == missing.identity["media"])
            return media.info["samples"] + media.info["rejected"]
        return sum(record["samples"] for record in committed_parts(missing.uri).values())

    def _find(self, stage: str, run: Run) -> Artifact | None:
        try:
            return getattr(run, stage)
        except MissingError as error:
            own = error.name in (ARTIFACTS[stage], MEDIA.get(stage))  # otherwise one of its inputs is missing
            if own and error.uri not in {other.uri for other in self._missing.values()}:
                self._missing[stage] = error
            return None

    def _trial(self, number: int) -> tuple[Artifact | None, Artifact | None]:
        network = None
        try:
            _, run = next(itertools.islice(trial_runs(self._run), number, None))
            network = run.train_control(TRIED, run.recipe)
            return network, run.score(network, run.recipe.view, "labeled")
        except MissingError:
            return network, None

    def _tested(self, name: str, view: Any) -> Artifact | None:
        try:
            if name == "teacher":
                return self._run.teacher_test
            return self._run.test(model, view) if (model := self[name]) else None
        except MissingError:
            return None

    def _passed(self, root: Root, start: Prepared, stage: str) -> int:
        shards = Shards(start.shards["unlabeled"])
        if self[stage]:
            return shards.samples
        if not (missing := self._missing.get(stage)):
            return 0
        unit = unit_rows(start.corpora["unlabeled"])
        earlier = find_earlier(root, ARTIFACTS[stage], missing.identity, shards, unit, PART)
        records = committed_parts(missing.uri).values()
        return (earlier.samples if earlier else 0) + sum(record["rows"] - record["earlier"] for record in records)
