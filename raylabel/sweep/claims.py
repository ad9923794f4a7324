"""Trials that need the same artifact: one builds it, the others wait, and a ledger records which trial built what.

A root has one driver at a time (store/root_lock.py), so all concurrent builds are those of this driver's sweep. One
actor on the driver's node assigns them. The storage is not polled for manifests.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import ray
import ray.exceptions

from raylabel.errors import InputError, find_input_error
from raylabel.store.artifact import RECIPE, Artifact, Built, Draft, Root, digest
from raylabel.store.files import read_file, write_file
from raylabel.store.names import LEDGER


@dataclass(frozen=True, kw_only=True)
class Build:
    """A line of the ledger: a trial began to build an artifact."""

    artifact: str
    """<name>-<digest>."""
    trial: int
    continued: bool = False
    """An earlier command had begun it."""
    done: bool = False
    """False while the build runs. It stays False if the build was stopped: a later line then names the trial that built
    the artifact."""


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Which trial built which artifact, and which trials used it."""

    builds: tuple[Build, ...] = ()
    """In the order in which they began."""
    uses: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    """Trial → artifact → images processed for it in total."""

    @classmethod
    def read(cls, uri: str) -> "Ledger":
        """The ledger in that file; an empty one if the file does not exist."""
        try:
            found = json.loads(read_file(uri))
        except FileNotFoundError:
            return cls()
        uses = {int(trial): images for trial, images in found["uses"].items()}
        return cls(builds=tuple(Build(**line) for line in found["builds"]), uses=uses)


class _Claims:
    def __init__(self, uri: str, limit: int):
        self._uri, self._ledger, self._limit = uri, Ledger.read(uri), limit
        self._held: dict[str, tuple[str, int]] = {}  # artifact → the worker that builds it, and its line in the ledger
        self._done: set[str] = set()
        self._failed: dict[str, str] = {}  # artifact → why its build failed in this run
        self._active: set[str] = set()
        self._ended: set[str] = set()
        self._change = asyncio.Condition()
        self._watching: set[asyncio.Task] = set()

    def join(self, worker: str, alive: Any) -> None:
        task = asyncio.get_running_loop().create_task(self._watch(worker, alive))
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)

    async def allow(self, limit: int) -> None:
        async with self._change:
            self._limit = limit
            self._change.notify_all()

    async def enter(self, worker: str) -> None:
        async with self._change:
            await self._change.wait_for(lambda: len(self._active) < self._limit or worker in self._ended)
            if worker not in self._ended:
                self._active.add(worker)

    async def claim(self, artifact: str, worker: str, trial: int, continued: bool) -> bool:
        async with self._change:
            await self._change.wait_for(lambda: artifact not in self._held or worker in self._ended)
            if artifact in self._failed:
                raise InputError(self._failed[artifact])
            if artifact in self._done or worker in self._ended:
                return False
            builds = self._ledger.builds
            self._held[artifact] = worker, len(builds)
            self._write(builds=(*builds, Build(artifact=artifact, trial=trial, continued=continued)))
            return True

    async def release(self, artifact: str, done: bool, error: str) -> None:
        async with self._change:
            _, line = self._held.pop(artifact)
            if done:
                self._done.add(artifact)
                builds = list(self._ledger.builds)
                builds[line] = replace(builds[line], done=True)
                self._write(builds=tuple(builds))
            elif error:
                self._failed[artifact] = error
            self._change.notify_all()

    def use(self, trial: int, images: Mapping[str, int]) -> None:
        uses = self._ledger.uses
        self._write(uses={**uses, trial: {**uses.get(trial, {}), **images}})

    def get(self) -> Ledger:
        return self._ledger

    def builds(self, first: int) -> tuple[Build, ...]:
        return self._ledger.builds[first:]

    async def _watch(self, worker: str, alive: Any) -> None:
        try:
            await alive[0]
        except (ray.exceptions.RayError, asyncio.CancelledError):
            pass
        async with self._change:
            self._ended.add(worker)
            self._active.discard(worker)
            for artifact in [one for one, (holder, _) in self._held.items() if holder == worker]:
                del self._held[artifact]
            self._change.notify_all()

    def _write(self, **changes: Any) -> None:
        self._ledger = replace(self._ledger, **changes)
        write_file(self._uri, json.dumps(asdict(self._ledger), indent=1).encode())


def make_claims(folder: str, limit: int) -> Any:
    """Starts the actor that assigns the builds of a sweep, and returns its handle. Its ledger is a file in the folder.

    - `join(worker, [reference])`: registers the id of a worker process. When the reference is ready or fails, the
      worker has ended, and its claims are released.
    - `enter(worker)`: waits until fewer than `limit` workers are active. `allow(limit)`: changes the limit.
    - `claim(artifact, worker, trial, continued)`: waits while another worker builds the artifact. True if the caller
      has to build it, False if it exists, InputError if its build failed in this run. `continued`: it was begun before.
    - `release(artifact, done, error)`: ends the claim. `error`: the text of its InputError, if it raised one.
    - `use(trial, {artifact: images})`: records what a trial used. `get()`: the Ledger. `builds(first)`: its lines from
      index `first` on.
    """
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    options = {"num_cpus": 0, "label_selector": here, "max_concurrency": 10_000}  # each waiting caller occupies a call
    return ray.remote(_Claims).options(**options).remote(f"{folder}/{LEDGER}", limit)


@dataclass(frozen=True)
class SharedRoot(Root):
    """A root in which other trials build artifacts at the same time."""

    claims: Any
    worker: str
    trial: int
    used: dict[str, Artifact] = field(default_factory=dict, compare=False)
    """The artifacts that the trial used, by `<name>-<digest>`."""

    def find(self, name: str, identity: Mapping[str, Any]) -> Artifact | None:
        artifact = super().find(name, identity)
        if artifact:
            self.used[f"{name}-{digest(identity)}"] = artifact
        return artifact

    def make(
        self,
        name: str,
        identity: Mapping[str, Any],
        build: Callable[[Draft], Built],
        former: Sequence[Mapping[str, Any]] = (),
    ) -> Artifact:
        """The artifact of that identity: built here, or by another trial, for which this one waits.

        If its build raises an InputError, all trials that need it raise the same error, and none of them builds it
        again in this run.
        """
        identity = self.settle(name, identity, former)
        artifact = f"{name}-{digest(identity)}"
        if found := self.find(name, identity):
            return found
        try:
            begun = self.has(f"{artifact}/{RECIPE}")
            mine = ray.get(self.claims.claim.remote(artifact, self.worker, self.trial, begun))
        except ray.exceptions.RayTaskError as error:
            raise find_input_error(error) or error from error
        if not mine:
            return super().make(name, identity, build)  # finds it
        done, failure = False, ""
        try:
            made = super().make(name, identity, build)
            done = True
            return made
        except InputError as error:
            failure = str(error)
            raise
        finally:
            ray.get(self.claims.release.remote(artifact, done, failure))
