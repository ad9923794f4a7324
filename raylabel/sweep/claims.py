"""Trials that need the same artifact: one builds it, the others wait for it, and a ledger records who built what.

A root has one driver at a time (store/root_lock.py), so all concurrent builds are those of this driver's sweep. One
actor on the driver's machine assigns them. The storage is not polled for manifests.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import ray
import ray.exceptions

from raylabel.errors import InputError, find_input_error
from raylabel.store.artifact import Artifact, Built, Draft, Root, digest
from raylabel.store.files import read_file, write_file

LEDGER = "ledger.json"


@dataclass(frozen=True, kw_only=True)
class Build:
    """A line of the ledger: a trial began to build an artifact."""

    artifact: str
    """<name>-<digest>."""
    trial: int
    done: bool = False
    """False while it builds, and for good if it was stopped: then another line names the trial that went on."""


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Who built what, and who used it."""

    builds: tuple[Build, ...] = ()
    """In the order of their beginnings."""
    uses: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    """Trial → artifact → images processed for it, in all."""

    @classmethod
    def read(cls, uri: str) -> "Ledger":
        """The ledger in that file; an empty one if there is no file."""
        try:
            found = json.loads(read_file(uri))
        except FileNotFoundError:
            return cls()
        uses = {int(trial): images for trial, images in found["uses"].items()}
        return cls(builds=tuple(Build(**line) for line in found["builds"]), uses=uses)


class _Claims:
    def __init__(self, uri: str, seats: int):
        self._uri, self._ledger, self._seats = uri, Ledger.read(uri), seats
        self._held: dict[str, tuple[str, int]] = {}  # artifact → who builds it, and its line in the ledger
        self._done: set[str] = set()
        self._failed: dict[str, str] = {}  # artifact → why it cannot be built, in this run
        self._seated: set[str] = set()
        self._gone: set[str] = set()
        self._change = asyncio.Condition()
        self._watching: set[asyncio.Task] = set()

    def join(self, who: str, alive: Any) -> None:
        task = asyncio.get_running_loop().create_task(self._watch(who, alive))
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)

    async def allow(self, seats: int) -> None:
        async with self._change:
            self._seats = seats
            self._change.notify_all()

    async def enter(self, who: str) -> None:
        async with self._change:
            await self._change.wait_for(lambda: len(self._seated) < self._seats or who in self._gone)
            if who not in self._gone:
                self._seated.add(who)

    async def claim(self, artifact: str, who: str, trial: int) -> bool:
        async with self._change:
            await self._change.wait_for(lambda: artifact not in self._held or who in self._gone)
            if artifact in self._failed:
                raise InputError(self._failed[artifact])
            if artifact in self._done or who in self._gone:
                return False
            builds = self._ledger.builds
            self._held[artifact] = who, len(builds)
            self._write(builds=(*builds, Build(artifact=artifact, trial=trial)))
            return True

    async def release(self, artifact: str, done: bool, why: str) -> None:
        async with self._change:
            _, line = self._held.pop(artifact)
            if done:
                self._done.add(artifact)
                builds = list(self._ledger.builds)
                builds[line] = replace(builds[line], done=True)
                self._write(builds=tuple(builds))
            elif why:
                self._failed[artifact] = why
            self._change.notify_all()

    def use(self, trial: int, images: Mapping[str, int]) -> None:
        uses = self._ledger.uses
        self._write(uses={**uses, trial: {**uses.get(trial, {}), **images}})

    def get(self) -> Ledger:
        return self._ledger

    def builds(self, first: int) -> tuple[Build, ...]:
        return self._ledger.builds[first:]

    async def _watch(self, who: str, alive: Any) -> None:
        try:
            await alive[0]
        except (ray.exceptions.RayError, asyncio.CancelledError):
            pass
        async with self._change:
            self._gone.add(who)
            self._seated.discard(who)
            for artifact in [one for one, (holder, _) in self._held.items() if holder == who]:
                del self._held[artifact]
            self._change.notify_all()

    def _write(self, **changes: Any) -> None:
        self._ledger = replace(self._ledger, **changes)
        write_file(self._uri, json.dumps(asdict(self._ledger), indent=1).encode())


def make_claims(folder: str, seats: int) -> Any:
    """A handle of the actor that gives out the claims of a sweep, whose ledger is in the folder.

    - `join(who, [reference])`: `who` is alive until the reference is ready or fails; what it holds is free then.
    - `enter(who)`: waits for one of the seats, of which there are so many; `allow(seats)`: from now on so many.
    - `claim(artifact, who, trial)`: waits while another builds the artifact; True if it is to be built, False if it
      exists, InputError if it cannot be built in this run.
    - `release(artifact, done, why)`: `why` it cannot be built, where that is known.
    - `use(trial, {artifact: images})`, and `get()`: the Ledger; `builds(first)`: those of its lines from there on.
    """
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    options = {"num_cpus": 0, "label_selector": here, "max_concurrency": 10_000}  # each caller that waits is in a call
    return ray.remote(_Claims).options(**options).remote(f"{folder}/{LEDGER}", seats)


@dataclass(frozen=True)
class SharedRoot(Root):
    """A root in which other trials build too."""

    claims: Any
    who: str
    trial: int
    used: dict[str, Artifact] = field(default_factory=dict, compare=False)
    """What was asked for, by `<name>-<digest>`."""

    def find(self, name: str, identity: Mapping[str, Any]) -> Artifact | None:
        artifact = super().find(name, identity)
        if artifact:
            self.used[f"{name}-{digest(identity)}"] = artifact
        return artifact

    def make(self, name: str, identity: Mapping[str, Any], build: Callable[[Draft], Built]) -> Artifact:
        """The artifact of that identity: built here, or by another trial that is waited for.

        An InputError of its build is that of all trials that need it: none of them builds it again in this run.
        """
        place = f"{name}-{digest(identity)}"
        if found := self.find(name, identity):
            return found
        try:
            mine = ray.get(self.claims.claim.remote(place, self.who, self.trial))
        except ray.exceptions.RayTaskError as error:
            raise find_input_error(error) or error from error
        if not mine:
            return super().make(name, identity, build)  # finds it
        done, why = False, ""
        try:
            made = super().make(name, identity, build)
            done = True
            return made
        except InputError as error:
            why = str(error)
            raise
        finally:
            ray.get(self.claims.release.remote(place, done, why))
