"""The artifacts of a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from raylabel.store.artifact import Artifact
from raylabel.training.examples import media_of

if TYPE_CHECKING:
    from raylabel.pipelines.semi_supervised import Run


def artifacts_of(run: Run, stages: Iterable[str]) -> dict[str, tuple[Artifact, ...]]:
    """Stage → its artifacts, in order, of a run that is built. Each artifact is in one stage."""
    found: dict[str, tuple[Artifact, ...]] = {}
    known: set[str] = set()
    for stage in stages:
        result = run.__dict__.get(stage)
        some = result.values() if isinstance(result, dict) else getattr(result, "artifacts", [result])
        made = [a for a in some if isinstance(a, Artifact)]
        media = [media_of(a) for a in made if a.name.startswith("examples-")]
        new = tuple(a for a in dict.fromkeys([*media, *made]) if a.uri not in known)
        known.update(a.uri for a in new)
        if new:
            found[stage] = new
    return found
