"""A root → its folders: what each is, its bytes, and to which others it refers.

A folder refers to others by their digests: those in the identity of an artifact and in its info, in its URIs too, and
those in the files of a sweep. All that looks like a digest counts, so that no kind of reference has to be known here.
"""

import json
import re
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import pyarrow.fs as pafs

from raylabel.store.artifact import MANIFEST, RECIPE, digest
from raylabel.store.files import filesystem, is_local, read_file, reading, unreadable
from raylabel.store.names import LEDGER, RESULTS, SUMMARY, SWEEP_SUMMARY, TRACKING
from raylabel.store.uses import FOLDER, Record, read_records
from raylabel.text import points

THREADS = 32  # that read small files, which is mostly waiting

NAME = re.compile(r"(?P<name>[^/]+)-(?P<digest>[0-9a-f]{12})")
DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{12}(?![0-9a-f])")
UUID = r"[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}"  # as uuid.uuid4 makes them
PILOT, PROBE = re.compile(rf"pilot-{UUID}|\.workers-{UUID}"), re.compile(rf"\.probe-{UUID}")
TEMPORARY = re.compile(rf".+\.{UUID}\.tmp")
OWN = {"drivers", FOLDER, TRACKING}
"""Folders of raylabel that are no results."""
OLD = 3600  # seconds after which a probe is one of a killed process: a run writes one before it has the root lock


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder of the root that may be an artifact, complete or begun, or a sweep."""

    name: str
    """Of the folder: `<kind>-<digest>`."""
    complete: bool
    """Whether it is an artifact with a manifest, or a sweep with results."""
    bytes: int
    owned: bool = True
    """Whether raylabel made it: its recipe.json has the digest of the folder's name. No other folder is deleted."""
    sweep: bool = False
    time: str = ""
    """When it was completed, if it is a run or a sweep, as an ISO date and time."""
    gain: str = ""
    """Of a finished run, in points, or 'none' if it is not measurable; empty otherwise."""
    known_as: frozenset[str] = frozenset()
    """Its digest, and that of its content if it is SHARDS."""
    digests: frozenset[str] = frozenset()
    """What may be digests of others: in its identity and info, or in the files of a sweep."""
    built: frozenset[str] = frozenset()
    """Of a sweep: the folders that its trials began, without those that another run had begun."""
    source: frozenset[str] | None = None
    """The digests in the identity of what scored, if it is complete SCORES."""

    @property
    def kind(self) -> str:
        return self.name.rpartition("-")[0]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a root holds."""

    folders: Mapping[str, Folder]
    """By their names, sorted."""
    records: Mapping[str, Record] = field(default_factory=dict)
    """By their names: see store/uses.py."""
    left: Mapping[str, int] = field(default_factory=dict)
    """What killed processes left, relative to the root → bytes: pilots of plans, probes, temporary files."""
    others: tuple[str, ...] = ()
    """Names of files and folders that raylabel did not make."""


def read_contents(root: str) -> Contents:
    """What the root holds. It may change while it is read, if a run uses it.

    The root is listed once. Of each artifact two small files are read. What has no manifest is listed.
    """
    fs, path = filesystem(root)
    with reading(root):
        top = fs.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    records = read_records(root)
    mentioned = {name for record in records.values() for name in record.mentioned}
    names = sorted(info.base_name for info in top)
    probes = {info.base_name: info.mtime.timestamp() for info in top if PROBE.fullmatch(info.base_name) and info.mtime}
    old = sorted(name for name, written in probes.items() if time.time() - written > OLD)
    left = [name for name in names if PILOT.fullmatch(name)] + old
    possible = [name for name in names if NAME.fullmatch(name)]
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda name: _read(root, name, mentioned), possible))
        sizes = dict(zip(left, pool.map(lambda name: _size(f"{root}/{name}"), left), strict=True))
    folders = {folder.name: folder for folder in found if folder}
    others = tuple(name for name in names if name not in {*OWN, *left, *probes, *folders})
    # A complete artifact has none: they are deleted before it is.
    begun = [folder.name for folder in folders.values() if folder.owned and (folder.sweep or not folder.complete)]
    left = sizes | _temporary(root, [FOLDER, *begun])
    return Contents(folders=folders, records=records, left=left, others=others)


def refers_to(folders: Mapping[str, Folder]) -> dict[str, frozenset[str]]:
    """Folder → the folders to which it refers."""
    known: dict[str, set[str]] = {}
    for folder in folders.values():
        for one in folder.known_as:
            known.setdefault(one, set()).add(folder.name)
    return {
        folder.name: frozenset(name for one in folder.digests for name in known.get(one, ())) - {folder.name}
        for folder in folders.values()
    }


def _read(root: str, name: str, mentioned: set[str]) -> Folder | None:
    """The folder; None if it is not of raylabel, and not named by what is."""
    uri, parts = f"{root}/{name}", NAME.fullmatch(name)
    assert parts
    of, own = parts["name"], parts["digest"]
    recipe, manifest = _text(f"{uri}/{RECIPE}"), _text(f"{uri}/{MANIFEST}")
    folder = Folder(name=name, complete=False, bytes=0, known_as=frozenset({own}))
    if of.startswith("sweep-"):
        ledger, results = _text(f"{uri}/{LEDGER}"), _text(f"{uri}/{SWEEP_SUMMARY}")
        if ledger is None and not _is_recipe(recipe, of, own):
            return replace(folder, sweep=True, bytes=_size(uri)) if recipe is None and name in mentioned else None
        digests = _digests(*(text for text in (recipe, ledger, results) if text))
        when = _time(f"{uri}/{SWEEP_SUMMARY}") if results else ""
        done = results is not None
        builds = _json(f"{uri}/{LEDGER}", ledger).get("builds", []) if ledger else []
        built = frozenset(build["artifact"] for build in builds if not build.get("continued"))
        folder = replace(folder, sweep=True, complete=done, bytes=_size(uri), time=when)
        return replace(folder, digests=digests, built=built)
    if recipe is None:  # deleting it was interrupted if a record names it; otherwise the user made it
        return replace(folder, bytes=_size(uri)) if name in mentioned and manifest is None else None
    folder = replace(folder, digests=_digests(recipe))
    if not _is_recipe(recipe, of, own):
        return replace(folder, owned=False, bytes=_size(uri))
    if manifest is None:
        return replace(folder, bytes=_size(uri))
    identity, listed = json.loads(recipe)["identity"], _json(f"{uri}/{MANIFEST}", manifest)
    info = listed["info"]
    folder = replace(
        folder,
        complete=True,
        bytes=len(recipe.encode()) + len(manifest.encode()) + sum(file["bytes"] for file in listed["files"]),
        digests=_digests(recipe, json.dumps(info)),
    )
    if of.startswith("shards-"):
        return replace(folder, known_as=frozenset({own, info.get("content", own)}))
    if of in ("scores", "features"):
        return replace(folder, source=_digests(json.dumps(identity.get("source", {}))))
    if of.startswith(RESULTS) and (summary := _text(f"{uri}/{SUMMARY}")):
        gain, when = _gain(_json(f"{uri}/{SUMMARY}", summary)), _time(f"{uri}/{MANIFEST}")
        return replace(folder, gain=gain, time=when)
    return folder


def _is_recipe(text: str | None, name: str, own: str) -> bool:
    """Whether this is the recipe.json of an artifact with that name and digest."""
    try:
        recipe = json.loads(text or "")
        return recipe["name"] == name and digest(recipe["identity"]) == own
    except (ValueError, KeyError, TypeError):
        return False


def _digests(*texts: str) -> frozenset[str]:
    return frozenset(one for text in texts for one in DIGEST.findall(text))


def _gain(summary: Mapping[str, Any]) -> str:
    gain = summary.get("gain", {})
    if not {"value", "low", "high"} <= gain.keys():
        return ""  # of an earlier version
    return "none" if gain["low"] <= 0 <= gain["high"] else points(gain["value"])


def _text(uri: str) -> str | None:
    """The text of a file; None if there is none."""
    try:
        return read_file(uri).decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None


def _json(uri: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:  # what it refers to is not known
        raise unreadable(uri, error) from error


def _time(uri: str) -> str:
    fs, path = filesystem(uri)
    mtime = fs.get_file_info(path).mtime_ns
    return datetime.fromtimestamp(mtime / 1e9).isoformat(" ", "seconds") if mtime else ""


def _size(uri: str) -> int:
    """Bytes of all files in a folder, or of a file."""
    fs, path = filesystem(uri)
    with reading(uri):
        info = fs.get_file_info(path)
        if info.is_file:
            return info.size
        found = fs.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
    return sum(info.size for info in found if info.is_file)


def _temporary(root: str, folders: Iterable[str]) -> dict[str, int]:
    """Temporary files of killed writes in these folders → bytes. In an object store there are none."""
    if not is_local(root):
        return {}
    fs, path = filesystem(root)
    found = {}
    for folder in folders:
        with reading(f"{root}/{folder}"):
            for info in fs.get_file_info(pafs.FileSelector(f"{path}/{folder}", recursive=True, allow_not_found=True)):
                if info.is_file and TEMPORARY.fullmatch(info.base_name):
                    found[info.path.removeprefix(f"{path}/")] = info.size
    return found
