"""Deletes from a root what no run needs: first a plan, which a user can read, then the deletion.

A run that is dropped keeps its record, marked as dropped, until all is deleted that only it needed. So deleting that
was interrupted is continued by the next one. A folder is deleted after all that refer to it, and its manifest first. So
at any time each complete artifact has all to which it refers, and a folder that is half deleted is begun work of which
nothing is taken for committed.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from raylabel.errors import InputError
from raylabel.inventory.contents import THREADS, Contents
from raylabel.inventory.needs import Needs, Run
from raylabel.store.artifact import MANIFEST, RECIPE
from raylabel.store.files import delete_file, delete_folder, filesystem, list_files
from raylabel.store.uses import Record, delete_record, write_record
from raylabel.text import listed

UNRECORDED = "unrecorded"  # the name of the record of folders that are deleted and were in none


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """A folder or file that is to be deleted."""

    name: str
    bytes: int
    why: str
    """Why no run needs it."""


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """What is to be deleted from a root."""

    drops: tuple[Run, ...]
    """Runs that the user drops."""
    folders: tuple[Deletion, ...]
    """In the order in which they are deleted."""
    left: tuple[Deletion, ...]
    """What killed processes left."""
    shared: frozenset[str]
    """Folders of the dropped runs that are kept."""
    unrecorded: frozenset[str]
    """Folders that are kept because it is not known who needs them."""
    groups: tuple[tuple[str, ...], ...]
    """The folders in groups that are deleted one after the other."""
    after: Contents
    """The root with the runs marked as dropped, and with the folders that are still to be deleted."""

    @property
    def bytes(self) -> int:
        return sum(one.bytes for one in (*self.folders, *self.left))


def plan_cleaning(contents: Contents, drop: Sequence[str] = (), unrecorded: bool = False) -> Cleaning:
    """What no run needs after the runs with the names `drop` are dropped. With `unrecorded`, also folders that are in
    no record and that no run is known to need. InputError if there is no such run."""
    before = Needs(contents)
    known = {run.name: run for run in before.runs}
    if unknown := [name for name in drop if name.rstrip("/") not in known]:
        raise InputError(_no_run(unknown[0], contents, known))
    drops = tuple(known[name] for name in dict.fromkeys(name.rstrip("/") for name in drop))
    records = dict(contents.records)
    for run in drops:
        for name in {*run.records, run.name}:
            own = records.get(name) or Record(run=run.name, command="", time="", uses=())
            made = contents.folders[run.name].built if run.name in contents.folders else frozenset[str]()
            if not run.records:  # of an earlier version, and it is dropped by its name
                made = run.lists
            uses, made = run.lists.union(own.uses), made.union(own.made)
            records[name] = replace(own, dropped=True, uses=tuple(sorted(uses)), made=tuple(sorted(made)))
    after = Needs(replace(contents, records=records))
    loose = after.unrecorded
    kept = after.needed if unrecorded else after.needed | after.closure(loose)
    doomed = {name for name, folder in contents.folders.items() if folder.owned} - kept
    # What has an owned folder among those to which it refers, and is not of raylabel, keeps that.
    doomed -= after.closure(name for name in contents.folders if name not in doomed)
    if unrecorded and (some := doomed & loose):
        names = tuple(sorted(some))
        records[UNRECORDED] = Record(run="", command="", time="", uses=names, made=names, dropped=True)
    groups = after.order(doomed)
    deletions = {name: _reason(name, drops, contents, loose) for name in doomed}
    return Cleaning(
        drops=drops,
        folders=tuple(
            Deletion(name=name, bytes=contents.folders[name].bytes, why=deletions[name])
            for group in groups
            for name in group
        ),
        left=tuple(
            Deletion(name=name, bytes=size, why="left by a process that was killed")
            for name, size in contents.left.items()
            if not any(name.startswith(f"{one}/") for one in doomed)
        ),
        shared=frozenset(name for run in drops for name in run.lists) - doomed,
        unrecorded=frozenset() if unrecorded else loose,
        groups=tuple(map(tuple, groups)),
        after=replace(contents, records=records),
    )


def clean(root: str, cleaning: Cleaning) -> None:
    """Deletes it. The caller holds the root lock since before the root was read."""
    for name, record in cleaning.after.records.items():
        if record.dropped:
            write_record(root, name, record)
    with ThreadPoolExecutor(THREADS) as pool:
        for group in cleaning.groups:
            list(pool.map(lambda name: delete_artifact(f"{root}/{name}"), group))
        list(pool.map(lambda one: _delete(f"{root}/{one.name}"), cleaning.left))
    exist = cleaning.after.folders.keys() - {one.name for one in cleaning.folders}
    for name, record in cleaning.after.records.items():
        if not record.dropped:
            continue
        if some := exist.intersection(record.made):  # others need them
            left = tuple(sorted(some))
            write_record(root, name, replace(record, uses=left, made=left, superseded=()))
        else:
            delete_record(root, name)


def delete_artifact(uri: str) -> None:
    """Deletes a folder of the root. If it is interrupted, the folder is begun work, from which a run that makes the
    same artifact resumes: the files that say which others are complete are deleted first."""
    delete_file(f"{uri}/{MANIFEST}")
    delete_folder(f"{uri}/parts")  # thousands of files, in few requests
    # Of checkpoints, and of the state of Ray Tune.
    first = [name for name in list_files(uri) if name.endswith((".json", ".pkl")) and name != RECIPE]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda name: delete_file(f"{uri}/{name}"), first))
    delete_folder(uri)


def _delete(uri: str) -> None:
    fs, path = filesystem(uri)
    if fs.get_file_info(path).is_file:
        delete_file(uri)
    else:
        delete_folder(uri)


def _reason(name: str, drops: Sequence[Run], contents: Contents, loose: frozenset[str]) -> str:
    if users := [run.name for run in drops if name in run.lists]:
        return f"only needed by {users[0]}" if len(users) == 1 else "only needed by the dropped runs"
    if name in loose:
        return "in no record, and no run is known to need it"
    for run, record in contents.records.items():
        if record.dropped and name in record.mentioned:
            return f"only needed by {run}, which was dropped"
    for run, record in contents.records.items():
        if name in record.superseded:
            return f"an earlier command of {run} used it"
    return "no run needs it"


def _no_run(name: str, contents: Contents, known: dict[str, Run]) -> str:
    if not known:
        return f"there is no run '{name}': the root has none"
    users = [run.name for run in known.values() if name in run.needs]
    if users:
        return f"'{name}' is no run, and {listed(users)} need{'s' * (len(users) == 1)} it: drop the runs that need it"
    return f"there is no run '{name}': give one of {listed(sorted(known))}, as in `raylabel list`"
