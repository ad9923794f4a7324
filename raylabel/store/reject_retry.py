"""Rejects are tried again where somebody asks for it: the result is another artifact, and later runs use the newest.

Storage that gave no bytes may give them now, and what killed a decoder may be read by its next version.
"""

from collections.abc import Callable, Mapping
from typing import Any

from raylabel.store.artifact import Artifact, Built, Draft, Root

TRY = "try"  # in an identity: how often rejects were tried again; absent as long as they were not


class NothingGainedError(Exception):
    """Raised by a build that tried rejects again and was given none of them; it has discarded its draft."""


def make(
    root: Root,
    name: str,
    identity: Mapping[str, Any],
    build: Callable[[Draft, Artifact | None], Built],
    retry_rejects: bool,
) -> Artifact:
    """`root.make` of an artifact whose info counts what is `rejected`, its newest try.

    With `retry_rejects`, and where the newest has rejects, `build` gets it as its second argument, to try these again.
    """
    number = 0
    while newer := root.find(name, _tried(identity, number + 1)):
        number = newer.identity[TRY]
    newest = root.find(name, _tried(identity, number))
    if newest is None:
        return root.make(name, _tried(identity, number), lambda draft: build(draft, None))
    if not (retry_rejects and newest.info["rejected"]):
        return newest
    try:
        return root.make(name, _tried(identity, number + 1), lambda draft: build(draft, newest))
    except NothingGainedError:
        return newest


def _tried(identity: Mapping[str, Any], number: int) -> dict[str, Any]:
    return {**identity, TRY: number} if number else dict(identity)
