"""A trained network in a root, and what its use needs: its view, the names of its classes, and the runs that it is of.

A network's folder has its weights and its architecture. Its view at evaluation and the names of its classes are those
of the finished runs that list it.
"""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow.fs as pafs

from raylabel.corpus import Corpus
from raylabel.errors import InputError
from raylabel.evaluate.results import TEACHER
from raylabel.labels.teacher import Label
from raylabel.media.view import Clip, View
from raylabel.models.trained import WEIGHTS, open_network
from raylabel.store.artifact import MANIFEST, Artifact, Root
from raylabel.store.files import filesystem, read_file, reading
from raylabel.store.names import EXPERIMENTS, SUMMARY, SWEEP_SUMMARY
from raylabel.text import listed

THREADS = 32
SOUP = "soup"


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """A trained network with all that its use needs."""

    root: Root
    network: Artifact
    view: View
    """How a sample becomes its input, as in its evaluation."""
    label: Label
    """How it scored the test set: batch and precision."""
    classes: tuple[str, ...]
    """The names of its classes, in the order of its logits."""
    run: Mapping[str, Any]
    """summary.json of the run that these are from."""
    sweep: Mapping[str, Any] | None = None
    """sweep.json of the sweep whose soup it is. `run` is then that of the sweep's best trial."""


def find_network(uri: str, run: str = "") -> Shipped:
    """The network in the folder `uri`, for example 'runs/student-0a1b2c3d4e5f', as the finished run in the folder
    `run` uses it. `run` may be left out if all runs of that root which use the network agree on its view and classes.

    InputError if the folder is no trained network, or if no finished run uses it.
    """
    network = open_shipped(uri)
    root = Root(network.uri.rpartition("/")[0])
    sweeps = _sweeps(root, network)
    found = {name: one for name, one in summaries(root).items() if name in sweeps or _uses(one, network)}
    if run:
        name = run.rstrip("/").rpartition("/")[2]
        if name not in found:
            raise InputError(f"run '{run}' does not use {network.uri}: give one of {listed(sorted(found))}")
        found = {name: found[name]}
    if not found:
        raise InputError(
            f"no finished run in '{root.uri}' uses {network.uri}, so its view and its classes are not known: complete "
            "its run first, by the same command"
        )
    shipped = {name: _shipped(root, network, one, sweeps.get(name)) for name, one in found.items()}
    first, *others = shipped.values()
    if any((other.view, other.label, other.classes) != (first.view, first.label, first.classes) for other in others):
        raise InputError(
            f"the runs {listed(sorted(shipped))} use {network.uri} with different views, batches, precisions or "
            "classes: give one of them as --run"
        )
    return first


def find_view(uri: str) -> View:
    """The view at evaluation of the network in this folder, as the finished runs and experiments of its root use it.
    InputError as of `find_network`."""
    network = open_shipped(uri)
    root = Root(network.uri.rpartition("/")[0])
    found = dict[str, View]()
    for one in (one for kind in EXPERIMENTS for one in summaries(root, kind).values()):
        if _uses(one, network):
            settings = one["settings"]
            own = view_of(settings["clusters"]["view"] if "clusters" in settings else settings["view"])
            found[str(own.evaluation_identity)] = own
    if len(found) > 1:
        raise InputError(f"experiments in '{root.uri}' use {network.uri} with different views: give another network")
    return next(iter(found.values())) if found else find_network(uri).view


def corpus_of(settings: Mapping[str, Any]) -> Corpus:
    """The corpus whose `identity_of` is `settings`."""
    return Corpus(**_fields(settings))


def view_of(settings: Mapping[str, Any]) -> View:
    """The view whose `identity_of` is `settings`."""
    values = _fields(settings)
    if clip := settings.get("clip"):
        values["clip"] = Clip(**clip)
    return View(**values)


def _fields(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config. JSON has lists where they are tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def open_shipped(uri: str) -> Artifact:
    """The trained network in this folder. InputError if it is none."""
    if found := open_network(uri):
        return found
    raise InputError(
        f"'{uri}' is not a complete trained network: give a folder such as 'runs/student-0a1b2c3d4e5f', which has "
        f"{MANIFEST} and {WEIGHTS}"
    )


def summaries(root: Root, kind: str = "run-") -> dict[str, dict[str, Any]]:
    """Folder → summary.json of each finished run in the root, or of another result whose name begins so."""

    def read(name: str) -> dict[str, Any] | None:
        run = Artifact(f"{root.uri}/{name}", *name.rsplit("-", 1))
        return json.loads(run.read(SUMMARY)) if run.manifest else None

    return _read_all(root, kind, read)


def _sweeps(root: Root, network: Artifact) -> dict[str, dict[str, Any]]:
    """Folder of the run of the best trial → sweep.json, of each sweep whose soup is the network."""
    if network.name != SOUP:
        return {}
    folder = network.uri.rpartition("/")[2]
    found = _read_all(root, "sweep-", lambda name: json.loads(read_file(f"{root.uri}/{name}/{SWEEP_SUMMARY}"))).values()
    mine = [one for one in found if (one.get("soup") or {}).get("artifact") == folder]
    return {one["run"].rpartition("/")[2]: one for one in mine}


def _read_all(root: Root, prefix: str, read: Callable[[str], dict[str, Any] | None]) -> dict[str, dict[str, Any]]:
    """Folder → what `read` returns, of the folders in the root that begin with `prefix` and are complete."""
    fs, path = filesystem(root.uri)
    with reading(root.uri):
        names = [info.base_name for info in fs.get_file_info(pafs.FileSelector(path))]
    wanted = sorted(name for name in names if name.startswith(prefix))

    def read_complete(name: str) -> dict[str, Any] | None:
        try:
            return read(name)
        except FileNotFoundError:  # not finished
            return None

    with ThreadPoolExecutor(THREADS) as pool:
        found = dict(zip(wanted, pool.map(read_complete, wanted), strict=True))
    return {name: one for name, one in found.items() if one}


def _uses(summary: Mapping[str, Any], network: Artifact) -> bool:
    return network.uri.rpartition("/")[2] in summary["artifacts"].values()


def _shipped(root: Root, network: Artifact, run: Mapping[str, Any], sweep: Mapping[str, Any] | None = None) -> Shipped:
    settings = run["settings"]
    own = settings["teacher"]["view"] if network.name == TEACHER else None
    label = Label(**{name: settings["label"][name] for name in ("batch", "p", "precision")})
    view, classes = view_of(own or settings["view"]), tuple(run["classes"])
    return Shipped(root=root, network=network, view=view, label=label, classes=classes, run=run, sweep=sweep)
