"""What each run needs of a root, recorded in the root: the folders that it found, made or began.

A finished run lists its artifacts. One that was stopped between two artifacts would leave no trace of what it needs, so
its driver writes a record, `uses/<run>.json`, before it begins an artifact. A run that finds all its artifacts writes
nothing.

The record of an unfinished run only grows. It is named after the recipe, and the same command continues it. Once the
run is finished it is named after the folder of the results, if they are in the root, and it has what this command used.
What only earlier commands used, for example before the corpus grew, is superseded. A run that a user drops keeps its
record until all that only it needed is deleted. So a folder that no record has among those that its run made is known
to be of another origin: an earlier version of raylabel, or a program without a driver.
"""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Self

from raylabel.errors import InputError
from raylabel.store.artifact import RECIPE, Artifact, Root, digest
from raylabel.store.files import delete_file, list_files, read_file, write_file
from raylabel.text import slug

FOLDER = "uses"
THREADS = 32  # that read small files, which is mostly waiting


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a run needs of its root. Folders are named relative to the root."""

    run: str
    """The name of its recipe."""
    command: str
    """The command line that continues it; empty if it is not known."""
    time: str
    """When the record was written, by the clock of the driver's machine."""
    uses: tuple[str, ...]
    """Folders that it found, made or began; sorted."""
    made: tuple[str, ...] = ()
    """Those among these and `superseded` that it began itself; sorted."""
    superseded: tuple[str, ...] = ()
    """Folders that an earlier command of the run used, and the one that finished it did not; sorted."""
    finished: bool = False
    dropped: bool = False
    """The user has dropped the run: what no other run needs is to be deleted."""

    @property
    def mentioned(self) -> set[str]:
        """All folders that the record names."""
        return {*self.uses, *self.superseded, *self.made}


def read_records(root: str) -> dict[str, Record]:
    """The records of a root, by their names. InputError that names a file that is not a record."""
    names = [name for name in list_files(f"{root}/{FOLDER}") if name.endswith(".json")]
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda name: read_record(root, name.removesuffix(".json")), names)
        return {name.removesuffix(".json"): record for name, record in zip(names, found, strict=True) if record}


def read_record(root: str, name: str) -> Record | None:
    """The record of that name; None if there is none."""
    uri = _uri(root, name)
    try:
        found: Any = json.loads(read_file(uri))
        return Record(**{**found, **{name: tuple(found[name]) for name in ("uses", "made", "superseded")}})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(
            f"'{uri}' does not say what a run needs: restore it, or run the command of that run again after deleting it"
        ) from error


def write_record(root: str, name: str, record: Record) -> None:
    """Writes a record, with the current time."""
    now = datetime.now().astimezone().isoformat(" ", "seconds")
    write_file(_uri(root, name), json.dumps(asdict(replace(record, time=now)), indent=1, ensure_ascii=False).encode())


def delete_record(root: str, name: str) -> None:
    delete_file(_uri(root, name))


def _uri(root: str, name: str) -> str:
    return f"{root}/{FOLDER}/{name}.json"


class Uses:
    """The record of the run of this driver, which holds the root lock."""

    def __init__(self, root: str, name: str, run: str, command: str):
        """`name`: of the record while the run is unfinished."""
        self._root, self._name, self._run, self._command = root, name, run, command
        self._used, self._made = set[str](), set[str]()
        self._record = read_record(root, name)
        before = self._record or self._new(())
        if before.dropped:  # the user runs it again
            before = self._new((), superseded=before.mentioned)
        self._before = before
        self._made.update(self._record.made if self._record else ())

    def add(self, folder: str) -> None:
        """Notes that the run uses a folder. It is written before the next artifact is begun."""
        self._used.add(folder)

    def begin(self, folder: str, continued: bool) -> None:
        """Writes the record with a folder that is about to be begun, or continued if a run, maybe another, has begun
        it."""
        self._used.add(folder)
        if not continued:
            self._made.add(folder)
        uses, old = self._used.union(self._before.uses), self._record
        if not old or old.dropped or not (uses.issubset(old.uses) and self._made.issubset(old.made)):
            self._record = self._new(uses, superseded=self._before.mentioned - uses)
            write_record(self._root, self._name, self._record)

    def finish(self, folder: str = "") -> None:
        """Names the record after the folder of the results; empty: they are not in the root, and it keeps its name.
        Writes nothing if it has that name and lacks nothing."""
        name = folder or self._name
        self._used.update({folder} - {""})
        known = read_record(self._root, name)
        uses = self._used.union(known.uses if folder and known and not known.dropped else ())
        self._made.update(known.made if known else ())
        others = self._before.mentioned.union(known.mentioned if known else ()) - uses
        record = self._new(uses, superseded=others, finished=True)
        if known is None or replace(record, command=known.command, time=known.time) != known:
            write_record(self._root, name, record)
        if self._record is not None and name != self._name:
            delete_record(self._root, self._name)

    def _new(self, uses: Any, superseded: Any = (), finished: bool = False) -> Record:
        return Record(
            run=self._run,
            command=self._command,
            time="",
            uses=tuple(sorted(uses)),
            made=tuple(sorted(self._made)),
            superseded=tuple(sorted(superseded)),
            finished=finished,
        )


@dataclass(frozen=True)
class RecordedRoot(Root):
    """A root in which the driver of a run records what the run uses."""

    uses: Uses

    @classmethod
    def of(cls, root: Root, kind: str, run: str, identity: Mapping[str, Any], command: str) -> Self:
        """`kind` of the command, `run` and `identity` of what it is asked to do name the record: the same command
        continues it."""
        return cls(root.uri, Uses(root.uri, f"{kind}-{slug(run)}-{digest(identity)}", run, command))

    def find(self, name: str, identity: Mapping[str, Any]) -> Artifact | None:
        artifact = super().find(name, identity)
        if artifact:
            self.uses.add(f"{name}-{artifact.digest}")
        return artifact

    def begins(self, folder: str) -> None:
        self.uses.begin(folder, self.has(f"{folder}/{RECIPE}"))
