"""DUPLICATES and COPIES of a corpus → groups: each has a sample that is kept, and all its copies.

A byte copy of a sample that is itself a near-duplicate of another is in the group of the latter.
"""

from dataclasses import dataclass

import numpy as np

from raylabel.compute.tasks import run_tasks
from raylabel.compute.watchdog import heartbeat
from raylabel.schema import COPIES
from raylabel.store.artifact import Artifact

GROUPED = 80  # bytes of a copy in the task that counts


@dataclass(frozen=True)
class Group:
    """A sample that is kept, and its copies."""

    kept: int
    size: int
    """Samples, with the one that is kept."""
    copies: tuple[int, ...]
    """The smallest keys of its copies, ascending."""


@dataclass(frozen=True)
class Groups:
    """The groups of a corpus."""

    count: int
    largest: tuple[Group, ...]
    """Largest first."""
    nearest: tuple[tuple[int, int, float], ...]
    """(copy, the sample that is kept, similarity) of the near-duplicates that are least similar, ascending."""


def find_groups(duplicates: Artifact, copies: Artifact | None, groups: int, members: int, pairs: int) -> Groups:
    """Counts the groups, in a task that holds all COPIES, as the one that has written them does. It returns at most so
    many groups, so many copies of each, and so many near-duplicates. `copies` None: near-duplicates are not copies."""
    rows = [file.rows for one in (duplicates, copies) if one for file in one.files(f"{one.name}-")]
    (found,) = run_tasks(_find, [(duplicates, copies, groups, members, pairs)], memory=GROUPED * sum(rows))
    return found


def _find(duplicates: Artifact, copies: Artifact | None, groups: int, members: int, pairs: int) -> Groups:
    near = copies.table("copies-", COPIES) if copies else COPIES.empty_table()
    key, original, similarity = (near.column(name).to_numpy() for name in COPIES.names)

    def kept(of: np.ndarray) -> np.ndarray:
        """The samples that are kept in the place of others."""
        if not len(key):
            return of
        at = np.minimum(np.searchsorted(key, of), len(key) - 1)
        return np.where(key[at] == of, original[at], of)

    # All copies of a sample with its bytes are in one file, so what is counted of it is at most one pair.
    counts = [np.unique(original, return_counts=True)]
    files = [file for file in duplicates.files("duplicates-") if file.rows]
    for file in files:
        heartbeat()
        with duplicates.opened(file) as opened:
            of, count = np.unique(opened.read(["original"]).column(0).to_numpy(), return_counts=True)
        counts.append((kept(of), count))
    of, count = (np.concatenate(column) for column in zip(*counts, strict=True))
    roots, at = np.unique(of, return_inverse=True)
    sizes = np.zeros(len(roots), np.int64)
    np.add.at(sizes, at, count)
    first = np.lexsort((roots, -sizes))[:groups]
    shown = {int(roots[i]): key[original == roots[i]][:members] for i in first.tolist()}
    for file in files:
        heartbeat()
        with duplicates.opened(file) as opened:
            table = opened.read()
        mine, of = table.column("key").to_numpy(), kept(table.column("original").to_numpy())
        for root in shown:
            shown[root] = np.sort(np.concatenate([shown[root], mine[of == root]]))[:members]
    least = np.lexsort((key, similarity))[:pairs]
    nearest = zip(*(column[least].tolist() for column in (key, original, similarity)), strict=True)
    largest = [
        Group(root, int(size) + 1, tuple(some.tolist()))
        for (root, some), size in zip(shown.items(), sizes[first], strict=True)
    ]
    return Groups(len(roots), tuple(largest), tuple(nearest))
