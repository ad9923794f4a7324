"""Sends what a run shows to TensorBoard's files, and to MLflow and W&B where the recipe asks for it.

Nothing here ends a run or delays it: each backend has a thread of its own, gets the newest snapshot every few seconds,
and adds what it lacks. What cannot be sent is a warning, is tried again, and is sent by the same command later.
"""

import shlex
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from typing import Protocol

from raylabel.compute.progress import say
from raylabel.evaluate.results import Metric
from raylabel.pipelines.inputs import Prepared
from raylabel.recipes.recipe import Recipe
from raylabel.store.artifact import Artifact, Root, digest, identity_of
from raylabel.store.names import TRACKING
from raylabel.text import one_line, slug
from raylabel.tracking.snapshot import Snapshot
from raylabel.tracking.tensorboard import TensorBoard
from raylabel.training.watch import Points

EVERY = 5.0  # seconds between two snapshots
RETRY = 60.0  # seconds after a failure
LAST = {"finished": 60.0, "stopped": 5.0}  # seconds that the last snapshot may take; a machine may be about to go


class Backend(Protocol):
    """Where a run is tracked. It keeps what it needs in the folder of the run, so that a later process continues."""

    def send(self, snapshot: Snapshot) -> None:
        """Adds what the snapshot has and the backend does not. Raises anything if it fails; it is then called again."""
        ...


class Tracker:
    """Tracks one run. To be ended."""

    def __init__(self, first: Snapshot, backends: dict[str, Callable[[], Backend]]):
        """`backends`: what makes each of them, by its name for the user."""
        self._snapshot, self._over = first, threading.Event()
        self._threads = [
            threading.Thread(target=self._send, args=item, name=f"track-{item[0]}", daemon=True)
            for item in backends.items()
        ]
        for thread in self._threads:
            thread.start()

    def watch(self, name: str, points: Points) -> None:
        """A `Watch`."""
        if points != self._snapshot.points.get(name):
            self._snapshot = replace(self._snapshot, points={**self._snapshot.points, name: points})

    def finish(self, metrics: list[Metric], report: Artifact) -> None:
        """The run is complete."""
        self._snapshot = replace(self._snapshot, state="finished", metrics=metrics, report=report)

    def end(self) -> None:
        """Waits until the last snapshot is sent, but not for long."""
        if self._snapshot.state != "finished":
            self._snapshot = replace(self._snapshot, state="stopped")
        self._over.set()
        latest = time.monotonic() + LAST[self._snapshot.state]
        for thread in self._threads:
            thread.join(max(0.0, latest - time.monotonic()))
            if thread.is_alive():
                say(f"warning: {thread.name.removeprefix('track-')} does not answer: what it lacks is not sent")

    def _send(self, name: str, make: Callable[[], Backend]) -> None:
        backend, sent, failed, last = None, None, False, False
        while not last:
            last = self._over.wait(RETRY if failed and backend is None else EVERY)
            if (snapshot := self._snapshot) is sent:
                continue
            try:
                backend = backend or make()
                backend.send(snapshot)
                sent = snapshot
            except Exception as error:
                if not failed or last:
                    then = "the same command sends what is missing" if last else "it is tried again"
                    say(f"warning: cannot track the run in {name} ({one_line(error)[:300]}): {then}")
                backend, failed = None, True  # its connection or its files may be in any state


def say_where(root: Root) -> None:
    say(f"curves: tensorboard --logdir {shlex.quote(f'{root.uri}/{TRACKING}')}")


@contextmanager
def tracked(root: Root, recipe: Recipe, start: Prepared) -> Iterator[Tracker]:
    """Tracks the run of a recipe while the block runs."""
    settings = identity_of(recipe)
    inputs = {name: shards.digest for name, shards in start.shards.items()}
    run = f"{slug(recipe.name)}-{digest({'settings': settings, 'inputs': inputs})}"
    folder = f"{root.uri}/{TRACKING}/{run}"
    backends: dict[str, Callable[[], Backend]] = {"TensorBoard": lambda: TensorBoard(folder)}
    for name in recipe.track:  # imported in its thread: that takes seconds
        backends[name] = lambda name=name: import_module(f"raylabel.tracking.to_{name}").open_backend(folder)
    say_where(root)
    tracker = Tracker(Snapshot(recipe=recipe.name, run=run, settings=settings), backends)
    try:
        yield tracker
    finally:
        tracker.end()
