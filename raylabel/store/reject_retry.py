"""Retries of rejects, where `retry_rejects` asks for it. A retry is a new artifact, and later runs use the newest one.

Storage that failed may work again, and a new version of a decoder may read what killed the old one.
"""

from collections.abc import Callable, Mapping
from typing import Any

from raylabel.store.artifact import Artifact, Built, Draft, Root

TRY = "try"  # in an identity: how many times rejects were retried; absent if they were not


class NothingGainedError(Exception):
    """Raised by a build that retried rejects and could read none of them; it has discarded its draft."""


def make(
    root: Root,
    name: str,
    identity: Mapping[str, Any],
    build: Callable[[Draft, Artifact | None], Built],
    retry_rejects: bool,
) -> Artifact:
    """The newest try of an artifact whose info has a count `rejected`; `root.make` if there is none.

    With `retry_rejects`, if the newest has rejects, `build` gets it as second argument and retries its rejects.
    """
    found = newest(root, name, identity)
    if found is None:
        return root.make(name, identity, lambda draft: build(draft, None))
    if not (retry_rejects and found.info["rejected"]):
        return found
    try:
        number = found.identity.get(TRY, 0)
        return root.make(name, _tried(identity, number + 1), lambda draft: build(draft, found))
    except NothingGainedError:
        return found


def newest(root: Root, name: str, identity: Mapping[str, Any]) -> Artifact | None:
    """The newest try of an artifact that exists."""
    number, found = 0, root.find(name, identity)
    while newer := root.find(name, _tried(identity, number + 1)):
        number, found = number + 1, newer
    return found


def _tried(identity: Mapping[str, Any], number: int) -> dict[str, Any]:
    return {**identity, TRY: number} if number else dict(identity)
