"""What of a run exists in its root, by running its stages with a root that builds nothing."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from raylabel.errors import InputError
from raylabel.evaluate.results import CONTROL, MIXED, PRETRAINED, STUDENT
from raylabel.pipelines.control import TRIED, trial_runs
from raylabel.pipelines.semi_supervised import STAGES, Run
from raylabel.store.artifact import Artifact, Root, digest

NETWORKS = {CONTROL: "control", PRETRAINED: "pretrained", STUDENT: "student", MIXED: "mixed"}
"""Network that is tested → the stage that makes it."""


class MissingError(Exception):
    """Raised where an artifact would be built."""

    def __init__(self, uri: str, name: str, identity: Mapping[str, Any]):
        super().__init__(uri)
        self.uri, self.name, self.identity = uri, name, identity


@dataclass(frozen=True)
class ReadOnlyRoot(Root):
    """A root in which nothing is built. It looks for each artifact once, in `within`, also for those that are missing:
    stages ask for the same inputs."""

    within: Root
    _found: dict[str, Artifact | None] = field(default_factory=dict, compare=False)

    def find(self, name: str, identity: Mapping[str, Any]) -> Artifact | None:
        folder = f"{name}-{digest(identity)}"
        if folder not in self._found:
            self._found[folder] = self.within.find(name, identity)
        return self._found[folder]

    def make(
        self, name: str, identity: Mapping[str, Any], build: Any, former: Sequence[Mapping[str, Any]] = ()
    ) -> Artifact:
        identity = self.settle(name, identity, former)
        if done := self.find(name, identity):
            return done
        raise MissingError(f"{self.uri}/{name}-{digest(identity)}", name, identity)


def find_existing(run: Run) -> None:
    """Finds all artifacts of the run that exist, so that the record of its root (store/uses.py) has them from the
    start. The run, which has a `ReadOnlyRoot`, may stop before it comes to them: the control is made last, and may
    exist since another run made it."""
    for stage in STAGES:
        with suppress(MissingError, InputError):  # the stage itself raises it
            getattr(run, stage)
    with suppress(MissingError, InputError):
        for _, trial in trial_runs(run):  # one that exists may come after one that does not
            with suppress(MissingError):
                trial.score(trial.train_control(TRIED, trial.recipe), trial.recipe.view, "labeled")
    for stage in NETWORKS.values():
        with suppress(MissingError, InputError):
            if network := getattr(run, stage):
                run.test(network, run.recipe.view)
