"""What a root holds → its runs, which folders each of them needs, and which no run needs.

A run needs what its record lists, or, without a record, what its results list, and all to which these refer. It is a
finished run, a sweep, or an unfinished run. An unfinished run also needs SCORES that it could reuse for a corpus that
has grown (inference/reuse.py).
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from raylabel.inventory.contents import Contents, Folder, refers_to
from raylabel.store.names import DEDUPLICATION, PREDICTION, RESULTS

# Artifacts to which nothing refers, and which a run finds again by those to which they refer. The record of a run lists
# them; the results of a run of an earlier version do not.
ADDED = ("samples-", "digests-", "pairs-")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run, a sweep, a prediction or a deduplication of which a root holds something."""

    name: str
    """The folder of its results, or of the sweep; where there is none, the name of its record."""
    state: str
    """finished or unfinished: stopped, running, or only planned."""
    time: str
    """When it was finished, or last began an artifact; an ISO date and time."""
    gain: str
    command: str
    """The command line that continues it; empty if it is not known."""
    records: tuple[str, ...]
    """The names of its records."""
    lists: frozenset[str]
    """The folders that it lists, and all to which they refer."""
    needs: frozenset[str]
    """The folders that it needs: also SCORES that it could reuse."""


class Needs:
    """The runs of a root, and what they need."""

    def __init__(self, contents: Contents):
        self.contents = contents
        self._folders, self._refers = contents.folders, refers_to(contents.folders)

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The runs that were not dropped, oldest first."""
        every = self.contents.records
        records = {name: record for name, record in every.items() if not record.dropped}
        dropped = {name for name, record in every.items() if record.dropped and name in record.mentioned}
        sweeps = {name for name, folder in self._folders.items() if folder.sweep and name not in dropped}
        found, linked = list[Run](), set[str]()
        for name in sorted(sweeps):
            own = [one for one, record in records.items() if one == name or name in record.uses and not record.finished]
            linked.update(own)
            found.append(self._run(name, own, self._folders[name].complete))
        for name in sorted(self._results() - dropped):
            linked.add(name)
            found.append(self._run(name, [name] if name in records else [], True))
        # Of a finished run of these the user has deleted the results, and may run it again.
        for name in sorted(records.keys() - linked):
            elsewhere = name.startswith((f"{PREDICTION}-", f"{DEDUPLICATION}-"))
            found.append(self._run(name, [name], elsewhere and records[name].finished))
        return tuple(sorted(found, key=lambda run: (run.time, run.name)))

    @cached_property
    def needed(self) -> frozenset[str]:
        """The folders that a run needs."""
        return frozenset().union(*(run.needs for run in self.runs))

    @cached_property
    def unrecorded(self) -> frozenset[str]:
        """Folders that no run is known to need, and that no run is recorded to have made: an earlier version of
        raylabel made them, maybe for a run that was stopped, or a program without a driver."""
        made = set[str]().union(*(record.made for record in self.contents.records.values()))
        return frozenset(self._folders.keys() - self.needed - made)

    def closure(self, folders: Iterable[str]) -> set[str]:
        """These folders, if they exist, and all to which they refer, directly or by others."""
        found, waiting = set[str](), [name for name in folders if name in self._folders]
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += self._refers[name]
        return found

    def made_of(self, name: str) -> list[str]:
        """The folders to which it refers directly."""
        return sorted(self._refers[name])

    def order(self, some: Collection[str]) -> list[list[str]]:
        """The folders in groups, so that each comes after all that refer to it. Thus none is left without what it
        refers to, whenever deleting them in this order ends."""
        left, groups = set(some), list[list[str]]()
        while left:
            referred = {other for name in left for other in self._refers[name]}
            first = sorted(left - referred) or self._first_of_cycles(left)
            groups.append(first)
            left -= set(first)
        return groups

    def _first_of_cycles(self, left: set[str]) -> list[str]:
        """Folders that refer to each other, and to which no others refer: never of raylabel, as digests are hashes, but
        all that looks like a digest counts."""
        to = {name: self.closure([name]) for name in left}
        return sorted(name for name in left if all(other in to[name] for other in left if name in to[other]))

    def _results(self) -> set[str]:
        """The artifacts of finished runs, without those of sweeps, which belong to their sweep."""
        of_sweeps = {other for name, folder in self._folders.items() if folder.sweep for other in self._refers[name]}
        for name, record in self.contents.records.items():
            if name.startswith("sweep-"):
                of_sweeps |= record.mentioned
        complete = [name for name, folder in self._folders.items() if folder.complete]
        done = {name for name in complete if name.startswith(RESULTS)}
        return done - of_sweeps

    def _run(self, name: str, records: list[str], finished: bool) -> Run:
        own = [self.contents.records[one] for one in records]
        folder = self._folders.get(name)
        lists = self.closure({name, *(one for record in own for one in record.uses)})
        lists |= self._added(lists)
        needs = lists if finished else lists | self.closure(self._reusable(lists))
        return Run(
            name=name,
            state="finished" if finished else "unfinished",
            time=(folder.time if folder else "") or max((record.time for record in own), default=""),
            gain=folder.gain if folder else "",
            command=max(own, key=lambda record: record.time).command if own else "",
            records=tuple(sorted(records)),
            lists=frozenset(lists),
            needs=frozenset(needs),
        )

    def _added(self, lists: set[str]) -> set[str]:
        return {name for name, others in self._refers.items() if name.startswith(ADDED) and others and others <= lists}

    def _reusable(self, lists: set[str]) -> set[str]:
        """SCORES whose network is among these folders."""
        known = {one for name in lists for one in self._folders[name].known_as}
        return {
            name
            for name, folder in self._folders.items()
            if folder.source is not None and folder.source & self._known <= known
        }

    @cached_property
    def _known(self) -> set[str]:
        return {one for folder in self._folders.values() for one in folder.known_as}


def total(folders: Mapping[str, Folder], names: Iterable[str]) -> int:
    """The bytes of these folders together."""
    return sum(folders[name].bytes for name in names)
